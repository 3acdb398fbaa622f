"""The tiny guest: up in seconds under emulation."""
