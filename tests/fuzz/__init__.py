"""Readers of what strangers write, driven by a fuzzer that sees which of their lines it comes to: `make fuzz`."""
