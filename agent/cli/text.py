"""Text from elsewhere, made harmless for a terminal."""

from __future__ import annotations


def harmless(text: str) -> str:
    """`text` with every control character but newline and tab shown as an escape, so that none acts on the terminal.

    That includes carriage return, which can overwrite what stands before it, the C1 controls, and the marks that turn
    the direction of writing.
    """
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in text
    )
