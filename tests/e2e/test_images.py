"""The store of images at the command line, on real QEMU: what lies there, and what nobody needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bootsectors import write_disk
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]


def listed(still: Site) -> list[dict[str, Any]]:
    told = still.call("images ls", "-o", "json")
    assert told.returncode == 0, told.stderr
    found: list[dict[str, Any]] = json.loads(told.stdout)
    return found


def pruned(still: Site, *words: str) -> list[str]:
    told = still.call("images prune", *words, "-o", "json")
    assert told.returncode == 0, told.stderr
    return [one["source"] for one in json.loads(told.stdout)]


def test_an_image_goes_when_nobody_needs_it_and_not_before(still: Site) -> None:
    """Sabotage: forget those who stand on one. Their disks are lost then."""
    other = still.image.parent / "other.img"
    write_disk(other, "obedient", 2 << 20)
    images = still.desired / "images.yaml"
    images.write_text(
        f'{images.read_text()}  other: {{source: "{other}", format: raw, nocloud: false}}\n'
    )
    still.vm("web")
    still.vm("db", more="image: other")
    uri = Path(other).as_uri()
    with still.agent():
        still.ready("web")
        db = still.ready("db")
        by_source = {one["source"]: one for one in listed(still)}
        assert by_source[uri]["used_by"] == ["db"]
        assert by_source[uri]["virtual_size"] == 2 << 20
        assert Path(by_source[uri]["path"]).is_file()
        assert pruned(still) == []
        still.vm("db")
        still.ready("db", generation=2)
        still.until(lambda: db["pid"] not in still.processes(), "the old one is gone")
        assert pruned(still, "--dry-run") == [uri]
        assert len(listed(still)) == 2
        assert pruned(still) == [uri]
        assert [one["used_by"] for one in listed(still)] == [["db", "web"]]
        assert still.ready("db", generation=2)
    still.delete("db")
    # Without an agent: what still stands on one keeps it, though no document asks for it.
    assert pruned(still) == []
    told = still.call("images ls").stdout.decode().splitlines()
    assert told[0].split()[:4] == ["DIGEST", "FORMAT", "SIZE", "VIRTUAL"]
    assert "db, web" in told[1]
    assert any(one["reason"] == "ImageRemoved" for one in still.events())
