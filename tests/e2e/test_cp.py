"""`cp` with a real guest: its own SFTP server, its pinned host key, and what is said where it cannot be."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]


def refused(site: Site, status: int, said: str, *words: str) -> None:
    told = site.call("cp", *words)
    assert told.returncode == status, told
    assert said in told.stderr.decode(), told.stderr
    assert b"Traceback" not in told.stderr


def copied(site: Site, *words: str) -> bytes:
    told = site.call("cp", *words)
    assert told.returncode == 0, told
    return told.stderr


def test_files_go_in_and_out_of_a_guest(tiny: Site, tmp_path: Path) -> None:
    """And to nobody who answers in the guest's place. Sabotage: leave the host key unchecked."""
    content = os.urandom(3_000_000)
    (tmp_path / "big").write_bytes(content)
    (tmp_path / "big").chmod(0o640)
    tiny.vm("web")
    with tiny.agent():
        tiny.ready("web")
        copied(tiny, str(tmp_path / "big"), "web:")
        told = tiny.ssh("web", "sha256sum big; stat -c %a big").split()
        assert (told[0], told[2]) == (hashlib.sha256(content).hexdigest(), "640")
        copied(tiny, "web:big", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == content

        tree = tmp_path / "tree"
        (tree / "below").mkdir(parents=True)
        for path in (tree / "a", tree / "below" / "b"):
            path.write_text(path.name)
        refused(tiny, 1, "it is a directory (say -r)", str(tree), "web:/tmp")
        copied(tiny, "-r", str(tree), "web:/tmp")
        assert tiny.ssh("web", "cat /tmp/tree/a /tmp/tree/below/b") == "ab"
        tiny.ssh("web", "ln -s /etc/passwd /tmp/tree/link")
        (tmp_path / "back2").mkdir()
        said = copied(tiny, "-r", "web:/tmp/tree", "web:/tmp/tree/a", str(tmp_path / "back2"))
        assert b"web:/tmp/tree/link was left out" in said
        assert (tmp_path / "back2" / "tree" / "below" / "b").read_text() == "b"
        assert (tmp_path / "back2" / "a").read_text() == "a"

        refused(tiny, 1, "reading web:nothing: no such file", "web:nothing", str(tmp_path))
        refused(tiny, 1, "there is no VM `nobody` here", "nobody:x", str(tmp_path))
        refused(tiny, 64, "in one guest", "web:x", "web:y")
        refused(tiny, 64, "in one guest", str(tmp_path / "big"), str(tmp_path / "small"))
        refused(tiny, 64, "more than one source", "web:big", "web:big", str(tmp_path / "no"))

        # From here on, whoever answers does not hold the key that is pinned.
        pinned = tiny.paths.host_keys / "web"
        pinned.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", pinned], input=b"y\n")
        refused(tiny, 1, "the host key is not the one", str(tmp_path / "big"), "web:stolen")
