"""SFTP with a server that keeps to it, and with one that does what it likes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.guest.sftp import CREATE, READ, TRUNCATE, WRITE, Broken, NoSuchFile, Refused, Sftp
from tests.localguest import LocalGuest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def sftp(home: Path) -> Iterator[Sftp]:
    guest = LocalGuest(home)
    with closing(Sftp(guest.line().sftp())) as made:
        yield made
    guest.end()


def put(sftp: Sftp, path: bytes, content: bytes) -> None:
    handle = sftp.open(path, WRITE | CREATE | TRUNCATE)
    sftp.write(handle, content)
    sftp.shut(handle)


@pytest.mark.parametrize("size", [0, 1, 32 << 10, (32 << 10) + 1, 5_000_000])
def test_files_come_back_as_they_went(sftp: Sftp, home: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    put(sftp, b"file", content)
    assert (home / "file").read_bytes() == content
    handle = sftp.open(b"file", READ)
    assert sftp.size(handle) == size
    assert sftp.read(handle, 0, size + 100_000) == content
    assert sftp.read(handle, size // 2, 7) == content[size // 2 :][:7]
    assert sftp.read(handle, size, 10) == b""
    sftp.shut(handle)


def test_a_written_file_is_shorter_when_it_was_longer(sftp: Sftp, home: Path) -> None:
    put(sftp, b"file", b"long")
    put(sftp, b"file", b"a")
    assert (home / "file").read_bytes() == b"a"


def test_names_may_be_any_bytes(sftp: Sftp) -> None:
    names = [b"\xff\xfe", b"two\nlines", b" ", "ä".encode(), b"x" * 255]
    for name in names:
        put(sftp, name, name)
    assert sorted(name for name, _ in sftp.entries(b".")) == sorted(names)
    assert {told.size for _, told in sftp.entries(b".")} == {len(name) for name in names}


def test_no_is_told_from_not_there(sftp: Sftp, home: Path) -> None:
    with pytest.raises(NoSuchFile, match="no such file"):
        sftp.stat(b"none")
    (home / "directory").mkdir()
    for doing in (
        lambda: sftp.mkdir(b"directory", 0o700),
        lambda: sftp.remove(b"directory"),
        lambda: sftp.replace(b"directory", b"none/directory"),
        lambda: next(sftp.entries(b"none")),
    ):
        with pytest.raises(Refused):
            doing()
    put(sftp, b"still", b"works")


def test_a_link_is_followed_or_not_as_is_asked(sftp: Sftp, home: Path) -> None:
    put(sftp, b"file", b"12345")
    (home / "link").symlink_to("file")
    assert sftp.stat(b"link").size == 5
    assert (sftp.lstat(b"link").mode or 0) & 0o170000 == 0o120000


def test_what_lies_in_the_place_is_replaced(sftp: Sftp, home: Path) -> None:
    put(sftp, b"old", b"old")
    put(sftp, b"new", b"new")
    sftp.chmod(b"new", 0o640)
    sftp.replace(b"new", b"old")
    assert (home / "old").read_bytes() == b"new"
    assert (home / "old").stat().st_mode & 0o777 == 0o640
    assert not (home / "new").exists()


class Says:
    """A server that says what it was given, whatever it is asked."""

    def __init__(self, said: bytes, again: bytes = b"") -> None:
        self._said, self._again = said, again

    def sendall(self, data: bytes) -> None:
        self._said += self._again

    def recv(self, most: int) -> bytes:
        piece, self._said = self._said[:most], self._said[most:]
        return piece

    def close(self) -> None:
        """There is nothing to close."""


def packet(kind: int, payload: bytes) -> bytes:
    return struct.pack(">IB", len(payload) + 1, kind) + payload


HELLO = packet(2, struct.pack(">I", 3))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"Welcome to this guest!\n",
        b"\xff" * 100,
        b"\0\0\0\0",
        HELLO[:-1],
        packet(2, b""),
        packet(2, struct.pack(">I", 2)),
        packet(2, struct.pack(">II", 3, 1 << 31)),
        packet(101, struct.pack(">II", 0, 0)),
    ],
)
def test_what_is_no_sftp_is_known_at_once(said: bytes) -> None:
    with pytest.raises(Broken):
        Sftp(Says(said))


def test_the_words_of_a_refusal_act_on_no_terminal() -> None:
    said = b"\x1b[2J\x1b]52;c;YQ==\x07no\n\r" + b"x" * 5000
    refusal = packet(101, struct.pack(">III", 1, 4, len(said)) + said + b"\0\0\0\0")
    with pytest.raises(Refused) as refused:
        Sftp(Says(HELLO + refusal)).mkdir(b"x", 0o700)
    assert str(refused.value).isprintable()
    assert str(refused.value).startswith(r"\x1b[2J\x1b]52;c;YQ==\x07no xxx")
    assert len(str(refused.value)) < 1000


def test_a_directory_without_end_is_read_no_further_than_asked() -> None:
    class Endless(Says):
        def __init__(self) -> None:
            super().__init__(HELLO)
            self.number = 0

        def sendall(self, data: bytes) -> None:
            kind, self.number = struct.unpack_from(">BI", data, 4)
            if kind == 11:
                self._said += packet(102, struct.pack(">II", self.number, 1) + b"h")
            elif kind == 12:
                name = struct.pack(">II", self.number, 1) + b"\0\0\0\1n\0\0\0\0\0\0\0\0"
                self._said += packet(104, name)
            elif kind == 4:
                self._said += packet(101, struct.pack(">III", self.number, 0, 0))

    with closing(Sftp(Endless()).entries(b"/")) as entries:
        assert len(list(islice(entries, 1000))) == 1000


def test_answers_that_nobody_asked_for_are_not_kept() -> None:
    sftp = Sftp(Says(HELLO + b"".join(packet(101, struct.pack(">I", 7 + n)) for n in range(10**4))))
    with pytest.raises(Broken, match="nobody asked"):
        sftp.stat(b"x")


@given(
    answers=st.lists(
        st.tuples(st.sampled_from([101, 102, 103, 104, 105, 0]), st.integers(1, 3), st.binary())
    )
)
def test_nothing_that_a_server_says_is_an_error_of_ours(
    answers: list[tuple[int, int, bytes]],
) -> None:
    """Sabotage: let struct.error through."""
    said = b"".join(packet(kind, struct.pack(">I", of) + more) for kind, of, more in answers)
    doings: list[Callable[[Sftp], object]] = [
        lambda sftp: sftp.stat(b"x"),
        lambda sftp: sftp.open(b"x", READ),
        lambda sftp: sftp.read(b"h", 0, 10),
        lambda sftp: sftp.mkdir(b"x", 0o700),
        lambda sftp: list(islice(sftp.entries(b"x"), 10)),
    ]
    for doing in doings:
        with suppress(Broken, Refused):
            doing(Sftp(Says(HELLO + said)))
