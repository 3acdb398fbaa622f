"""What machines use of their host: polled, kept, and shown."""
