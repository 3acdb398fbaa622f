"""The nouns: what is wanted, what is known, what was recorded. Nothing here acts, and nothing here imports `agent`."""
