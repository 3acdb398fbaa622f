"""QEMU behind the seam: driven directly, one process a machine, every file and socket handed to it already open."""
