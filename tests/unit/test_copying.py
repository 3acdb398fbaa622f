"""Copies into a guest and out of it, with OpenSSH's own SFTP server, and with a guest that lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import BadInput, GuestRefused, HoldfastError, SessionLost
from agent.guest.copying import MOST_NAMES, Copying
from agent.guest.sftp import Attributes, Sftp
from tests.localguest import LocalGuest

WHOLE = bytes(range(256)) * 10_000
DIRECTORY, FILE = 0o040755, 0o100644


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[LocalGuest]:
    made = LocalGuest(tmp_path / "home")
    yield made
    made.end()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def copying(guest: LocalGuest, said: list[str]) -> Iterator[Copying]:
    with closing(Sftp(guest.line().sftp())) as sftp:
        yield Copying(sftp, "web", said.append)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    path = tmp_path / "here"
    path.mkdir()
    return path


def listed(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("content", [b"", b"a", WHOLE])
def test_a_file_comes_back_as_it_went_with_its_mode(
    copying: Copying, guest: LocalGuest, here: Path, content: bytes
) -> None:
    """Sabotage: leave out where a piece belongs, or the mode."""
    (here / "a").write_bytes(content)
    (here / "a").chmod(0o750)
    copying.upload(here / "a", b"b", recursive=False)
    assert (guest.home / "b").read_bytes() == content
    assert (guest.home / "b").stat().st_mode & 0o7777 == 0o750
    copying.download(b"b", here / "c", recursive=False)
    assert (here / "c").read_bytes() == content
    assert (here / "c").stat().st_mode & 0o7777 == 0o750
    assert sorted(path.name for path in here.iterdir()) == ["a", "c"]


def test_what_was_longer_is_replaced_whole(copying: Copying, guest: LocalGuest, here: Path) -> None:
    for path in (here / "short", guest.home / "short"):
        path.write_bytes(b"x")
    for path in (guest.home / "long", here / "long"):
        path.write_bytes(WHOLE)
    copying.upload(here / "short", b"long", recursive=False)
    assert (guest.home / "long").read_bytes() == b"x"
    copying.download(b"short", here / "long", recursive=False)
    assert (here / "long").read_bytes() == b"x"


def test_directories_go_and_come_with_all_that_is_in_them(
    copying: Copying, guest: LocalGuest, here: Path, said: list[str]
) -> None:
    tree = here / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "a").write_bytes(b"1")
    (tree / "below" / os.fsdecode(b"\xff b")).write_bytes(b"2")
    (tree / "link").symlink_to("/etc/passwd")
    copying.upload(tree, b"there", recursive=True)
    copying.download(b"there", here / "back", recursive=True)
    del tree
    assert listed(here / "back") == {"a": b"1", os.fsdecode(b"below/\xff b"): b"2"}
    assert len(said) == 1
    assert "left out" in said[0]


def test_a_directory_wants_to_be_asked_for(copying: Copying, guest: LocalGuest, here: Path) -> None:
    (guest.home / "d").mkdir()
    with pytest.raises(BadInput, match="it is a directory"):
        copying.upload(here, b"d", recursive=False)
    with pytest.raises(BadInput, match="web:d: it is a directory"):
        copying.download(b"d", here / "d", recursive=False)


def test_what_is_not_there_is_said_by_its_name(copying: Copying, here: Path) -> None:
    with pytest.raises(BadInput, match=r"reading .*/nothing: No such file"):
        copying.upload(here / "nothing", b"a", recursive=False)
    with pytest.raises(GuestRefused, match="reading web:nothing: no such file"):
        copying.download(b"nothing", here / "a", recursive=False)
    (here / "a").write_bytes(b"")
    with pytest.raises(GuestRefused, match="writing web:no/such/place"):
        copying.upload(here / "a", b"no/such/place", recursive=False)


@pytest.mark.parametrize("made", [Path.touch, Path.mkdir])
def test_what_goes_from_here_while_it_is_copied_is_said_by_its_name(
    here: Path, made: Callable[[Path], None]
) -> None:
    """Sabotage: look at it without minding that it may be gone."""
    (here / "a").touch()
    made(here / "b")

    class Slow(Liar):
        def open(self, path: bytes, flags: int, mode: int = 0) -> bytes:
            (here / "b").rmdir() if (here / "b").is_dir() else (here / "b").unlink()
            return b"handle"

        def chmod(self, path: bytes, mode: int) -> None:
            return

    with pytest.raises(BadInput, match=r"reading .*/here/b: No such file or directory"):
        Copying(Slow(b"", FILE), "web", print).upload(here, b"d", recursive=True)


def test_a_name_that_is_too_long_for_this_host_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"writing .*: File name too long"):
        Copying(Liar(b"a" * 300, FILE), "web", print).download(b"d", tmp_path, recursive=True)


def test_a_connection_that_breaks_leaves_nothing_half_done_here(
    copying: Copying, guest: LocalGuest, here: Path
) -> None:
    """Sabotage: write under the file's own name."""
    (guest.home / "big").write_bytes(WHOLE)
    (here / "big").write_bytes(b"before")
    guest.cut()
    with pytest.raises(SessionLost):
        copying.download(b"big", here / "big", recursive=False)
    assert listed(here) == {"big": b"before"}


def test_a_pipe_of_this_host_is_written_to(copying: Copying, guest: LocalGuest, here: Path) -> None:
    (guest.home / "a").write_bytes(b"through")
    os.mkfifo(here / "pipe")
    reader = os.open(here / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        copying.download(b"a", here / "pipe", recursive=False)
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)


class Liar(Sftp):
    """A guest whose directories hold what it likes."""

    def __init__(self, name: bytes, mode: int, of_itself: int = DIRECTORY) -> None:
        self._said = name, mode
        self._of_itself = of_itself

    def stat(self, path: bytes) -> Attributes:
        return Attributes(mode=self._of_itself)

    def entries(self, path: bytes) -> Generator[tuple[bytes, Attributes], None, None]:
        name, mode = self._said
        yield name, Attributes(mode=mode)

    def open(self, path: bytes, flags: int, mode: int = 0) -> bytes:
        return b"handle"

    def read(self, handle: bytes, offset: int, most: int) -> bytes:
        return b"" if offset else b"evil"

    def shut(self, handle: bytes) -> None:
        return


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.mark.parametrize("mode", [0o106755, 0o107777, 0o104711])
@pytest.mark.parametrize("tree", [False, True])
def test_a_guest_makes_no_program_of_the_host_s_that_runs_as_somebody_else(
    tmp_path: Path, umask: int, mode: int, tree: bool
) -> None:
    """Sabotage: take every bit that the guest answers, or change the mode behind the umask."""
    copying = Copying(Liar(b"a", mode, of_itself=DIRECTORY if tree else mode), "web", print)
    copying.download(b"d", tmp_path / "in", recursive=True)
    made = tmp_path / "in" / "a" if tree else tmp_path / "in"
    assert made.read_bytes() == b"evil"
    assert made.stat().st_mode & 0o7777 == mode & 0o777 & ~umask


def test_no_bit_but_permissions_goes_into_a_guest(
    copying: Copying, guest: LocalGuest, here: Path
) -> None:
    """Sabotage: take every bit of the file's mode, or of the directory's."""
    (here / "d").mkdir()
    (here / "d" / "a").write_bytes(b"1")
    (here / "d" / "a").chmod(0o6755)
    (here / "d").chmod(0o3755)
    copying.upload(here / "d", b"d", recursive=True)
    assert (guest.home / "d").stat().st_mode & 0o7777 == 0o755
    assert (guest.home / "d" / "a").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("mode", [FILE, DIRECTORY])
@pytest.mark.parametrize(
    "name", [b"..", b"../out", b"/proc/out", b"a/../../out", b"", b".", b"a\0"]
)
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: bytes, mode: int) -> None:
    """Sabotage: take names as they come."""
    with pytest.raises(HoldfastError):
        Copying(Liar(name, mode), "web", print).download(b"d", tmp_path / "in", recursive=True)
    assert listed(tmp_path) == {}


def test_no_link_that_lies_here_is_followed_below_a_directory(tmp_path: Path) -> None:
    """Sabotage: open what is there."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"mine")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").symlink_to(secret)
    said: list[str] = []
    Copying(Liar(b"a", FILE), "web", said.append).download(b"d", tmp_path / "in", recursive=True)
    assert secret.read_bytes() == b"mine"
    assert "is a link" in said[0]


def test_a_tree_without_an_end_is_given_up(tmp_path: Path) -> None:
    liar = Liar(b"d", DIRECTORY)
    with pytest.raises(BadInput, match="too deep"):
        Copying(liar, "web", print).download(b"d", tmp_path / "in", recursive=True)


class Lister(Liar):
    """A guest whose directory holds these names, each as often as they are told."""

    def __init__(self, names: Iterable[bytes]) -> None:
        super().__init__(b"", FILE)
        self._names = names

    def entries(self, path: bytes) -> Generator[tuple[bytes, Attributes], None, None]:
        for at, name in enumerate(self._names):
            yield name, Attributes(mode=FILE, size=at)


def test_a_name_that_is_told_twice_is_refused(tmp_path: Path) -> None:
    """Sabotage: sort the entries with what is told of them, or take the last."""
    lister = Lister([b"b", b"a", b"b"])
    with pytest.raises(GuestRefused, match="copying web:d: the guest tells of b twice"):
        Copying(lister, "web", print).download(b"d", tmp_path / "in", recursive=True)
    assert listed(tmp_path) == {}


def test_a_directory_without_an_end_is_given_up(tmp_path: Path) -> None:
    """Sabotage: list it to its end."""
    taken = 0

    def names() -> Iterator[bytes]:
        nonlocal taken
        while True:
            assert taken <= MOST_NAMES
            taken += 1
            yield b"%d" % taken

    with pytest.raises(GuestRefused, match="copying web:d: it holds more than 100000 names"):
        Copying(Lister(names()), "web", print).download(b"d", tmp_path / "in", recursive=True)
    assert listed(tmp_path) == {}


def test_what_the_guest_calls_a_name_acts_on_no_terminal(tmp_path: Path) -> None:
    said: list[str] = []
    liar = Liar(b"\x1b]0;evil\x07", 0o060000)
    Copying(liar, "web", said.append).download(b"d", tmp_path / "in", recursive=True)
    assert "\x1b" not in said[0]
