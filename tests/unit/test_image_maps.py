"""An orchestrator's image map is read as it is, and leads to the same images and sizes there and here."""

from __future__ import annotations

from pathlib import Path

import pytest

from state.desired import Desired
from state.ids import Name
from tests.trees import job, load, messages, vm, write

MAP = Path(__file__).parents[1] / "fixtures/imagemaps/orchestrator.yaml"
KEPT = Path("/var/lib/orchestrator/images")
MIB, GIB = 1 << 20, 1 << 30


def asked(tmp_path: Path, *lines: str, roots: tuple[Path, ...] = ()) -> Desired:
    """What a vm with these lines means beside the map of the orchestrator."""
    root = write(tmp_path, {"web.yaml": vm("web", *lines)})
    return load(root, images_file=MAP, image_roots=roots)


@pytest.mark.parametrize(
    ("lines", "label", "resources"),
    [
        ((), "openindiana-hipster", (2, 2048 * MIB, 20 * GIB)),
        (("image: illumos-latest",), "openindiana-hipster", (2, 2048 * MIB, 20 * GIB)),
        (("image: linux",), "ubuntu-22.04", (2, 1536 * MIB, None)),
        (("image: appliance",), "appliance", (1, 512 * MIB, None)),
        (("size: small",), "openindiana-hipster", (1, 1024 * MIB, 20 * GIB)),
        (("image: linux", "size: medium"), "ubuntu-22.04", (2, 2048 * MIB, 40 * GIB)),
        (("size: large",), "openindiana-hipster", (4, 4096 * MIB, 20 * GIB)),
        (("size: large", "memory: 3GiB"), "openindiana-hipster", (4, 3 * GIB, 20 * GIB)),
    ],
)
def test_labels_aliases_sizes_and_defaults_mean_what_they_mean_there(
    tmp_path: Path,
    lines: tuple[str, ...],
    label: str,
    resources: tuple[int, int, int | None],
) -> None:
    desired = asked(tmp_path, *lines)
    assert messages(desired) == []
    spec = desired.vms[Name("web")].spec
    assert spec.image.label == label
    assert (spec.cpus, spec.memory, spec.disk) == resources


def test_what_it_says_of_an_image_arrives(tmp_path: Path) -> None:
    image = asked(tmp_path).vms[Name("web")].spec.image
    assert image.source == "https://images.example/hipster/OI-hipster-cloudimage.img.zstd"
    assert (image.decompress, image.nocloud, image.format) == ("zstd", True, "qcow2")
    assert not asked(tmp_path, "image: appliance").vms[Name("web")].spec.image.nocloud


def test_a_label_that_nobody_knows_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    [message] = messages(asked(tmp_path, "image: windows"))
    assert message.startswith("web.yaml:4:8: unknown image `windows` (known: ")
    for label in ("openindiana-hipster", "ubuntu-22.04", "appliance", "illumos-latest"):
        assert label in message
    [message] = messages(asked(tmp_path, "image: ubuntu-22.10"))
    assert message.endswith("unknown image `ubuntu-22.10` (did you mean `ubuntu-22.04`?)")
    [message] = messages(asked(tmp_path, "size: huge"))
    assert message.endswith("unknown size `huge` (known: small, medium, large)")


def test_a_copy_is_looked_at_only_where_images_may_come_from(tmp_path: Path) -> None:
    """Sabotage: leave the check of its place out."""
    outside = asked(tmp_path)
    assert outside.vms[Name("web")].spec.image.copy is None
    told = [str(one) for one in outside.advice if "local_path" in str(one)]
    assert len(told) == 2
    assert (
        "image `ubuntu-22.04` is fetched: its `local_path` lies outside the directories that images may come from"
        " (put it into the tree, or allow its directory with --image-root)"
    ) in told[1]
    within = asked(tmp_path, roots=(KEPT,))
    assert within.vms[Name("web")].spec.image.copy == f"file://{KEPT}/openindiana-hipster.img"
    assert [one for one in within.advice if "local_path" in str(one)] == []


def test_where_a_copy_lies_is_no_change_of_what_is_wanted(tmp_path: Path) -> None:
    """Sabotage: compare it; put it into the canonical form."""
    write(tmp_path, {"tests.yaml": job("tests", "runs_on: linux")})
    one, other = (asked(tmp_path, roots=roots) for roots in ((), (KEPT,)))
    assert one.vms[Name("web")].spec == other.vms[Name("web")].spec
    assert one.vms[Name("web")].spec.digest == other.vms[Name("web")].spec.digest
    assert one.jobs[Name("tests")].spec.digest == other.jobs[Name("tests")].spec.digest
