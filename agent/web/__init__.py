"""The agent's own API: HTTP over a Unix socket of its state directory, and the way of the commands to it."""
