"""A run folder: one process at a time in it, one set of params, what in it is up to date, and progress in it."""
