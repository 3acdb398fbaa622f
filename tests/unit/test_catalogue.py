"""The catalogue of public images: it is read and resolved, agrees with what is written on it, and fetches nothing."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from state.desired import Desired
from state.ids import Name
from state.spec.resolved import ImageSpec
from tests.trees import load, messages, vm, write

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "examples/catalogue/images.yaml"
PAGE = (ROOT / "docs/guests.md").read_text()
TABLE = re.findall(r"^\| `([\w.-]+)` \| " + r" \| ".join([r"`(\w+)`"] * 6) + r" \|$", PAGE, re.M)
ALIASES = {
    "debian": "debian-12",
    "ubuntu": "ubuntu-24.04",
    "alpine": "alpine-3.23",
    "fedora": "fedora-44",
    "openindiana": "openindiana-hipster",
    "illumos": "openindiana-hipster",
}


def with_vm_of(tmp_path: Path, label: str) -> Desired:
    root = write(tmp_path, {"web.yaml": vm("web", f"image: {label}")})
    return load(root, images_file=CATALOGUE)


def image_of(tmp_path: Path, label: str) -> ImageSpec:
    desired = with_vm_of(tmp_path, label)
    assert messages(desired) == []
    return desired.vms[Name("web")].spec.image


@pytest.mark.parametrize(
    ("label", "user", "machine", "firmware", "bus", "form", "packed"), TABLE, ids=lambda one: one
)
def test_each_image_is_as_the_page_on_guests_says(
    tmp_path: Path,
    label: str,
    user: str,
    machine: str,
    firmware: str,
    bus: str,
    form: str,
    packed: str,
) -> None:
    image = image_of(tmp_path, label)
    assert image.nocloud
    assert (image.ssh_user, image.machine, image.firmware) == (user, machine, firmware)
    assert (image.seed_bus, image.format, image.decompress) == (bus, form, packed)
    assert image.source.endswith(".zst") == (packed == "zstd")
    assert ("uefi" in image.source) <= (firmware == "uefi")


def test_the_page_names_all_of_them_and_every_alias_leads_to_one(tmp_path: Path) -> None:
    labels = {row[0] for row in TABLE}
    assert with_vm_of(tmp_path, "debian-12").labels == {label: label for label in labels} | ALIASES
    assert set(ALIASES.values()) == labels


def test_every_source_is_a_distributions_own_and_encrypted(tmp_path: Path) -> None:
    hosts = set()
    for label, *_ in TABLE:
        parts = urlsplit(image_of(tmp_path, label).source)
        assert parts.scheme == "https"
        hosts.add(parts.hostname)
    assert hosts == {
        "cloud.debian.org",
        "cloud-images.ubuntu.com",
        "dl-cdn.alpinelinux.org",
        "download.fedoraproject.org",
        "dlc.openindiana.org",
    }


def test_an_image_that_is_not_there_is_told_with_some_that_are(tmp_path: Path) -> None:
    [message] = messages(with_vm_of(tmp_path, "windows"))
    assert "unknown image `windows` (known: " in message
    assert "debian-12, ubuntu-24.04" in message
    assert message.endswith(" more)")


def test_what_can_change_under_its_name_is_not_pinned_and_said_so(tmp_path: Path) -> None:
    desired = with_vm_of(tmp_path, "debian-12")
    told = re.findall(r"`([\w.-]+)` has no sha256", " ".join(map(str, desired.advice)))
    assert told == ["debian-12", "ubuntu-24.04", "openindiana-hipster"]
