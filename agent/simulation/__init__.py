"""Random histories of one host: documents, edits, faults and killed agents, with the promises checked throughout.

What runs is the real loop, planner, executor and ledger; only the host is in memory, and time passes when nothing is
left to do. A seed gives the same history each time, as long as Python hashes strings alike (PYTHONHASHSEED).
"""
