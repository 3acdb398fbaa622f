"""Documents from a git repository: a clone of our own, and commits of it that are read without a work tree."""
