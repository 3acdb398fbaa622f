"""A tree is written by people whom the host does not trust: nothing outside it is read, and nothing blocks."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.source.directory import DirectorySource
from tests.trees import HOST, MAP, NOW, load, messages, tree, vm, write

SHADOW = "root:$6$very-secret:19000:0:99999:7:::"
NOBODY = 65534


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user whom permissions count for."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    path.chmod(0o755)
    yield path
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o755)
    shutil.rmtree(path)


@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_never_opened_and_gets_a_word_of_advice(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web")})
    os.mkfifo(root / "fifo.yaml")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "s.yaml"))
        desired = load(root)
    assert list(desired.vms) == ["web"]
    assert [(str(one.where.file), one.message) for one in desired.advice] == [
        ("fifo.yaml", "is no regular file and was not opened"),
        ("s.yaml", "is no regular file and was not opened"),
    ]
    assert desired.unproven is None


@pytest.mark.timeout(10)
@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "/proc/self/mem"])
def test_a_link_to_a_device_is_not_opened(tmp_path: Path, target: str) -> None:
    root = tree(tmp_path, {})
    (root / "x.yaml").symlink_to(target)
    assert load(root).unproven is not None


@pytest.mark.timeout(10)
def test_a_fifo_as_user_data_or_as_ignore_file_does_not_block(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "user_data_file: fifo"), "sub/a.yaml": vm("a")})
    os.mkfifo(root / "fifo")
    os.mkfifo(root / "sub" / ".holdfastignore")
    assert messages(load(root)) == [
        "sub/.holdfastignore: the ignore file cannot be used: it is no regular file",
        "web.yaml:4:17: `user_data_file`: `fifo` cannot be used: it is no regular file",
    ]


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("name", ["evil.yaml", "folder"])
def test_a_link_that_leads_outside_is_not_followed_and_quotes_nothing(
    tmp_path: Path, name: str, absolute: bool
) -> None:
    outside = write(
        tmp_path / "outside", {"shadow": SHADOW, "f/a.yaml": vm("a"), "v.yaml": vm("v")}
    )
    root = tree(tmp_path / "tree", {"web.yaml": vm("web")})
    target = outside / ("f" if name == "folder" else "shadow")
    (root / name).symlink_to(target if absolute else os.path.relpath(target, root))
    desired = load(root)
    assert list(desired.vms) == ["web"]
    assert messages(desired) == [
        f"{name}: the link is not followed: it leads outside the tree (put the file into the tree)"
    ]
    assert desired.unproven is not None
    assert "secret" not in repr(desired)


@pytest.mark.parametrize(
    "name",
    ["../outside/shadow", "/etc/passwd", "link", "up/outside/shadow", "..", ".", "a/../../x"],
)
def test_user_data_from_outside_is_refused_and_not_quoted(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"outside/shadow": SHADOW})
    root = tree(tmp_path / "tree", {"web.yaml": vm("web", f"user_data_file: {name}")})
    (root / "link").symlink_to(tmp_path / "outside" / "shadow")
    (root / "up").symlink_to("..")
    desired = load(root)
    assert desired.vms == {}
    problem = next(one for one in desired.problems if one.name == "web")
    assert (problem.file, problem.line, problem.column) == ("web.yaml", 4, 17)
    assert "cannot be used" in problem.message
    assert "secret" not in repr(desired)


@pytest.mark.parametrize("name", [".git/config", ".GIT/config", "innocent", "sub/../.git/config"])
def test_a_clones_own_files_are_no_part_of_the_tree(tmp_path: Path, name: str) -> None:
    root = tree(
        tmp_path,
        {
            "web.yaml": vm("web", f"user_data_file: {name}"),
            ".git/config": SHADOW,
            ".GIT/config": SHADOW,
        },
    )
    (root / "innocent").symlink_to(".git/config")
    desired = load(root)
    assert desired.vms == {}
    assert ".git" in desired.problems[0].message
    assert "secret" not in repr(desired)


def test_user_data_may_lie_anywhere_in_the_tree(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "vms/web.yaml": vm("web", "user_data_file: ../cloud/web.cfg"),
            "vms/db.yaml": vm("db", "user_data_file: link"),
            "cloud/web.cfg": "\ufeff#cloud-config\r\nx: \x1b\n",
        },
    )
    (root / "vms" / "link").symlink_to("../cloud/web.cfg")
    desired = load(root)
    assert messages(desired) == []
    assert {wanted.spec.user_data for wanted in desired.vms.values()} == {
        "\ufeff#cloud-config\r\nx: \x1b\n"
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"x" * ((1 << 20) + 1), "it is larger than 1MiB"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"a\0b", "it has a NUL character in it"),
        (None, "there is no such file"),
    ],
)
def test_user_data_that_is_no_text_of_bounded_size_holds_its_vm(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "user_data_file: u")})
    if content is not None:
        (root / "u").write_bytes(content)
    desired = load(root)
    assert desired.vms == {}
    assert f"`user_data_file`: `u` cannot be used: {why}" in desired.problems[0].message


def test_links_within_the_tree_are_other_names_for_the_same_files(tmp_path: Path) -> None:
    root = tree(tmp_path, {"common/web.yaml": vm("web"), "sites/a/db.yaml": vm("db")})
    (root / "sites" / "a" / "common").symlink_to("../../common")
    (root / "sites" / "loop").symlink_to("..")
    (root / "again.yaml").symlink_to("common/web.yaml")
    desired = load(root)
    assert messages(desired) == []
    assert sorted(desired.vms) == ["db", "web"]


def test_a_mounted_config_map_is_read_through_its_links(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "..2024_01/images.yaml": MAP,
            "..2024_01/web.yaml": vm("web", "user_data_file: web.cfg"),
            "..2024_01/web.cfg": "#cloud-config\n",
        },
    )
    (root / "..data").symlink_to("..2024_01")
    for name in ("images.yaml", "web.yaml", "web.cfg"):
        (root / name).symlink_to(f"..data/{name}")
    desired = load(root)
    assert messages(desired) == []
    assert str(desired.vms["web"].source) == "web.yaml:1"  # type: ignore[index]


@pytest.mark.parametrize("target", ["nowhere.yaml", "x.yaml"])
def test_a_link_that_leads_nowhere_might_have_led_to_any_name(tmp_path: Path, target: str) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web")})
    (root / "x.yaml").symlink_to(target)
    desired = load(root)
    assert "x.yaml: the link leads to nothing that can be read" in messages(desired)[0]
    assert desired.unproven is not None


def test_a_tree_behind_a_link_is_that_tree(tmp_path: Path) -> None:
    tree(tmp_path / "releases" / "1", {"web.yaml": vm("web", "user_data_file: u"), "u": "1"})
    tree(tmp_path / "releases" / "2", {"web.yaml": vm("web", "user_data_file: u"), "u": "2"})
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    source = DirectorySource(current, host=HOST)
    assert [wanted.spec.user_data for wanted in source.load(NOW).vms.values()] == ["1"]
    current.unlink()
    current.symlink_to("releases/2")
    assert [wanted.spec.user_data for wanted in source.load(NOW).vms.values()] == ["2"]


def test_a_directory_that_may_not_be_read_proves_no_absence(open_path: Path) -> None:
    root = tree(open_path / "tree", {"sub/db.yaml": vm("db"), "web.yaml": vm("web")})
    (root / "sub").chmod(0)
    with without_privileges():
        desired = load(root)
    assert list(desired.vms) == ["web"]
    assert messages(desired) == ["sub/: the directory cannot be read: Permission denied"]
    assert desired.unproven == "sub/ cannot be read and might own any name"


def test_a_tree_that_may_not_be_read_proves_no_absence(open_path: Path) -> None:
    root = tree(open_path / "tree", {"web.yaml": vm("web")})
    root.chmod(0)
    with without_privileges():
        desired = load(root)
    assert desired.vms == {}
    assert desired.unproven is not None
    assert desired.source.error == f"{root}: the directory cannot be read: Permission denied"


def test_a_file_that_may_not_be_read_might_own_any_name(open_path: Path) -> None:
    root = tree(open_path / "tree", {"db.yaml": vm("db"), "web.yaml": vm("web")})
    (root / "db.yaml").chmod(0)
    with without_privileges():
        source = DirectorySource(root, host=HOST)
        desired = source.load(NOW)
        assert source.load(NOW) is desired
    assert list(desired.vms) == ["web"]
    assert messages(desired) == [
        "db.yaml: the file cannot be used: it cannot be read: Permission denied"
    ]
    assert desired.unproven == "db.yaml cannot be read and might own any name"
    (root / "db.yaml").chmod(0o644)
    assert sorted(source.load(NOW).vms) == ["db", "web"]


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.yaml", b"a\nb.yaml", b"\x1b[2J.yaml", "\u202eb.yaml".encode()]
)
def test_a_file_name_is_any_bytes_and_a_message_is_text(tmp_path: Path, name: bytes) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web")})
    (root / os.fsdecode(name)).write_text("a: [")
    desired = load(root)
    assert desired.problems[0].file.isprintable()
    assert str(desired.problems[0]).encode()
    assert desired.unproven is not None
    (root / os.fsdecode(name)).write_text(vm("db"))
    assert sorted(load(root).vms) == ["db", "web"]


def test_a_link_that_leads_nowhere_is_seen_beside_files_that_stay_as_they_are(
    tmp_path: Path,
) -> None:
    """Sabotage: take the same files for the same look, or what is in the way of looking for no change."""
    tree(tmp_path, {"web.yaml": vm()})
    source = DirectorySource(tmp_path, host=HOST)
    for _ in range(3):
        assert source.load(NOW).unproven is None
    (tmp_path / "db.yaml").symlink_to("nowhere.yaml")
    held = source.load(NOW)
    assert "might own any name" in (held.unproven or "")
    assert source.load(NOW) is held
    (tmp_path / "db.yaml").unlink()
    assert source.load(NOW).unproven is None
