"""Root disks: QEMU's own tools accept what is written, and what is there is kept."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import BadInput, StateUnusable
from agent.guest import overlay

GIB = 1 << 30


def tool(*words: object) -> dict[str, Any]:
    """What a tool of QEMU says in JSON; it ends with 0, or the test fails with its words."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.write_bytes(b"\7" * (1 << 20))
    return path


@pytest.mark.parametrize("size", [1 << 20, 3 * GIB, 4096 * GIB, 4097 * GIB, 64 << 40])
def test_qemu_finds_a_clean_disk_of_the_right_size(tmp_path: Path, base: Path, size: int) -> None:
    disk = tmp_path / "disk"
    assert overlay.create(disk, base, "raw", size)
    checked = tool("qemu-img", "check", "--output=json", "-f", "qcow2", disk)
    assert checked["check-errors"] == 0
    assert not {"leaks", "corruptions"} & set(checked)
    told = tool("qemu-img", "info", "--output=json", "-f", "qcow2", disk)
    assert told["virtual-size"] == size
    assert told["full-backing-filename"] == str(base)
    assert told["backing-filename-format"] == "raw"
    assert told["format-specific"]["data"]["compat"] == "1.1"
    assert disk.stat().st_mode & 0o777 == 0o600


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sectors=st.integers(min_value=1, max_value=(8 << 40) // 512))
def test_every_size_is_clean(tmp_path: Path, base: Path, sectors: int) -> None:
    disk = tmp_path / f"disk-{sectors}"
    overlay.create(disk, base, "raw", sectors * 512)
    told = tool("qemu-img", "check", "--output=json", "-f", "qcow2", disk)
    assert told["check-errors"] == 0
    disk.unlink()


def test_it_reads_the_base_and_keeps_what_is_written(tmp_path: Path, base: Path) -> None:
    disk = tmp_path / "disk"
    overlay.create(disk, base, "raw", 2 * GIB)
    script = (
        "read -P 7 0 1M",
        "read -P 0 1M 1M",
        "write -P 9 1900M 1M",
        "read -P 9 1900M 1M",
        "write -P 8 0 64k",
    )
    for line in script:
        done = subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", line, disk], capture_output=True, check=True
        )
        assert b"failed" not in done.stdout, line
    assert tool("qemu-img", "check", "--output=json", "-f", "qcow2", disk)["check-errors"] == 0
    assert base.read_bytes() == b"\7" * (1 << 20)


def test_a_disk_that_is_there_is_never_made_anew(tmp_path: Path, base: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"precious")
    assert not overlay.create(disk, base, "raw", GIB)
    assert disk.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "disk"]


def test_a_planted_link_is_neither_followed_nor_replaced(tmp_path: Path, base: Path) -> None:
    target, disk = tmp_path / "target", tmp_path / "disk"
    disk.symlink_to(target)
    assert not overlay.create(disk, base, "raw", GIB)
    assert not target.exists()
    target.write_bytes(b"x" * 200)
    with pytest.raises(OSError, match="symbolic"):
        overlay.grow(disk, GIB)
    assert target.read_bytes() == b"x" * 200


def test_growing_is_seen_by_qemu_and_never_shrinks(tmp_path: Path, base: Path) -> None:
    disk = tmp_path / "disk"
    overlay.create(disk, base, "raw", 1 << 20)
    assert overlay.grow(disk, 9 * GIB)
    assert not overlay.grow(disk, 9 * GIB)
    assert not overlay.grow(disk, GIB)
    assert tool("qemu-img", "info", "--output=json", disk)["virtual-size"] == 9 * GIB
    assert tool("qemu-img", "check", "--output=json", "-f", "qcow2", disk)["check-errors"] == 0


def test_growing_past_its_table_is_refused_in_words(tmp_path: Path, base: Path) -> None:
    disk = tmp_path / "disk"
    overlay.create(disk, base, "raw", 1 << 20)
    with pytest.raises(BadInput, match="no room"):
        overlay.grow(disk, 5 << 40)
    assert overlay.grow(disk, 4 << 40)


def test_what_is_no_qcow2_is_not_written_to(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"QFI\xfb\0\0\0\2" + bytes(200))
    before = disk.read_bytes()
    with pytest.raises(StateUnusable):
        overlay.grow(disk, GIB)
    assert disk.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "size"), [("relative", GIB), ("/" + "x" * 1100, GIB), ("/base", 513), ("/base", 0)]
)
def test_what_a_header_cannot_say_is_refused(tmp_path: Path, path: str, size: int) -> None:
    with pytest.raises(BadInput):
        overlay.create(tmp_path / "disk", Path(path), "qcow2", size)
    assert list(tmp_path.iterdir()) == []
