"""No text of any document changes the structure of QEMU's command line, wherever in the document it stands."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.hypervisor.qemu.argv import command
from agent.jobs.machine import machine_spec
from agent.machines import _machine
from state.spec.resolved import VmSpec
from tests.builders import STATE_ID, instance
from tests.trees import load, scratch, tree
from tests.unit.test_argv import FDS, hostile, shape

WHOLE: dict[str, Any] = {
    "images.yaml": {
        "api": "holdfast/v1",
        "kind": "images",
        "name": "default",
        "default_label": "debian-12",
        "aliases": {"debian": "debian-12"},
        "sizes": {"small": {"cpus": 1, "memory": "1GiB"}},
        "images": {
            "debian-12": {
                "source": "https://images.example/debian.qcow2",
                "sha256": "1" * 64,
                "decompress": "none",
                "format": "qcow2",
                "seed_bus": "ide",
                "firmware": "bios",
                "machine": "pc",
                "ssh_user": "debian",
                "boot_timeout": "5m",
                "max_size": "2GiB",
                "defaults": {"memory": "512MiB", "disk": "4GiB"},
            }
        },
    },
    "vm.yaml": {
        "api": "holdfast/v1",
        "kind": "vm",
        "name": "web",
        "labels": {"tier": "edge"},
        "hosts": ["*"],
        "image": "debian",
        "size": "small",
        "memory": "512MiB",
        "disk": "8GiB",
        "ports": [{"host": 8080, "guest": 80, "address": "127.0.0.1"}],
        "user_data": "#cloud-config\n",
        "power": "running",
        "restart": "always",
        "health": {"http": {"port": 80, "path": "/"}, "interval": "10s"},
        "stop_timeout": "30s",
    },
    "job.yaml": {
        "api": "holdfast/v1",
        "kind": "job",
        "name": "tests",
        "runs_on": "debian-12",
        "size": "small",
        "script": "true\n",
        "env": {"A": "b"},
        "secrets": ["A"],
        "artifacts": ["/a/*"],
        "timeouts": {"boot": "5m"},
        "keep_on_failure": "1h",
    },
}


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where texts stand, and numbers, and the keys that an author chooses."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))
    else:
        yield path


PLACES = sorted(places(WHOLE), key=repr)
KEYS = [("images.yaml", "images", "debian-12"), ("vm.yaml", "labels", "tier"), ("job.yaml", "env", "A")]  # fmt: skip


def lines(documents: dict[str, Any]) -> list[list[object]]:
    """The shape of the command line of everything that is wanted."""
    with scratch() as root:
        texts = {file: json.dumps(one) for file, one in documents.items()}
        desired = load(tree(root, texts))
    specs: list[VmSpec] = [one.spec for one in desired.vms.values()]
    specs += [machine_spec(one.spec) for one in desired.jobs.values()]
    return [shape(command(_machine(instance(spec), spec), FDS, STATE_ID)) for spec in specs]


BENIGN = lines(WHOLE)


def test_the_documents_are_wanted_as_they_are() -> None:
    assert len(BENIGN) == 2


ATTACKS = (
    ",guestfwd=tcp:10.0.2.100:80-cmd:id",
    "a,process=evil",
    ",readonly=on,file=/etc/shadow",
    "-sandbox",
    "{}",
)


def said_at(place: tuple[str | int, ...], text: str, *, behind: bool) -> dict[str, Any]:
    """The documents with this text in a place, or behind what stands there."""
    documents = copy.deepcopy(WHOLE)
    inner: Any = documents
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = f"{inner[place[-1]]}{text}" if behind else text
    return documents


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_that_is_known_works_anywhere(attack: str) -> None:
    """Refused, or said where it cannot be anything but text. Sabotage: take any text for an address, and let `hostfwd`
    say it unparsed."""
    for place in PLACES:
        for behind in (True, False):
            found = lines(said_at(place, attack, behind=behind))
            assert all(line in BENIGN for line in found), (place, behind)


@settings(max_examples=200)
@given(place=st.sampled_from(PLACES), text=hostile, behind=st.booleans())
def test_no_text_of_a_document_changes_the_structure(
    place: tuple[str | int, ...], text: str, behind: bool
) -> None:
    """The same for whatever anybody might write."""
    assert all(line in BENIGN for line in lines(said_at(place, text, behind=behind)))


@given(place=st.sampled_from(KEYS), text=hostile)
def test_no_key_of_a_document_changes_the_structure(place: tuple[str, ...], text: str) -> None:
    documents = copy.deepcopy(WHOLE)
    inner = documents
    for step in place[:-1]:
        inner = inner[step]
    inner[text] = inner.pop(place[-1])
    assert all(line in BENIGN for line in lines(documents))
