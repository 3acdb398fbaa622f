"""The verbs: look, decide, act."""
