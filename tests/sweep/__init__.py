"""Agents that are killed at every line of their code, each followed by one that has to make it good.

`python -m tests.sweep` tries every line, `--sample N` so many of them.
"""
