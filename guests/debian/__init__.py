"""The Debian guest: the real cloud-init."""
