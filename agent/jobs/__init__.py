"""Runs of jobs: which may begin, how one goes from its VM to its result, and what is kept of it."""
