"""From what documents say to what is wanted: image maps become one, labels lead to images, sizes and defaults apply.

Pure: sources have been placed and files read before. What cannot be resolved says at which key of which document.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from state.spec.complaints import Path
from state.spec.images import ImageEntry, ImagesDocument, SizePreset
from state.spec.resolved import Forward, ImageSpec, VmSpec
from state.spec.vm import MIB, VmDocument
from state.spec.words import did_you_mean, listed, quoted

DEFAULT_CPUS = 1
DEFAULT_MEMORY = 512 * MIB
LONGEST_CHAIN = 16
"""Aliases from a label to its image."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """What stands for a word of an image map that has no usable meaning just now; `why` ends a sentence about it."""

    why: str


class Unresolved(Exception):
    """A document asks for something that the image map does not give; `path` is the key that asks."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


@dataclass(frozen=True, slots=True)
class PlacedMap:
    """An images document whose sources were placed: for each image an absolute URL, or why there is none. `where` names
    the document in messages, as `images.yaml:1`."""

    where: str
    document: ImagesDocument
    sources: Mapping[str, str | Unusable]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with the map at index `index` of those that were merged."""

    index: int
    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Image:
    """What a label stands for."""

    spec: ImageSpec
    defaults: SizePreset


@dataclass(frozen=True)
class ImageMap:
    """Every image map of a host as one. `gap` says what could not be read of it, so that a missing word may yet be
    there."""

    default_label: str | Unusable | None = None
    labels: Mapping[str, Image | str | Unusable] = field(default_factory=dict)
    sizes: Mapping[str, SizePreset | Unusable] = field(default_factory=dict)
    gap: str | None = None

    def image(self, label: str | None) -> Image:
        """What `label` leads to; with None, what the default label leads to. Raises Unresolved."""
        if label is None:
            if isinstance(self.default_label, Unusable):
                raise Unresolved(f"`image` is missing, and {self.default_label.why}", ())
            if self.default_label is None:
                hint = self._gap() or "(write `image:`, or `default_label:` in an images document)"
                raise Unresolved(f"`image` is missing, and no image map has a default {hint}", ())
            label = self.default_label
        steps = [label]
        while True:
            match self.labels.get(steps[-1]):
                case Image() as image:
                    return image
                case Unusable(why):
                    raise Unresolved(f"image {quoted(steps[-1])}{_by(steps)} {why}", ("image",))
                case None:
                    raise Unresolved(self._unknown("image", steps, self.labels), ("image",))
                case _ if len(steps) > LONGEST_CHAIN:
                    raise Unresolved(
                        f"image {quoted(steps[0])} leads through more than {LONGEST_CHAIN} aliases",
                        ("image",),
                    )
                case target if target in steps:
                    circle = " -> ".join([*steps[steps.index(target) :], target])
                    raise Unresolved(f"alias `{target}` leads to itself: {circle}", ("image",))
                case target:
                    steps.append(target)

    def size(self, name: str | None) -> SizePreset:
        """The preset of that name; an empty one for None. Raises Unresolved."""
        if name is None:
            return _NO_PRESET
        match self.sizes.get(name):
            case SizePreset() as preset:
                return preset
            case Unusable(why):
                raise Unresolved(f"size {quoted(name)} {why}", ("size",))
            case _:
                raise Unresolved(self._unknown("size", [name], self.sizes), ("size",))

    def _unknown(self, what: str, steps: Sequence[str], known: Mapping[str, object]) -> str:
        hint = f" {self._gap()}" if self.gap else did_you_mean(steps[-1], known)
        if not hint and not known:
            hint = " (there is no image map: write a document of `kind: images`)"
        return f"unknown {what} {quoted(steps[-1])}{_by(steps)}{hint}"

    def _gap(self) -> str:
        return f"({self.gap})" if self.gap else ""


_NO_PRESET = SizePreset()


def _by(steps: Sequence[str]) -> str:
    return f" (by alias {' -> '.join(steps[:-1])})" if len(steps) > 1 else ""


def merge(maps: Sequence[PlacedMap], gap: str | None = None) -> tuple[ImageMap, list[Trouble]]:
    """All maps as one. A word that two of them define has no meaning, and each of the two is in trouble for it."""
    troubles: list[Trouble] = []
    defaults = _by_word(
        maps, [{d: "default_label"} if (d := one.document.default_label) else {} for one in maps]
    )
    default_label: str | Unusable | None = next(iter(defaults), None)
    if sum(map(len, defaults.values())) > 1:
        indexes = sorted(index for owners in defaults.values() for index in owners)
        places = listed((maps[index].where for index in indexes), "and")
        default_label = Unusable(f"several image maps have a default_label: {places}")
        troubles += [
            Trouble(
                index,
                ("default_label",),
                f"`default_label` is in several maps: {places} (keep one)",
            )
            for index in indexes
        ]
    labels: dict[str, Image | str | Unusable] = {}
    sizes: dict[str, SizePreset | Unusable] = {}
    label_keys = [
        dict.fromkeys(one.document.images, "images")
        | dict.fromkeys(one.document.aliases, "aliases")
        for one in maps
    ]
    for word, owners in _by_word(maps, label_keys).items():
        index, key = next(iter(owners.items()))
        if len(owners) > 1:
            labels[word] = _doubled(maps, word, owners, troubles)
        elif key == "aliases":
            labels[word] = maps[index].document.aliases[word]
        else:
            labels[word] = _image(word, maps[index])
    for word, owners in _by_word(
        maps, [dict.fromkeys(one.document.sizes, "sizes") for one in maps]
    ).items():
        index = next(iter(owners))
        sizes[word] = (
            _doubled(maps, word, owners, troubles)
            if len(owners) > 1
            else maps[index].document.sizes[word]
        )
    merged = ImageMap(default_label, labels, sizes, gap)
    return merged, [*troubles, *_dangling(maps, merged)]


def _by_word(
    maps: Sequence[PlacedMap], words: Sequence[Mapping[str, str]]
) -> dict[str, dict[int, str]]:
    """For each word, the maps that define it and the key under which they do."""
    owners: dict[str, dict[int, str]] = defaultdict(dict)
    for index in range(len(maps)):
        for word, key in words[index].items():
            owners[word][index] = key
    return owners


def _doubled(
    maps: Sequence[PlacedMap], word: str, owners: Mapping[int, str], troubles: list[Trouble]
) -> Unusable:
    places = listed((maps[index].where for index in owners), "and")
    for index, key in owners.items():
        message = f"{quoted(word)} is defined in several maps: {places} (keep one)"
        troubles.append(Trouble(index, (key, word), message))
    return Unusable(f"is defined in several maps: {places}")


def _image(label: str, placed: PlacedMap) -> Image | Unusable:
    entry: ImageEntry = placed.document.images[label]
    source = placed.sources[label]
    if isinstance(source, Unusable):
        return source
    spec = ImageSpec(
        label=label,
        source=source,
        digest=entry.digest,
        decompress=entry.decompress,
        format=entry.format,
        nocloud=entry.nocloud,
        seed_bus=entry.seed_bus,
        firmware=entry.firmware,
        machine=entry.machine,
        ssh_user=entry.ssh_user,
        boot_timeout=entry.boot_timeout,
    )
    return Image(spec, entry.defaults)


def _dangling(maps: Sequence[PlacedMap], merged: ImageMap) -> list[Trouble]:
    """Aliases and defaults that lead to nothing or in a circle, each told to the map that has it."""
    found = []
    for index, placed in enumerate(maps):
        words: list[tuple[str, Path]] = [
            (label, ("aliases", label)) for label in placed.document.aliases
        ]
        if placed.document.default_label is not None:
            words.append((placed.document.default_label, ("default_label",)))
        for label, path in words:
            try:
                merged.image(label)
            except Unresolved as error:
                found.append(Trouble(index, path, error.message))
    return found


def resolve_vm(document: VmDocument, images: ImageMap, user_data: str | None = None) -> VmSpec:
    """The whole spec: a document's own key comes before its size preset, that before the image's defaults, and those
    before what is built in. `user_data` is the content of `user_data_file`. Raises Unresolved."""
    image = images.image(document.image)
    preset = images.size(document.size)
    sources = (document, preset, image.defaults)
    return VmSpec(
        name=document.name,
        image=image.spec,
        cpus=next((one.cpus for one in sources if one.cpus is not None), DEFAULT_CPUS),
        memory=next((one.memory for one in sources if one.memory is not None), DEFAULT_MEMORY),
        disk=next((one.disk for one in sources if one.disk is not None), None),
        labels=tuple(sorted(document.labels.items())),
        ports=tuple(
            sorted(
                (Forward(port.host, port.guest, port.address) for port in document.ports),
                key=lambda forward: (forward.host, forward.address),
            )
        ),
        egress=document.network.egress,
        user_data=user_data if document.user_data is None else document.user_data,
        power=document.power,
        restart=document.restart,
        suspend=document.suspend,
        protect=document.protect,
        stop_timeout=document.stop_timeout,
    )
