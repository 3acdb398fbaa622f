"""The seam between what is decided and what runs it, and its two implementations: QEMU, and one in memory."""
