"""Text from elsewhere, made harmless for a terminal."""

from __future__ import annotations

import codecs
import re

_DOUBTFUL = re.compile(r"[^ -~\n\t]+")
"""What may have to be shown as an escape: most of a log is passed over in one go."""


def harmless(text: str) -> str:
    """`text` with every control character but newline and tab shown as an escape, so that none acts on the terminal.

    That includes carriage return, which can overwrite what stands before it, the C1 controls, and the marks that turn
    the direction of writing.
    """
    return _DOUBTFUL.sub(_shown, text)


def in_line(text: str) -> str:
    """The same for what belongs on one line: newline and tab are shown too, so that no text forges a line."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def _shown(doubtful: re.Match[str]) -> str:
    found = doubtful[0]
    if found.isprintable():
        return found
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in found
    )


def span(seconds: float) -> str:
    """A stretch of time, for a glance: `0.4s`, `12s`, `3m05s`, `2h10m`, `4d06h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}".removesuffix(".0") + "s"
    whole = int(seconds)
    for large, small, length, part in (
        ("d", "h", 86400, 3600),
        ("h", "m", 3600, 60),
        ("m", "s", 60, 1),
    ):
        if whole >= length:
            return f"{whole // length}{large}{whole % length // part:02d}{small}"
    return f"{whole}s"


class Harmless:
    """The same for bytes that come in pieces, which may part a character or the two of a line's end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._return = ""

    def text(self, piece: bytes, *, final: bool = False) -> str:
        """What can be shown by now. CR LF ends a line; bytes that are no UTF-8 become U+FFFD."""
        text = self._return + self._decoder.decode(piece, final)
        self._return = "\r" if text.endswith("\r") and not final else ""
        return harmless(text.removesuffix(self._return).replace("\r\n", "\n"))

    def end(self) -> str:
        """What was kept back, because more could have come; the next piece begins anew."""
        return self.text(b"", final=True)
