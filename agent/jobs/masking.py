"""Hides secrets in a stream of bytes, however the stream comes in pieces. Pure.

Every byte that belongs to an occurrence of a secret is hidden, occurrences that overlap or touch as one. What was
written is never taken back: the last bytes of a piece wait while they may be the beginning of a secret.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SHORTEST = 4
"""Characters. Hiding what is shorter would hide half of a log, and tell where it stands."""
SHORTEST_LINE = 8
"""Characters of a line that is hidden by itself."""
MASK = b"***"


@dataclass(frozen=True, slots=True)
class Seam:
    """What is to be known of the bytes before a piece: `covered`, how many bytes at its start are the rest of a secret;
    `hidden`, whether the byte before it was hidden."""

    covered: int = 0
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """`text` is to be written for the first `length` bytes of the piece, and `seam` tells the rest what it follows.
    `full`: the next thing to be written did not fit."""

    text: bytes
    length: int
    seam: Seam
    full: bool = False


def with_lines(secrets: Iterable[str]) -> list[str]:
    """The secrets, and each line of those that have several: a key is printed with another end of line, or indented."""
    found = list(secrets)
    for secret in list(found):
        lines = [line.strip() for line in secret.splitlines()]
        found += [line for line in lines if len(line) >= SHORTEST_LINE]
    return found


class Masker:
    """Knows the secrets. `unmasked` counts those that are too short to be hidden."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = {secret.strip() for secret in secrets} - {""}
        self._values = sorted(
            value.encode("utf-8", "surrogateescape") for value in values if len(value) >= SHORTEST
        )
        self.unmasked = len(values) - len(self._values)
        self.reach = max((len(value) - 1 for value in self._values), default=0)
        """How many bytes before a byte can decide whether it is hidden."""

    def decided(self, data: bytes) -> int:
        """How many bytes at the start of the piece can be written whatever follows it."""
        return min((self._begun(data, value) for value in self._values), default=len(data))

    def _begun(self, data: bytes, value: bytes) -> int:
        """Where the piece ends with the beginning of a secret, and with as much of it as can be."""
        at = data.find(value[:1], max(0, len(data) - len(value) + 1))
        while at >= 0:
            if data.endswith(value[: len(data) - at]):
                return at
            at = data.find(value[:1], at + 1)
        return len(data)

    def take(
        self, data: bytes, upto: int, seam: Seam, *, skip: int = 0, room: int | None = None
    ) -> Taken:
        """The first `upto` bytes of the piece, none of them undecided, with secrets hidden. The first `skip` of them
        are looked at and not written. What is written has at most `room` bytes."""
        if upto <= skip:
            return Taken(b"", 0, seam)
        pieces: list[bytes] = []
        left = sys.maxsize if room is None else room
        at, end, hidden = skip, 0, seam.hidden and skip == 0
        for start, end in self._spans(data, upto, seam.covered):
            start = max(start, skip)
            if start >= end:
                continue
            if start - at > left:
                break
            pieces.append(data[at:start])
            left -= start - at
            hidden = hidden and start == 0
            if not hidden and left < len(MASK):
                return Taken(b"".join(pieces), start, Seam(), full=True)
            if not hidden:
                pieces.append(MASK)
                left -= len(MASK)
            at, hidden = min(end, upto), False
        if upto - at > left:
            pieces.append(data[at : at + left])
            return Taken(b"".join(pieces), at + left, Seam(), full=True)
        pieces.append(data[at:upto])
        return Taken(b"".join(pieces), upto, Seam(max(0, end - upto), end >= upto))

    def _spans(self, data: bytes, upto: int, covered: int) -> Iterator[tuple[int, int]]:
        """What is hidden, in order, as ranges that do not touch; the last may reach beyond `upto`."""
        found = [(0, covered)] if covered else []
        for value in self._values:
            at = data.find(value)
            while 0 <= at < upto:
                found.append((at, at + len(value)))
                at = data.find(value, at + 1)
        open_start, open_end = -1, -1
        for start, end in sorted(found):
            if start > open_end:
                if open_end > 0:
                    yield open_start, open_end
                open_start, open_end = start, end
            open_end = max(open_end, end)
        if open_end > 0:
            yield open_start, open_end
