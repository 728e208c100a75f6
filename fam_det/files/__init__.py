"""Files from elsewhere: nothing in them runs, and what is wrong with one is one line."""
