"""What the documents of a source say together, for one host: which vms and jobs are wanted, and which names nobody may
touch.

Two documents that contradict each other are both problems, so that an instance which one of them made is held as it is
and never lost to the other. No name is both wanted and held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from agent.source.circles import circles
from agent.source.documents import Reading
from agent.source.ports import contested
from state.desired import Advice, Problem, SourceRef, WantedJob, WantedVm
from state.ids import Name
from state.spec.complaints import Path
from state.spec.imagemap import ImageMap, PlacedMap, Trouble, Unresolved, Unusable, merge
from state.spec.images import ImagesDocument
from state.spec.job import JobDocument
from state.spec.kinds import OWNERS
from state.spec.resolve import resolve_job, resolve_vm
from state.spec.resolved import ImageSpec
from state.spec.vm import VmDocument
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
    jobs: dict[Name, WantedJob] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    images: dict[str, ImageSpec] = field(default_factory=dict)


class Assembler:
    """Puts documents together, again and again; what did not change is not resolved again."""

    def __init__(self, host: str, place: Place, locate: Locate) -> None:
        self._host = host
        self._place = place
        self._locate = locate
        self._maps: dict[Reading, PlacedMap] = {}
        self._merged: tuple[ImageMap, list[Trouble]] = (ImageMap(), [])
        self._wanted: dict[Reading, WantedVm | WantedJob] = {}
        self._found = Assembled()
        self._blames: list[_Blame] = []
        self._advised: list[tuple[Reading, Path, str]] = []

    def still_holds(self) -> bool:
        """Whether the sources of images lie where they lay; the rest only changes with the documents."""
        return all(self._place(reading) == placed for reading, placed in self._maps.items())

    def assemble(
        self, readings: Sequence[Reading], outside: Sequence[Reading] = (), *, whole: bool = True
    ) -> Assembled:
        """`outside` are the documents of an image map that the operator gives beside the tree. `whole` False: there may
        be image maps elsewhere, so that without any here labels are left unresolved."""
        self._found = Assembled()
        self._blames, self._advised = [], []
        for reading in (*readings, *outside):
            if reading.problems:
                self._found.problems += self._own_problems(reading)
        mine = [one for one in readings if self.is_mine(one)]
        alone = self._without_doubles(mine)
        maps = [one for one in outside if one.document is not None and self.is_mine(one)]
        maps += [one for one in alone if isinstance(one.document, ImagesDocument)]
        merged = self._merge(maps)
        self._found.labels, self._found.images = merged.meanings(), merged.images()
        if whole or maps:
            broken = [one for one in (*outside, *mine) if one.problems]
            gap = next(filter(None, map(self._gap, broken)), "")
            self._resolve(alone, merged, gap)
        if whole:
            self._tell_strangers(mine, alone)
        for wrong in (*contested(alone), *circles(alone)):
            self._blame(*wrong)
        self._locate_all()
        for name in {problem.name for problem in self._found.problems if problem.name}:
            self._found.vms.pop(name, None)
            self._found.jobs.pop(name, None)
        return self._found

    def is_mine(self, reading: Reading) -> bool:
        """Whether a document is for this host; one that does not say for which may be."""
        return reading.hosts is None or any(
            pattern == "*" or fnmatchcase(self._host, pattern) for pattern in reading.hosts
        )

    # One document

    def _own_problems(self, reading: Reading) -> Iterable[Problem]:
        """A broken document of another host's is told, but concerns no name here."""
        if not self.is_mine(reading):
            return [replace(problem, name=None) for problem in reading.problems]
        return reading.problems

    def _blame(
        self,
        reading: Reading,
        path: Path,
        message: str,
        *,
        at_key: bool = False,
        told: bool = False,
    ) -> None:
        self._blames.append(_Blame(reading, path, at_key, message, told))

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
                    name=reading.owner,
                    kind=reading.kind,
                    told=blame.told,
                )
            )
        for reading, path, message in self._advised:
            line, _ = self._locate(reading, path, True)
            where = SourceRef(reading.ref.file, line, reading.ref.commit)
            self._found.advice.append(Advice(where, message))

    # Several documents

    def _without_doubles(self, mine: Sequence[Reading]) -> list[Reading]:
        """The usable documents that share their name with no other of their kind, or of one that it may not be shared
        with, whether that is usable or not."""
        first: dict[tuple[str | None, Name], Reading] = {}
        doubles: dict[tuple[str | None, Name], list[Reading]] = {}
        for reading in mine:
            if reading.name is not None:
                key = ("owner" if reading.kind in OWNERS else reading.kind, reading.name)
                if (other := first.setdefault(key, reading)) is not reading:
                    doubles.setdefault(key, [other]).append(reading)
        for (_, name), same in doubles.items():
            mixed = len({reading.kind for reading in same}) > 1
            hint = "a vm and a job cannot have one name: rename one" if mixed else "keep one"
            for reading in same:
                what = f"{reading.kind or 'document'} {quoted(name)}"
                places = _others(reading, same)
                self._blame(reading, ("name",), f"{what} is also in {places} ({hint})")
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
                key = "local_path" if entry.source is None else "source"
                message = f"image {quoted(label)} {source.why}"
                self._blame(reading, ("images", label, key), message)
            if label in placed.outside:
                message = (
                    f"image {quoted(label)} lies outside the tree: an agent takes it only where"
                    " --image-root allows its directory"
                )
                self._advised.append((reading, ("images", label), message))
            if isinstance(copy := placed.copies.get(label), Unusable):
                message = f"image {quoted(label)} is fetched: its `local_path` {copy.why}"
                self._advised.append((reading, ("images", label), message))
            if entry.digest is None:
                message = f"image {quoted(label)} has no sha256: nothing proves what is downloaded"
                self._advised.append((reading, ("images", label), message))

    @staticmethod
    def _gap(reading: Reading) -> str:
        """What a broken document could have defined, had it been readable."""
        if reading.kind == "images" or reading.may_own_any_name:
            return f"; it may be in {reading.problems[0].file}, which has a problem of its own"
        return ""

    def _resolve(self, alone: Iterable[Reading], images: ImageMap, gap: str) -> None:
        wanted: dict[Reading, WantedVm | WantedJob] = {}
        for reading in alone:
            found = self._wanted.get(reading)
            if found is None:
                try:
                    found = _resolved(reading, images)
                except Unresolved as error:
                    hint = gap if error.missing else ""
                    self._blame(reading, error.path, f"{error.message}{hint}", told=error.told)
                    continue
            match found:
                case WantedVm():
                    self._found.vms[found.spec.name] = found
                case WantedJob():
                    self._found.jobs[found.spec.name] = found
                case None:
                    continue
            wanted[reading] = found
        self._wanted = wanted

    def _tell_strangers(self, mine: Sequence[Reading], alone: Sequence[Reading]) -> None:
        """What depends on a vm that no document names waits for it, for ever if that was a slip."""
        asking = [
            (reading, reading.document)
            for reading in alone
            if isinstance(reading.document, VmDocument) and reading.document.depends_on
        ]
        if not asking or any(reading.may_own_any_name for reading in mine):
            return
        vms = {reading.name for reading in mine if reading.kind in ("vm", None)}
        for reading, document in asking:
            for index, name in enumerate(document.depends_on):
                if name not in vms:
                    message = (
                        f"{quoted(document.name)} depends on {quoted(name)}, and no document for this host"
                        " makes a vm of that name: it waits"
                    )
                    self._advised.append((reading, ("depends_on", index), message))


@dataclass(frozen=True, slots=True)
class _Blame:
    """What is wrong with a document beside others, at a path whose place is still to be found."""

    reading: Reading
    path: Path
    at_key: bool
    message: str
    told: bool


def _resolved(reading: Reading, images: ImageMap) -> WantedVm | WantedJob | None:
    """What a document asks for; None for one that asks for nothing. Raises Unresolved."""
    match reading.document:
        case VmDocument() as document:
            return WantedVm(resolve_vm(document, images, reading.user_data), reading.ref)
        case JobDocument() as document:
            return WantedJob(resolve_job(document, images, reading.attachments), reading.ref)
        case _:
            return None


def _others(reading: Reading, same: Sequence[Reading]) -> str:
    """Where the others are; of many the first few."""
    first = [str(one.ref) for one in same[: _MOST_NAMED + 1] if one is not reading][:_MOST_NAMED]
    more = len(same) - 1 - len(first)
    return listed([*first, f"{more} more"] if more else first, "and")
