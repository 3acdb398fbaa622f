"""One guest, and twenty, and two hundred: starting, asking, finding again, keeping and ending them, by holdfast and by
what else people use.

Each contender has the machine for itself while it is its turn; they take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median

from agent.source.absence import BELIEVED_AFTER
from bench import bare, libvirt, ours
from bench.harness import Figure
from bench.keeper import IDLE, Keeper

SIZES = {1: 5, 20: 3, 100: 2, 200: 3}
"""Machines, and how many turns each contender gets with so many."""
OF_LIBVIRT = {1: 5, 20: 3, 100: 1, 200: 2}
"""The turns among these that libvirt gets: it takes a minute for one with many."""
ASKED = 3
"""Times in a turn, since it is over in a moment."""
BEYOND_ONE = 100.0
"""Milliseconds for a single guest, beyond the floor."""
UP, ASK = 1.5, 1.5
"""Times the floor."""
DOWN, AGAIN = 1500.0, 1000.0
"""Milliseconds; the first beyond the second for which no agent believes that a document is gone."""
WEIGHT = 100.0
"""Megabytes."""
ONE_IDLE = 0.1
"""Percent of a processor, without metrics."""

NAMES = {
    "up": ("all up", "ms"),
    "ask": ("status and block statistics", "ms"),
    "again": ("a new manager knows all, with statistics", "ms"),
    "weight": ("memory of the manager", "MB"),
    "idle": ("idle manager, without metrics", "% of a processor"),
    "down": ("destroy all", "ms"),
}
NOTES = {
    "up": (
        "The agent shares the processors with the QEMUs that it starts, and does what the script does not: it puts"
        " each in a sandbox and under a user of its own, proves that it is the one, and has every step on disk."
    ),
    "ask": (
        "Every sixth time holdfast asks for twice as much, and each time it looks into `/proc` and checks each answer,"
        " since a QEMU may belong to its guest and say anything."
    ),
    "again": (
        "It is Python that starts, imports, reads the documents, proves each process, and listens to it: all of it in"
        " one interpreter, which shares the processors with the QEMUs that greet two connections each."
    ),
    "idle": (
        "Every process is looked at every 2 s and every monitor asked every 10 s, so that a QEMU that is stopped or"
        " hangs is told of within seconds: that is paid for here. libvirt is told of ends, and looks at nothing."
    ),
}
"""Why the bar may be missed."""
_Taken = dict[str, dict[str, list[float]]]


def figures(
    sizes: Mapping[int, int] = SIZES,
    idle: float = IDLE,
    of_libvirt: Mapping[int, int] = OF_LIBVIRT,
) -> Iterator[Figure]:
    """All of them, for every size; libvirt is left out where it is `missing`."""
    with _keepers() as keepers:
        for keeper in keepers:
            keeper.up(1)
            keeper.down()  # the first of everything is thrown away
        for machines, turns in sizes.items():
            largest = machines == max(sizes)
            taken: _Taken = {}
            for turn in range(turns):
                for keeper in keepers:
                    if isinstance(keeper, libvirt.Libvirt) and turn >= of_libvirt.get(machines, 0):
                        continue
                    _turn(keeper, machines, idle if largest and not turn else 0.0, taken)
            for what, samples in taken.items():
                yield _figure(what, machines, samples, largest)


@contextmanager
def _keepers() -> Iterator[Sequence[Keeper]]:
    with ExitStack() as stack:
        keepers: list[Keeper] = [stack.enter_context(bare.kept())]
        if not libvirt.missing():
            keepers.append(stack.enter_context(libvirt.kept()))
        yield [*keepers, stack.enter_context(ours.kept())]


def _turn(keeper: Keeper, machines: int, idle: float, taken: _Taken) -> None:
    def told(what: str, value: float | None) -> None:
        if value is not None:
            taken.setdefault(what, {}).setdefault(keeper.name, []).append(value)

    told("up", keeper.up(machines))
    for _ in range(ASKED):
        told("ask", keeper.ask())
    if idle:
        told("idle", keeper.idle(idle))
    told("again", keeper.again())
    told("weight", keeper.weight())
    told("down", keeper.down())


def _figure(what: str, machines: int, samples: dict[str, list[float]], largest: bool) -> Figure:
    name, unit = NAMES[what]
    figure = partial(Figure, f"{name}, {_number(machines)}", unit, samples)
    floor = median(samples.get(bare.Bare.name, [0.0]))
    limit, rule = _bar(what, machines, floor) if largest or machines == 1 else (None, "")
    why = None if what == "weight" else partial(profiled, what, machines)
    note = NOTES.get(what, "")
    return figure(limit, rule, series=name, size=machines, profile=why, note=note)


def _number(machines: int) -> str:
    return "one VM" if machines == 1 else f"{machines} VMs"


def _bar(what: str, machines: int, floor: float) -> tuple[float | None, str]:
    """What holdfast may take, and how that is said."""
    if machines == 1:
        alone = what == "up"
        return (floor + BEYOND_ONE, f"floor + {BEYOND_ONE:.0f} ms") if alone else (None, "")
    return {
        "up": (UP * floor, f"{UP} of the floor"),
        "ask": (ASK * floor, f"{ASK} of the floor"),
        "again": (AGAIN, f"{AGAIN / 1000} s"),
        "weight": (WEIGHT, f"{WEIGHT:.0f} MB"),
        "idle": (ONE_IDLE, f"{ONE_IDLE} %"),
        "down": (
            DOWN + 1000 * BELIEVED_AFTER,
            f"{DOWN / 1000} s + the {BELIEVED_AFTER:.0f} s that a deletion is doubted",
        ),
    }[what]


def profiled(what: str, machines: int) -> list[str]:
    """Where holdfast's agent spends its time with it."""
    with ours.kept() as keeper:
        lines = keeper.up_profiled(machines)
        if what == "ask":
            lines = keeper.ask_profiled()
        if what == "idle":
            lines = keeper.idle_profiled(IDLE)
        if what == "again":
            lines = keeper.again_profiled()
        if what == "down":
            keeper.again()
            lines = keeper.down_profiled()
        return lines
