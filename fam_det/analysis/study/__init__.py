"""Studies: a list of runs over seeds, done in any order, compared in one table."""
