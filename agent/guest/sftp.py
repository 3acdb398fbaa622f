"""As much of SFTP, version 3, as a run needs (draft-ietf-secsh-filexfer-02), over any stream of bytes.

The other side is a guest, which may say anything: names stay bytes, for a name need not be UTF-8; an answer has a
largest size; nothing is taken that was not asked for. It blocks, so it belongs into a thread. It refuses to guess: a
side that breaks the protocol is as good as gone.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Generator
from typing import Protocol

from agent.guest.wire import Answer, permissions, text, understood
from agent.guest.wire import Attributes as Attributes
from agent.guest.wire import Broken as Broken
from state.spec.words import excerpt

CHUNK = 32 << 10
"""Bytes of one read or write: what every server takes (section 3 of the draft)."""
_AT_ONCE = 32
"""Requests under way at once: 1 MiB."""
_LONGEST_ANSWER = 1 << 20

_INIT, _VERSION, _OPEN, _CLOSE, _READ, _WRITE, _LSTAT, _FSTAT = 1, 2, 3, 4, 5, 6, 7, 8
_SETSTAT, _OPENDIR, _READDIR, _REMOVE, _MKDIR, _STAT, _RENAME = 9, 11, 12, 13, 14, 17, 18
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED = 101, 102, 103, 104, 105, 200
_OK, _EOF, _NO_SUCH_FILE = 0, 1, 2
_WORDS = {2: "no such file", 3: "permission denied", 8: "it cannot do that"}
_POSIX_RENAME = b"posix-rename@openssh.com"

READ, WRITE, CREATE, TRUNCATE = 0x01, 0x02, 0x08, 0x10
"""For `open`."""


class Stream(Protocol):
    """Bytes to the other side and back. `recv` returns none at the end; both raise OSError, also when nothing comes."""

    def sendall(self, data: bytes, /) -> object: ...
    def recv(self, most: int, /) -> bytes: ...
    def close(self) -> object: ...


class Refused(Exception):
    """The other side said no."""


class NoSuchFile(Refused):
    """There is nothing under that name."""


class Sftp:
    """One SFTP conversation. Paths are bytes; one that does not begin with `/` is below the login's home. Every method
    raises Broken or Refused."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._numbers = 0
        self._answers: dict[int, tuple[int, Answer]] = {}
        self._send(bytes([_INIT]) + struct.pack(">I", 3))
        kind, answer = self._receive()
        with understood():
            if kind != _VERSION or answer.number() < 3:
                raise Broken("it speaks no SFTP of version 3")
            self._renames = _POSIX_RENAME in iter(answer.pairs())

    def close(self) -> None:
        """End the conversation."""
        self._stream.close()

    # Files

    def stat(self, path: bytes) -> Attributes:
        """Of what a link leads to."""
        return self._attributes(self._call(_STAT, text(path)))

    def lstat(self, path: bytes) -> Attributes:
        """Of the link itself."""
        return self._attributes(self._call(_LSTAT, text(path)))

    def size(self, handle: bytes) -> int:
        """Bytes of an open file."""
        found = self._attributes(self._call(_FSTAT, text(handle))).size
        if found is None:
            raise Refused("it does not say how large a file is")
        return found

    def open(self, path: bytes, flags: int, mode: int = 0o600) -> bytes:
        """A handle; `mode` is for a file that is made by this."""
        request = text(path) + struct.pack(">I", flags) + permissions(mode)
        return self._handle(self._call(_OPEN, request))

    def shut(self, handle: bytes) -> None:
        """Let go of a handle."""
        self._done(self._call(_CLOSE, text(handle)))

    def read(self, handle: bytes, offset: int, most: int) -> bytes:
        """What lies at `offset`, at most `most` bytes; fewer where the file ends, and wherever the other side likes."""
        asked = deque[tuple[int, int]]()
        pieces: list[bytes] = []
        at, end, whole = offset, offset + most, True
        while asked or (whole and at < end):
            while whole and at < end and len(asked) < _AT_ONCE:
                length = min(CHUNK, end - at)
                request = text(handle) + struct.pack(">QI", at, length)
                asked.append((self._ask(_READ, request), length))
                at += length
            number, length = asked.popleft()
            piece = self._piece(self._answer(number), length)
            if whole:
                pieces.append(piece)
            # What lies behind a short piece is no continuation of it.
            whole = whole and len(piece) == length
        return b"".join(pieces)

    def write(self, handle: bytes, data: bytes, start: int = 0) -> None:
        """All of `data`, from `start` on."""
        asked = deque[int]()
        for at in range(0, len(data), CHUNK):
            if len(asked) == _AT_ONCE:
                self._done(self._answer(asked.popleft()))
            piece = data[at : at + CHUNK]
            asked.append(
                self._ask(_WRITE, text(handle) + struct.pack(">Q", start + at) + text(piece))
            )
        while asked:
            self._done(self._answer(asked.popleft()))

    def chmod(self, path: bytes, mode: int) -> None:
        self._done(self._call(_SETSTAT, text(path) + permissions(mode)))

    def remove(self, path: bytes) -> None:
        self._done(self._call(_REMOVE, text(path)))

    def replace(self, old: bytes, new: bytes) -> None:
        """Rename, over what lies at `new`; where that cannot be done at once, there is nothing for a moment."""
        if self._renames:
            both = text(_POSIX_RENAME) + text(old) + text(new)
            self._done(self._call(_EXTENDED, both))
            return
        try:
            self._done(self._call(_RENAME, text(old) + text(new)))
        except Refused:
            self.remove(new)
            self._done(self._call(_RENAME, text(old) + text(new)))

    # Directories

    def mkdir(self, path: bytes, mode: int) -> None:
        self._done(self._call(_MKDIR, text(path) + permissions(mode)))

    def entries(self, path: bytes) -> Generator[tuple[bytes, Attributes], None, None]:
        """What a directory holds, as it is told; `.` and `..` are left out. There may be no end of it."""
        handle = self._handle(self._call(_OPENDIR, text(path)))
        try:
            while True:
                kind, answer = self._call(_READDIR, text(handle))
                with understood():
                    if kind == _STATUS and answer.number() == _EOF:
                        return
                    answer.rewind()
                    named = answer.names() if kind == _NAME else None
                if named is None:
                    self._done((kind, answer))
                    raise Broken("it lists a directory without names")
                yield from (one for one in named if one[0] not in (b".", b".."))
        finally:
            self.shut(handle)

    # Requests and answers

    def _call(self, kind: int, request: bytes) -> tuple[int, Answer]:
        return self._answer(self._ask(kind, request))

    def _ask(self, kind: int, request: bytes) -> int:
        self._numbers = (self._numbers + 1) & 0xFFFFFFFF
        self._send(bytes([kind]) + struct.pack(">I", self._numbers) + request)
        return self._numbers

    def _answer(self, number: int) -> tuple[int, Answer]:
        while number not in self._answers:
            kind, answer = self._receive()
            with understood():
                told = answer.number()
            answer.begin()
            # Whoever answers what was not asked could go on for ever.
            if len(self._answers) > 2 * _AT_ONCE:
                raise Broken("it answers what nobody asked")
            self._answers[told] = kind, answer
        return self._answers.pop(number)

    def _send(self, packet: bytes) -> None:
        try:
            self._stream.sendall(struct.pack(">I", len(packet)) + packet)
        except Exception as error:
            raise Broken(str(error) or type(error).__name__) from error

    def _receive(self) -> tuple[int, Answer]:
        length = int.from_bytes(self._exactly(4), "big")
        if not 1 <= length <= _LONGEST_ANSWER:
            raise Broken("it speaks no SFTP: something that its login runs may print text")
        packet = self._exactly(length)
        return packet[0], Answer(packet[1:])

    def _exactly(self, length: int) -> bytes:
        pieces = []
        while length > 0:
            try:
                piece = self._stream.recv(length)
            except Exception as error:
                raise Broken(str(error) or "nothing came") from error
            if not piece:
                raise Broken("the connection was closed")
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    # What an answer means

    def _done(self, answered: tuple[int, Answer]) -> None:
        kind, answer = answered
        with understood():
            if kind != _STATUS:
                raise Broken("it answers with something that was not asked for")
            code = answer.number()
            said = "" if code == _OK else excerpt(answer.text().decode("utf-8", "replace"))
        if code == _OK:
            return
        why = _WORDS.get(code) or said or f"error {code}"
        raise NoSuchFile(why) if code == _NO_SUCH_FILE else Refused(why)

    def _expect(self, answered: tuple[int, Answer], kind: int) -> Answer:
        if answered[0] != kind:
            self._done(answered)
            raise Broken("it says that all is well and nothing else")
        return answered[1]

    def _handle(self, answered: tuple[int, Answer]) -> bytes:
        answer = self._expect(answered, _HANDLE)
        with understood():
            return answer.text()

    def _attributes(self, answered: tuple[int, Answer]) -> Attributes:
        answer = self._expect(answered, _ATTRS)
        with understood():
            return answer.attributes()

    def _piece(self, answered: tuple[int, Answer], most: int) -> bytes:
        kind, answer = answered
        with understood():
            if kind == _STATUS and answer.number() == _EOF:
                return b""
            answer.rewind()
            piece = answer.text() if kind == _DATA else None
        if piece is None:
            self._done(answered)
        if not piece or len(piece) > most:
            raise Broken("it answers a read with another number of bytes")
        return piece
