"""Reading runs, comparing them, and starting many."""
