"""A state directory may lie anywhere: in paths with what options, URIs and shells give a meaning, and in long ones."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import Site, image_path, inhabited

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]

ODD = "a b,c==d,,e\nf%3f?#&é\u202e'\"$(x)`;*"
PATHS = {
    "odd": ODD,
    "long": f"{ODD}/{'l' * 200}",
}


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def place(request: pytest.FixtureRequest) -> Iterator[Site]:
    top = Path(tempfile.mkdtemp(prefix="hf-"))
    root = top / request.param
    root.mkdir(parents=True, mode=0o700)
    try:
        with inhabited(root, image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2"), "tiny") as made:
            yield made
            sockets = made.paths.sockets
        assert not sockets.exists(), "sockets were left behind"
    finally:
        shutil.rmtree(top)


def test_a_vm_lives_there_answers_and_is_adopted(place: Site) -> None:
    place.vm("web")
    with place.agent():
        before = place.ready("web")
        assert place.ssh("web", "hostname") == "web\n"
        assert b"holdfast-guest: ready" in place.call("logs", "web").stdout
    with place.agent():
        place.until(lambda: "Adopted" in place.log(), "it is adopted")
        assert place.processes() == {before["pid"]: before["uid"]}
        told = place.call("status")
        assert (told.returncode, told.stderr) == (0, b"")
        told = place.call("explain", "web")
        assert (told.returncode, told.stderr) == (0, b"")


@pytest.mark.parametrize("option", ["--state", "--desired"])
def test_a_path_that_is_no_unicode_is_refused_in_one_sentence(tiny: Site, option: str) -> None:
    told = tiny.call("run", "--desired", str(tiny.desired), option, os.fsdecode(b"/tmp/\xff"))
    assert (told.returncode, told.stdout) == (64, b"")
    assert told.stderr.decode().splitlines()[-1] == (
        f"Error: Invalid value for '{option}': '/tmp/\\udcff' is not UTF-8"
        " (choose a path whose name is)"
    )
