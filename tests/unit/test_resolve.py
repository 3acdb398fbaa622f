from __future__ import annotations

from typing import Any

import pytest

from state.spec.imagemap import LONGEST_CHAIN, ImageMap, PlacedMap, Unresolved, Unusable, merge
from state.spec.images import ImagesDocument
from state.spec.resolve import resolve_vm
from state.spec.resolved import VmSpec
from state.spec.vm import VmDocument


def images(name: str = "default", **fields: Any) -> PlacedMap:
    header = {"api": "holdfast/v1", "kind": "images", "name": name}
    document = ImagesDocument.model_validate({**header, **fields})
    sources = {
        label: entry.source or Unusable("has no source") for label, entry in document.images.items()
    }
    return PlacedMap(f"{name}.yaml:1", document, sources)


def document(**fields: Any) -> VmDocument:
    return VmDocument.model_validate({"api": "holdfast/v1", "kind": "vm", "name": "web", **fields})


def resolve(document: VmDocument, *maps: PlacedMap) -> VmSpec:
    return resolve_vm(document, merge(maps)[0])


def refusal(document: VmDocument, *maps: PlacedMap) -> tuple[str, tuple[str | int, ...]]:
    with pytest.raises(Unresolved) as error:
        resolve(document, *maps)
    return error.value.message, error.value.path


SOURCE = "https://images.example/a"
ONE = images(images={"a": {"source": SOURCE}}, default_label="a")


def test_what_is_built_in_comes_last() -> None:
    spec = resolve(document(), ONE)
    assert (spec.cpus, spec.memory, spec.disk) == (1, 512 << 20, None)


@pytest.mark.parametrize(
    ("own", "preset", "default", "expected"),
    [
        ("1GiB", "2GiB", "3GiB", 1),
        (None, "2GiB", "3GiB", 2),
        (None, None, "3GiB", 3),
        ("1GiB", None, "3GiB", 1),
    ],
)
def test_a_documents_own_key_comes_before_its_size_and_that_before_the_image(
    own: str | None, preset: str | None, default: str, expected: int
) -> None:
    for key in ("memory", "disk"):
        one = images(
            images={"a": {"source": SOURCE, "defaults": {key: default}}},
            sizes={"s": {key: preset} if preset else {}},
            default_label="a",
        )
        spec = resolve(document(size="s", **({key: own} if own else {})), one)
        assert getattr(spec, key) == expected << 30


def test_each_of_cpus_memory_and_disk_finds_its_own_source() -> None:
    one = images(
        images={"a": {"source": SOURCE, "defaults": {"cpus": 8, "memory": "8GiB", "disk": "8GiB"}}},
        sizes={"s": {"memory": "4GiB", "disk": "4GiB"}},
        default_label="a",
    )
    spec = resolve(document(size="s", disk="2GiB"), one)
    assert (spec.cpus, spec.memory >> 30, (spec.disk or 0) >> 30) == (8, 4, 2)


def test_a_label_leads_through_aliases_to_an_image_whose_name_the_spec_bears() -> None:
    one = images(images={"a": {"source": SOURCE}}, aliases={"b": "a", "c": "b"}, default_label="c")
    assert resolve(document(), one) == resolve(document(image="b"), one)
    assert resolve(document(image="c"), one).image.label == "a"


def test_every_field_of_an_image_is_in_the_spec() -> None:
    entry = {
        "source": SOURCE,
        "sha512": "A" * 128,
        "decompress": "zstd",
        "format": "raw",
        "nocloud": False,
        "seed_bus": "scsi",
        "firmware": "uefi",
        "machine": "q35",
        "ssh_user": "me",
        "boot_timeout": "7m",
    }
    image = resolve(document(image="a"), images(images={"a": entry})).image
    assert (image.label, image.source, image.digest) == ("a", SOURCE, "sha512:" + "a" * 128)
    assert (image.decompress, image.format, image.nocloud) == ("zstd", "raw", False)
    assert (image.seed_bus, image.firmware, image.machine) == ("scsi", "uefi", "q35")
    assert (image.ssh_user, image.boot_timeout) == ("me", 420.0)


def test_maps_are_one_map() -> None:
    other = images("other", aliases={"b": "a"}, sizes={"s": {"cpus": 4}})
    assert resolve(document(image="b", size="s"), ONE, other).cpus == 4
    assert merge([ONE, other])[1] == []


def test_an_unknown_label_offers_the_likeliest() -> None:
    one = images(images={"debian-12": {"source": SOURCE}}, aliases={"stable": "debian-21"})
    assert refusal(document(image="debian-13"), one) == (
        "unknown image `debian-13` (did you mean `debian-12`?)",
        ("image",),
    )
    assert refusal(document(image="stable"), one) == (
        "unknown image `debian-21` (by alias stable) (did you mean `debian-12`?)",
        ("image",),
    )


def test_of_many_labels_the_first_are_named() -> None:
    many = images(images={f"image-{n}": {"source": SOURCE} for n in range(1000)})
    message, _ = refusal(document(image="windows"), many)
    assert message == (
        "unknown image `windows` (known: image-0, image-1, image-2, image-3, image-4, image-5, image-6, image-7"
        " and 992 more)"
    )


def test_aliases_in_a_circle_are_an_error_of_their_map_and_of_who_uses_them() -> None:
    one = images(aliases={"a": "b", "b": "c", "c": "b", "d": "d"})
    assert refusal(document(image="a"), one) == (
        "alias `b` leads to itself: b -> c -> b",
        ("image",),
    )
    assert [(trouble.path, trouble.message.split(":")[0]) for trouble in merge([one])[1]] == [
        (("aliases", "a"), "alias `b` leads to itself"),
        (("aliases", "b"), "alias `b` leads to itself"),
        (("aliases", "c"), "alias `c` leads to itself"),
        (("aliases", "d"), "alias `d` leads to itself"),
    ]


def test_a_chain_of_aliases_is_bounded() -> None:
    chain = {f"a{n}": f"a{n + 1}" for n in range(LONGEST_CHAIN + 5)}
    message, _ = refusal(document(image="a0"), images(aliases=chain))
    assert message == f"image `a0` leads through more than {LONGEST_CHAIN} aliases"


@pytest.mark.timeout(10)
def test_very_long_chains_of_aliases_cost_no_more() -> None:
    aliases = {f"a{n}": f"a{n + 1}" for n in range(20_000)}
    assert len(merge([images(aliases=aliases)])[1]) > 19_000


def test_a_word_that_two_maps_define_means_nothing_and_is_trouble_in_both() -> None:
    one = images(
        "one", images={"a": {"source": SOURCE}}, sizes={"s": {"cpus": 1}}, default_label="a"
    )
    two = images("two", aliases={"a": "x"}, sizes={"s": {"cpus": 2}}, default_label="x")
    merged, troubles = merge([one, two])
    places = "one.yaml:1 and two.yaml:1"
    assert [(trouble.index, trouble.path) for trouble in troubles] == [
        (0, ("images", "a")),
        (1, ("aliases", "a")),
        (0, ("sizes", "s")),
        (1, ("sizes", "s")),
        (0, ("default_label",)),
        (1, ("default_label",)),
        (1, ("default_label",)),
    ]
    assert troubles[0].message == f"`a` is defined in several image maps: {places} (keep one)"
    for fields, path in [({"image": "a"}, "image"), ({"size": "s"}, "size"), ({}, "")]:
        with pytest.raises(Unresolved, match=f"several image maps.*{places}") as error:
            merged.image(document(**fields).image) if path != "size" else merged.size("s")
        assert error.value.path == ((path,) if path else ())


def test_the_order_of_ports_and_labels_is_no_part_of_a_spec() -> None:
    ports = [{"host": 2, "guest": 1}, {"host": 1, "guest": 9, "address": "0.0.0.0"}]
    one = resolve(document(ports=ports, labels={"a": "1", "b": "2"}), ONE)
    other = resolve(document(ports=ports[::-1], labels={"b": "2", "a": "1"}), ONE)
    assert one.digest == other.digest


def test_user_data_of_the_document_or_of_its_file_is_in_the_spec() -> None:
    merged = merge([ONE])[0]
    assert resolve_vm(document(user_data="x"), merged).user_data == "x"
    assert resolve_vm(document(user_data_file="f"), merged, "y").user_data == "y"
    assert resolve_vm(document(), merged).user_data is None


def test_an_empty_map_knows_nothing() -> None:
    assert refusal(document(image="a"))[0].startswith("unknown image `a` (no image map has any")
    with pytest.raises(Unresolved, match="no image map has a default"):
        ImageMap().image(None)
