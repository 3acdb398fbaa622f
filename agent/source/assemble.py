"""What the documents of a source say together, for one host: which vms are wanted, and which names nobody may touch.

Two documents that contradict each other are both problems, so that an instance which one of them made is held as it is
and never lost to the other. No name is both wanted and held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from agent.source.documents import Reading
from state.desired import Advice, Problem, SourceRef, WantedVm
from state.ids import Name
from state.spec.complaints import Path
from state.spec.imagemap import ImageMap, PlacedMap, Trouble, Unresolved, Unusable, merge
from state.spec.images import ImagesDocument
from state.spec.resolve import resolve_vm
from state.spec.vm import ANYWHERE, VmDocument
from state.spec.words import listed, quoted

Locate = Callable[[Reading, Path, bool], tuple[int, int]]
"""Line and column of the value at a path of a document, or of its key where the last argument is true."""
Place = Callable[[Reading], PlacedMap]
"""An images document with its sources placed."""

_MOST_NAMED = 3


@dataclass(slots=True)
class Assembled:
    """What the documents say together."""

    vms: dict[Name, WantedVm] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)


class Assembler:
    """Puts documents together, again and again; what did not change is not resolved again."""

    def __init__(self, host: str, place: Place, locate: Locate) -> None:
        self._host = host
        self._place = place
        self._locate = locate
        self._maps: dict[Reading, PlacedMap] = {}
        self._merged: tuple[ImageMap, list[Trouble]] = (ImageMap(), [])
        self._wanted: dict[Reading, WantedVm] = {}
        self._found = Assembled()
        self._blames: list[_Blame] = []
        self._unpinned: list[tuple[Reading, str]] = []

    def still_holds(self) -> bool:
        """Whether the sources of images lie where they lay; the rest only changes with the documents."""
        return all(self._place(reading) == placed for reading, placed in self._maps.items())

    def assemble(
        self, readings: Sequence[Reading], outside: Sequence[Reading] = (), *, whole: bool = True
    ) -> Assembled:
        """`outside` are the documents of an image map that the operator gives beside the tree. `whole` False: there may
        be image maps elsewhere, so that without any here labels are left unresolved."""
        self._found = Assembled()
        self._blames, self._unpinned = [], []
        for reading in (*readings, *outside):
            self._found.problems += self._own_problems(reading)
        mine = [one for one in readings if self.is_mine(one)]
        alone = self._without_doubles(mine)
        maps = [one for one in outside if one.document is not None and self.is_mine(one)]
        maps += [one for one in alone if isinstance(one.document, ImagesDocument)]
        merged = self._merge(maps)
        if whole or maps:
            gap = next(filter(None, map(self._gap, (*outside, *mine))), "")
            self._resolve(alone, merged, gap)
        self._check_ports(alone)
        self._locate_all()
        for name in {problem.name for problem in self._found.problems if problem.name}:
            self._found.vms.pop(name, None)
        return self._found

    def is_mine(self, reading: Reading) -> bool:
        """Whether a document is for this host; one that does not say for which may be."""
        return reading.hosts is None or any(
            pattern == "*" or fnmatchcase(self._host, pattern) for pattern in reading.hosts
        )

    # One document

    def _own_problems(self, reading: Reading) -> Iterable[Problem]:
        """A broken document of another host's is told, but concerns no name here."""
        if reading.problems and not self.is_mine(reading):
            return [replace(problem, name=None) for problem in reading.problems]
        return reading.problems

    def _blame(self, reading: Reading, path: Path, message: str, *, at_key: bool = False) -> None:
        self._blames.append(_Blame(reading, path, at_key, message))

    def _locate_all(self) -> None:
        """Where everything stands that was found; file by file, since each has to be read for it."""
        for blame in sorted(self._blames, key=lambda one: one.reading.path):
            reading = blame.reading
            place = self._locate(reading, blame.path, blame.at_key)
            self._found.problems.append(
                Problem(
                    reading.ref.file,
                    *place,
                    blame.message,
                    name=reading.vm_name,
                    kind=reading.kind,
                )
            )
        for reading, label in self._unpinned:
            line, _ = self._locate(reading, ("images", label), True)
            message = f"image {quoted(label)} has no sha256: nothing proves what is downloaded"
            where = SourceRef(reading.ref.file, line, reading.ref.commit)
            self._found.advice.append(Advice(where, message))

    # Several documents

    def _without_doubles(self, mine: Sequence[Reading]) -> list[Reading]:
        """The usable documents that share kind and name with no other, usable or not."""
        first: dict[tuple[str | None, Name], Reading] = {}
        doubles: dict[tuple[str | None, Name], list[Reading]] = {}
        for reading in mine:
            if reading.name is not None:
                key = (reading.kind, reading.name)
                if (other := first.setdefault(key, reading)) is not reading:
                    doubles.setdefault(key, [other]).append(reading)
        for (kind, name), same in doubles.items():
            what = f"{kind or 'document'} {quoted(name)}"
            for reading in same:
                places = _others(reading, same)
                self._blame(reading, ("name",), f"{what} is also in {places} (keep one)")
        return [
            reading
            for key, reading in first.items()
            if key not in doubles and reading.document is not None
        ]

    def _merge(self, maps: Sequence[Reading]) -> ImageMap:
        placed = {reading: self._place(reading) for reading in maps}
        if placed != self._maps:
            self._maps = placed
            self._merged = merge(list(placed.values()))
            self._wanted = {}
        merged, troubles = self._merged
        for trouble in troubles:
            self._blame(maps[trouble.index], trouble.path, trouble.message, at_key=True)
        for reading, one in placed.items():
            self._tell_images(reading, one)
        return merged

    def _tell_images(self, reading: Reading, placed: PlacedMap) -> None:
        for label, entry in placed.document.images.items():
            source = placed.sources[label]
            if isinstance(source, Unusable):
                key = "source" if entry.local_path is None else "local_path"
                message = f"image {quoted(label)} {source.why}"
                self._blame(reading, ("images", label, key), message)
            if entry.digest is None:
                self._unpinned.append((reading, label))

    @staticmethod
    def _gap(reading: Reading) -> str:
        """What could have defined a word, had it been readable."""
        if reading.problems and (reading.kind == "images" or reading.may_own_any_name):
            return f"; it may be in {reading.problems[0].file}, which has a problem of its own"
        return ""

    def _resolve(self, alone: Iterable[Reading], images: ImageMap, gap: str) -> None:
        wanted: dict[Reading, WantedVm] = {}
        for reading in alone:
            document = reading.document
            if not isinstance(document, VmDocument):
                continue
            found = self._wanted.get(reading)
            if found is None:
                try:
                    spec = resolve_vm(document, images, reading.user_data)
                except Unresolved as error:
                    hint = gap if error.missing else ""
                    self._blame(reading, error.path, f"{error.message}{hint}")
                    continue
                found = WantedVm(spec, reading.ref)
            wanted[reading] = found
            self._tell_of_the_future(reading, document)
        self._wanted = wanted
        self._found.vms = {found.spec.name: found for found in wanted.values()}

    def _tell_of_the_future(self, reading: Reading, document: VmDocument) -> None:
        """What is checked but not acted on yet must not be mistaken for what is done."""
        for field_, said in (("health", document.health), ("depends_on", document.depends_on)):
            if said:
                message = (
                    f"{document.name}: `{field_}` is checked, but this version does not act on it"
                )
                self._found.advice.append(Advice(reading.ref, message))

    def _check_ports(self, alone: Iterable[Reading]) -> None:
        owners: dict[int, Reading] = {}
        crowded = {
            port.host
            for reading in alone
            if isinstance(reading.document, VmDocument)
            for port in reading.document.ports
            if owners.setdefault(port.host, reading) is not reading
        }
        if crowded:
            self._check_crowded_ports(alone, crowded)

    def _check_crowded_ports(self, alone: Iterable[Reading], crowded: Set[int]) -> None:
        by_port: dict[int, list[_Claim]] = defaultdict(list)
        for reading in alone:
            if isinstance(reading.document, VmDocument):
                for index, port in enumerate(reading.document.ports):
                    if port.host in crowded:
                        by_port[port.host].append(_Claim(reading, index, port.address))
        for port_number, claims in by_port.items():
            by_address: dict[str, list[_Claim]] = defaultdict(list)
            for claim in claims:
                by_address[claim.address].append(claim)
            for claim in claims:
                rivals = (
                    claims
                    if claim.address == ANYWHERE
                    else (*by_address[claim.address][:2], *by_address.get(ANYWHERE, ()))
                )
                rival = next((one for one in rivals if one.reading is not claim.reading), None)
                if rival is not None:
                    self._blame(
                        claim.reading,
                        ("ports", claim.index),
                        f"host port {claim.address}:{port_number} is also wanted by"
                        f" {quoted(rival.reading.name)} in {rival.reading.ref}, on"
                        f" {rival.address} (give one of them another port)",
                    )


@dataclass(frozen=True, slots=True)
class _Blame:
    """What is wrong with a document beside others, at a path whose place is still to be found."""

    reading: Reading
    path: Path
    at_key: bool
    message: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """A document that wants a port of the host on an address."""

    reading: Reading
    index: int
    address: str


def _others(reading: Reading, same: Sequence[Reading]) -> str:
    """Where the others are; of many the first few."""
    first = [str(one.ref) for one in same[: _MOST_NAMED + 1] if one is not reading][:_MOST_NAMED]
    more = len(same) - 1 - len(first)
    return listed([*first, f"{more} more"] if more else first, "and")
