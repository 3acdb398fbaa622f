"""What is copied out of a guest, whatever the guest calls it, and however much there is of it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from stat import S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import RetryLater
from agent.guest.artifacts import collect
from agent.guest.folder import Folder, component
from agent.guest.sftp import Attributes, NoSuchFile, Refused, Sftp
from state.work import Artifact, Limits
from tests.localguest import LocalGuest


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A directory that is the guest's."""
    home = tmp_path / "guest"
    home.mkdir()
    return home


@pytest.fixture
def sftp(guest: Path) -> Iterator[Sftp]:
    local = LocalGuest(guest)
    with closing(Sftp(local.line().sftp())) as made:
        yield made
    local.end()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "run" / "artifacts"


def fill(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def everything(root: Path) -> set[str]:
    """Paths of all files below, which are regular and private."""
    found = [path for path in root.rglob("*") if not path.is_dir()]
    assert all(path.is_file() and not path.is_symlink() for path in found)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in found)
    return {str(path.relative_to(root)) for path in found}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.xml", {"a.xml"}),
        ("*.xml", {"a.xml", "b.xml"}),
        ("?.xml", {"a.xml", "b.xml"}),
        ("[!a].xml", {"b.xml"}),
        (".*", {".hidden"}),
        ("**", {"a.xml", "b.xml", "c.txt", "deep/a.xml", "deep/er/a.xml", "link.txt"}),
        ("**/a.xml", {"a.xml", "deep/a.xml", "deep/er/a.xml"}),
        ("deep/**/a.xml", {"deep/a.xml", "deep/er/a.xml"}),
        ("d*/**", {"deep/a.xml", "deep/er/a.xml"}),
        ("*/a.xml", {"deep/a.xml", "linked/a.xml"}),
        ("linked/er/*", {"linked/er/a.xml"}),
        ("*.txt", {"c.txt", "link.txt"}),
        ("deep", set()),
        ("none/*/x", set()),
        ("pipe", set()),
    ],
)
def test_patterns_find_what_a_shell_would(
    sftp: Sftp, guest: Path, into: Path, pattern: str, found: set[str]
) -> None:
    fill(guest, "a.xml", "b.xml", "c.txt", ".hidden", "deep/a.xml", "deep/er/a.xml", ".git/a.xml")
    (guest / "link.txt").symlink_to("c.txt")
    (guest / "linked").symlink_to("deep")
    (guest / "loop").symlink_to(".")
    (guest / "broken").symlink_to("nowhere")
    os.mkfifo(guest / "pipe")
    if pattern == "*/a.xml":
        (guest / "loop").unlink()
    told = collect(sftp, [f"{guest}/{pattern}"], into, Limits())
    assert {one.path.removeprefix(f"{guest}/") for one in told.artifacts} == found
    assert len(everything(into)) == len(found)
    notes = () if found else (f"{guest}/{pattern} matches no file",)
    assert told.notes == notes


def test_what_is_told_of_a_file_is_so(sftp: Sftp, guest: Path, into: Path) -> None:
    content = os.urandom(3_000_000)
    (guest / "a").write_bytes(content)
    told = collect(sftp, [f"{guest}/a", f"{guest}/*"], into, Limits())
    (one,) = told.artifacts
    digest = hashlib.sha256(content).hexdigest()
    assert one == Artifact(f"{guest}/a", str(guest / "a")[1:], 3_000_000, digest)
    assert (into / one.file).read_bytes() == content


def test_what_an_earlier_try_left_is_gone(sftp: Sftp, guest: Path, into: Path) -> None:
    fill(into, "old", "deep/old")
    (into / ".0123456789abcdef.part").touch()
    assert collect(sftp, [f"{guest}/*"], into, Limits()).artifacts == ()
    assert everything(into) == set()


def test_names_that_no_host_would_choose(sftp: Sftp, guest: Path, into: Path) -> None:
    names = [
        b"\xff\xfe",
        b"two\nlines",
        b"a%2Fb",
        b"x" * 255,
        "\u202egpj".encode(),
        b"~a",
        b"A",
        b"a",
    ]
    for name in names:
        (Path(os.fsdecode(os.fsencode(guest) + b"/" + name))).write_bytes(name)
    told = collect(sftp, [f"{guest}/*"], into, Limits())
    kept = {os.fsencode(one.path).rpartition(b"/")[2]: one.file for one in told.artifacts}
    assert set(kept) == set(names)
    assert {(into / file).read_bytes() for file in kept.values()} == set(names)
    assert everything(into) == set(kept.values())
    assert len({file.casefold() for file in kept.values()}) == len(names)


@pytest.mark.parametrize(
    ("limits", "kept", "note"),
    [
        (Limits(files=2), {"a", "b"}, "2 files were left out: at most 2 are kept"),
        (
            Limits(total=4),
            {"a", "b", "d"},
            "c was left out: it has 3 bytes, and at most 4B are kept",
        ),
        (Limits(entries=2), 2, "only 2 directory entries were looked at"),
        (Limits(seconds=-1.0), set(), "no more was copied after -1 seconds"),
        (Limits(depth=1), {"a", "b", "c", "d"}, "nothing was looked for more than 1 levels deep"),
    ],
)
def test_what_is_beyond_a_limit_is_left_out_and_told(
    sftp: Sftp, guest: Path, into: Path, limits: Limits, kept: set[str] | int, note: str
) -> None:
    for name, size in (("a", 1), ("b", 1), ("c", 3), ("d", 2)):
        (guest / name).write_bytes(b"x" * size)
    if limits.depth == 1:
        fill(guest, "deep/e")
    told = collect(sftp, [f"{guest}/**"], into, limits)
    found = {Path(one.path).name for one in told.artifacts}
    assert found == kept or len(found) == kept
    assert any(one.removeprefix(f"{guest}/") == note for one in told.notes), told.notes


def test_a_connection_that_breaks_keeps_what_has_arrived(guest: Path, into: Path) -> None:
    """Sabotage: keep nothing. One file that can only be waited for would cost all the others."""
    fill(guest, "a.xml", "b.xml", "c.xml")
    local = LocalGuest(guest)

    class Breaking(Sftp):
        def open(self, path: bytes, flags: int, mode: int = 0o600) -> bytes:
            if path.endswith(b"b.xml"):
                local.cut()
            return super().open(path, flags, mode)

    with closing(Breaking(local.line().sftp())) as sftp:
        found = collect(sftp, [f"{guest}/*.xml"], into, Limits())
    local.end()
    assert [one.path for one in found.artifacts] == [f"{guest}/a.xml"]
    [note] = found.notes
    assert note.startswith(f"collecting broke off at {guest}/b.xml, and what comes after it is")


def test_a_file_that_grows_for_ever_is_cut_off(sftp: Sftp, guest: Path, into: Path) -> None:
    (guest / "b").write_bytes(b"whole")
    soon = threading.Event()
    with subprocess.Popen(
        ["sh", "-c", f"while :; do head -c 90000000 /dev/zero >>{guest}/a; done"]
    ) as child:
        try:
            while not (guest / "a").exists() or (guest / "a").stat().st_size < 1_000_000:
                soon.wait(0.01)
            told = collect(sftp, [f"{guest}/*"], into, Limits())
        finally:
            child.kill()
    grown, whole = told.artifacts
    assert grown.file.endswith("/a.partial")
    assert (into / grown.file).stat().st_size == grown.size > 1 << 20
    assert "it grows and grows" in told.notes[0]
    assert whole.file.endswith("/b")
    assert everything(into) == {grown.file, whole.file}


def test_a_host_without_room_says_so(sftp: Sftp, guest: Path, tmp_path: Path) -> None:
    fill(guest, "a")
    (tmp_path / "file").touch()
    with pytest.raises(RetryLater, match=r"writing .*: Not a directory \(make room"):
        collect(sftp, [f"{guest}/*"], tmp_path / "file" / "below", Limits())


class Liar:
    """A guest that tells of files what it likes."""

    def __init__(self, names: dict[bytes, int], content: bytes = b"lie", size: int = 3) -> None:
        self._names, self._content, self._size = names, content, size

    def stat(self, path: bytes) -> Attributes:
        return Attributes(self._size, S_IFREG)

    def entries(self, path: bytes) -> Generator[tuple[bytes, Attributes], None, None]:
        for name, kind in self._names.items():
            yield name, Attributes(self._size, kind)

    def open(self, path: bytes, flags: int) -> bytes:
        if path.endswith(b"closed"):
            raise Refused("permission denied")
        if path.endswith(b"gone"):
            raise NoSuchFile("no such file")
        return b"handle"

    def size(self, handle: bytes) -> int:
        return self._size

    def read(self, handle: bytes, offset: int, most: int) -> bytes:
        return self._content[offset : offset + most]

    def shut(self, handle: bytes) -> None:
        """There is nothing to let go of."""


def test_a_guest_that_lies_about_names_reaches_nothing(into: Path) -> None:
    names = [b"..", b".", b"", b"../../escaped", b"a/b", b"nul\0", b"x" * 2000, b"fine"]
    told = collect(Liar(dict.fromkeys(names, S_IFREG)), ["/*"], into, Limits())
    assert [one.path for one in told.artifacts] == ["/fine"]
    assert everything(into.parent) == {"artifacts/fine"}


def test_a_file_and_a_directory_of_one_name_are_both_kept(into: Path) -> None:
    """The guest changed between the two looks, or lies."""
    told = collect(Liar({b"f": S_IFREG}), ["/a/b", "/a", "/A", "/A/b", "/a/b/c"], into, Limits())
    assert [one.path for one in told.artifacts] == ["/a/b", "/a", "/A", "/A/b", "/a/b/c"]
    assert len({one.file.casefold() for one in told.artifacts}) == 5
    assert everything(into) == {one.file for one in told.artifacts}


def test_what_the_guest_will_not_give_is_told(into: Path) -> None:
    told = collect(Liar({}), ["/closed", "/gone", "/kept"], into, Limits())
    assert [one.path for one in told.artifacts] == ["/kept"]
    assert told.notes == (
        "/closed was left out: permission denied",
        "/gone was left out: no such file",
    )


def test_a_name_in_a_note_acts_on_no_terminal(into: Path) -> None:
    told = collect(Liar({b"\x1b[2J\nclosed": S_IFREG}), ["/*"], into, Limits())
    assert told.notes == (r"/\x1b[2J\nclosed was left out: permission denied",)


def test_a_tree_without_end_is_given_up(into: Path) -> None:
    told = collect(Liar({b"d": S_IFDIR, b"p": S_IFIFO}), ["/**"], into, Limits(entries=100))
    assert told.artifacts == ()
    assert "nothing was looked for more than 32 levels deep" in told.notes


def test_a_size_that_is_a_lie_costs_no_more_than_is_allowed(into: Path) -> None:
    liar = Liar({b"a": S_IFLNK, b"b": S_IFREG}, content=b"x" * 5_000_000, size=0)
    told = collect(liar, ["/*"], into, Limits(total=2_000_000))
    assert [one.size for one in told.artifacts] == [1 << 20, 2_000_000 - (1 << 20)]
    assert all(one.file.endswith(".partial") for one in told.artifacts)


names = st.binary(min_size=1, max_size=300).filter(lambda one: b"/" not in one)
odd = st.sampled_from([b"..", b".", b"a", b"A", b"%", b"~", b"a%2E", "ä".encode(), "Ä".encode()])
guest_paths = st.lists(names | odd, min_size=1, max_size=60).map(
    lambda all_: b"/" + b"/".join(all_)
)


@given(paths=st.lists(guest_paths, unique=True, max_size=8))
def test_whatever_the_paths_every_file_has_a_place_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, paths: list[bytes]
) -> None:
    """Sabotage: leave `..` as it is; cut long names without a digest; take case twins for two names."""
    root = tmp_path_factory.mktemp("folder")
    kept = {}
    with closing(Folder(root / "into")) as folder:
        for path in paths:
            with folder.receive(path) as file:
                file.write(path)
            kept[path] = folder.artifact(path, file)
    assert {one.file for one in kept.values()} == everything(root / "into")
    assert [path.name for path in root.iterdir()] == ["into"]
    assert len({one.file.casefold() for one in kept.values()}) == len(paths)
    for path, one in kept.items():
        assert (root / "into" / one.file).read_bytes() == path
        assert os.fsencode(one.path) == path


@given(one=names, other=names)
def test_no_two_names_become_the_same(one: bytes, other: bytes) -> None:
    assert (component(one) == component(other)) == (one == other)
    made = component(one)
    assert made.isprintable()
    assert made not in (".", "..")
    assert len(made.encode()) <= 200
