"""What tries holdfast. No agent of it touches the rules of the host that it runs on: tests of the fence around guests
have a network of their own.
"""

import os

os.environ.setdefault("HOLDFAST_LOOPBACK", "open")
