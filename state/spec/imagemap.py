"""Several image maps as one: what each label and size stands for, and which of them stand for nothing.

Pure: sources have been placed before. A word that two maps define means nothing until one of them gives it up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from state.spec.complaints import Path
from state.spec.images import ImagesDocument, SizePreset
from state.spec.resolved import ImageSpec
from state.spec.words import did_you_mean, listed, quoted

LONGEST_CHAIN = 16
"""Aliases from a label to its image."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """What stands for a word of an image map that has no usable meaning just now; `why` ends a sentence about it."""

    why: str


class Unresolved(Exception):
    """A document asks for something that the image map does not give; `path` is the key that asks. `missing`: no map
    has it, so that it may be in one that could not be read. `told`: what is wrong is a trouble of a map already."""

    def __init__(
        self, message: str, path: Path, *, missing: bool = False, told: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.missing = missing
        self.told = told


@dataclass(frozen=True, slots=True)
class PlacedMap:
    """An images document whose sources were placed: for each image an absolute URL, or why there is none. `where` names
    the document in messages, as `images.yaml:1`. `outside`: labels of images that lie outside the tree, where nobody
    said yet which places are allowed. `copies`: for an image that has a source, the URL of its `local_path`, or why
    that is not looked at."""

    where: str
    document: ImagesDocument
    sources: Mapping[str, str | Unusable]
    outside: frozenset[str] = frozenset()
    copies: Mapping[str, str | Unusable] = field(default_factory=dict)


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
    """Every image map of a host as one."""

    default_label: str | Unusable | None = None
    labels: Mapping[str, Image | str | Unusable] = field(default_factory=dict)
    sizes: Mapping[str, SizePreset | Unusable] = field(default_factory=dict)

    def image(self, label: str | None, *, key: str = "image") -> Image:
        """What `label` leads to; with None, what the default label leads to. `key` is the document's key that says it.
        Raises Unresolved."""
        if label is None:
            if isinstance(self.default_label, Unusable):
                raise Unresolved(f"`{key}` is missing, and {self.default_label.why}", (), told=True)
            if self.default_label is None:
                raise Unresolved(
                    f"`{key}` is missing, and no image map has a default (write `{key}:`, or"
                    " `default_label:` in an images document)",
                    (),
                    missing=True,
                )
            try:
                return self._lead(self.default_label, key)
            except Unresolved as error:
                error.told = True  # to the map that has this default
                raise
        return self._lead(label, key)

    def meanings(self) -> dict[str, str]:
        """Of every label and alias that leads to an image, the label of that image."""
        found = {}
        for word in self.labels:
            with suppress(Unresolved):
                found[word] = self._lead(word, "image").spec.label
        return found

    def images(self) -> dict[str, ImageSpec]:
        """Every image that has a usable meaning, by its own label."""
        return {label: one.spec for label, one in self.labels.items() if isinstance(one, Image)}

    def _lead(self, label: str, key: str) -> Image:
        steps = [label]
        while True:
            match self.labels.get(steps[-1]):
                case Image() as image:
                    return image
                case Unusable(why):
                    message = f"image {quoted(steps[-1])}{_by(steps)} {why}"
                    raise Unresolved(message, (key,), told=True)
                case None:
                    raise _unknown("image", steps, self.labels, key)
                case _ if len(steps) > LONGEST_CHAIN:
                    raise Unresolved(
                        f"image {quoted(steps[0])} leads through more than {LONGEST_CHAIN} aliases",
                        (key,),
                    )
                case target if target in steps:
                    circle = " -> ".join([*steps[steps.index(target) :], target])
                    raise Unresolved(f"alias `{target}` leads to itself: {circle}", (key,))
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
                raise Unresolved(f"size {quoted(name)} {why}", ("size",), told=True)
            case _:
                raise _unknown("size", [name], self.sizes, "size")


def _unknown(what: str, steps: Sequence[str], known: Mapping[str, object], key: str) -> Unresolved:
    if not known:
        hint = f" (no image map has any: write `{what}s:` in a document of `kind: images`)"
    else:
        hint = did_you_mean(steps[-1], known) or _first(known)
    message = f"unknown {what} {quoted(steps[-1])}{_by(steps)}{hint}"
    return Unresolved(message, (key,), missing=True)


_NO_PRESET = SizePreset()
_MOST_NAMED = 8


def _first(known: Mapping[str, object]) -> str:
    """A hint where there are too many words to name all."""
    first = ", ".join(islice(known, _MOST_NAMED))
    return f" (known: {first} and {len(known) - _MOST_NAMED} more)"


def _by(steps: Sequence[str]) -> str:
    return f" (by alias {' -> '.join(steps[:-1])})" if len(steps) > 1 else ""


def merge(maps: Sequence[PlacedMap]) -> tuple[ImageMap, list[Trouble]]:
    """All maps as one, and what is wrong with each of them beside the others."""
    troubles: list[Trouble] = []
    labels: dict[str, Image | str | Unusable] = {}
    for word, owners in _owners(maps, "images", "aliases").items():
        index, key = owners[0]
        if len(owners) > 1:
            labels[word] = _doubled(maps, word, owners, troubles)
        elif key == "aliases":
            labels[word] = maps[index].document.aliases[word]
        else:
            labels[word] = _image(word, maps[index])
    sizes: dict[str, SizePreset | Unusable] = {}
    for word, owners in _owners(maps, "sizes").items():
        index, _ = owners[0]
        if len(owners) > 1:
            sizes[word] = _doubled(maps, word, owners, troubles)
        else:
            sizes[word] = maps[index].document.sizes[word]
    merged = ImageMap(_default_label(maps, troubles), labels, sizes)
    return merged, [*troubles, *_dangling(maps, merged)]


def _owners(maps: Sequence[PlacedMap], *keys: str) -> dict[str, list[tuple[int, str]]]:
    """For each word that is defined under one of `keys`: by which maps, and under which key."""
    owners: dict[str, list[tuple[int, str]]] = {}
    for index, placed in enumerate(maps):
        for key in keys:
            for word in getattr(placed.document, key):
                owners.setdefault(word, []).append((index, key))
    return owners


def _doubled(
    maps: Sequence[PlacedMap],
    word: str,
    owners: Sequence[tuple[int, str]],
    troubles: list[Trouble],
) -> Unusable:
    places = listed((maps[index].where for index, _ in owners), "and")
    for index, key in owners:
        message = f"{quoted(word)} is defined in several image maps: {places} (keep one)"
        troubles.append(Trouble(index, (key, word), message))
    return Unusable(f"is defined in several image maps: {places}")


def _default_label(maps: Sequence[PlacedMap], troubles: list[Trouble]) -> str | Unusable | None:
    owners = [index for index, one in enumerate(maps) if one.document.default_label is not None]
    if not owners:
        return None
    if len(owners) == 1:
        return maps[owners[0]].document.default_label
    places = listed((maps[index].where for index in owners), "and")
    for index in owners:
        message = f"several image maps have a `default_label`: {places} (keep one)"
        troubles.append(Trouble(index, ("default_label",), message))
    return Unusable(f"several image maps have a default_label: {places}")


def _image(label: str, placed: PlacedMap) -> Image | Unusable:
    entry = placed.document.images[label]
    source = placed.sources[label]
    if isinstance(source, Unusable):
        return source
    copy = placed.copies.get(label)
    spec = ImageSpec(
        label=label,
        source=source,
        copy=copy if isinstance(copy, str) else None,
        digest=entry.digest,
        decompress=entry.decompress,
        format=entry.format,
        nocloud=entry.nocloud,
        seed_bus=entry.seed_bus,
        firmware=entry.firmware,
        machine=entry.machine,
        ssh_user=entry.ssh_user,
        boot_timeout=entry.boot_timeout,
        max_size=entry.max_size,
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
                if not error.told:
                    found.append(Trouble(index, path, error.message))
    return found
