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


def test_an_image_that_is_changed_or_removed_under_a_vm_is_told_and_fetched_again(
    still: Site,
) -> None:
    """Sabotage: look at its size alone; start what stands on it all the same."""
    still.vm("web")
    away = still.image.with_suffix(".away")
    with still.agent():
        before = still.ready("web", reason="Running")
        [image] = listed(still)
        base, whole = Path(image["path"]), Path(image["path"]).read_bytes()
        still.image.rename(away)
        base.chmod(0o600)
        base.write_bytes(whole[::-1])
        still.until(lambda: "was changed under it" in says(still), "it is told", 30)
        assert still.item("web")["reason"] == "FilesLost"
        still.kill(before["pid"])
        still.until(lambda: "was changed since it was fetched" in says(still), "it is refused", 30)
        assert still.processes() == {}
        away.rename(still.image)
        again = still.ready("web", uid=before["uid"])
        assert base.read_bytes() == whole
        assert base.stat().st_mode & 0o777 == 0o444
        still.image.rename(away)
        base.unlink()
        still.until(lambda: "was removed" in says(still), "it is told", 30)
        away.rename(still.image)
        still.until(lambda: still.item("web")["reason"] == "Running", "all is well", 60)
        assert (still.item("web")["pid"], base.read_bytes()) == (again["pid"], whole)
    lost = [one["message"] for one in still.events("web") if one["reason"] == "FilesLost"]
    assert ["was changed" in one for one in lost] == [True, False], "no false alarm"


def says(still: Site) -> str:
    return str(still.item("web").get("message"))


def test_below_the_floor_nothing_new_begins_and_what_runs_is_kept_stopped_and_removed(
    still: Site,
) -> None:
    """Sabotage: forget the floor, or hold back whatever acts."""
    still.vm("web")
    still.vm("old")
    with still.agent():
        web, old = still.ready("web"), still.ready("old")
    fresh = still.image.parent / "fresh.img"
    write_disk(fresh, "obedient", 2 << 20)
    images = still.desired / "images.yaml"
    entry = f'  fresh: {{source: "{fresh}", format: raw, nocloud: false}}\n'
    images.write_text(images.read_text() + entry)
    still.vm("db")
    still.vm("cache", more="image: fresh")
    with still.agent("--disk-floor", "900TiB"):
        names = ("db", "cache")
        still.until(
            lambda: {still.item(name).get("reason") for name in names} == {"NotEnoughDisk"},
            "they wait",
        )
        assert "and nothing new begins below 900TiB" in still.item("db")["message"]
        told = still.call("images fetch", "fresh")
        assert told.returncode == 1
        assert b"and a fetch leaves 943718400 MiB" in told.stderr
        still.kill(web["pid"])
        still.until(lambda: still.item("web").get("restarts") == 1, "it is started again")
        assert still.ready("web")["uid"] == web["uid"]
        still.delete("old")
        still.until(lambda: still.item("old") == {}, "it is gone")
        assert old["pid"] not in still.processes()
