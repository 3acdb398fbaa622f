"""`python -m bench [PART ...]`: every figure, with its floor and its limit, on the screen and in `bench/RESULTS.md`;
status 1 when one could not be measured. Only parts of them: on the screen alone."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

from bench import chart, cold, crowd, images, jobs, libvirt, passes, repository, results, usage
from bench.harness import Figure

HERE = Path(__file__).parent
CHART = "results.svg"
_TOLD_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ROUNDS, FEW = 10, 3
"""Turns of each contender: of what takes milliseconds, and of what takes seconds."""

PARTS: dict[str, Callable[[], Iterable[Figure]]] = {
    "crowds": crowd.figures,
    "jobs": lambda: [*jobs.figures(FEW), jobs.line(FEW)],
    "passes": lambda: [*passes.figures(ROUNDS), *passes.growth(FEW)],
    "cold": lambda: [cold.status(ROUNDS), cold.memory(FEW)],
    "commits": lambda: repository.figures(ROUNDS),
    "idle": lambda: usage.figures(FEW),
    "images": lambda: images.figures(FEW),
}


def main() -> int:
    """Measure, print, and write down."""
    told = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    told.add_argument("part", nargs="*", help=f"one of {', '.join(PARTS)}")
    parts = told.parse_args().part
    if unknown := set(parts) - set(PARTS):
        told.error(f"no part is called {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    for one in _TOLD_TO_STOP:
        signal.signal(one, _left)
    lacking: dict[str, str] = {}
    if not parts and (why := libvirt.missing()):
        lacking["libvirt"] = why
    try:
        figures = list(_measured(parts or list(PARTS), lacking))
    except SystemExit:
        print("cut off: bench/RESULTS.md stays as it was", file=sys.stderr)
        return 1
    if not parts:
        # This profiles what was missed: told to stop meanwhile, it writes nothing either.
        page = results.written(figures, CHART, lacking)
        (HERE / CHART).write_text(chart.drawn(figures))
        (HERE / "RESULTS.md").write_text(page)
    return 1 if lacking else 0


def _measured(parts: Iterable[str], lacking: dict[str, str]) -> Iterable[Figure]:
    """Every figure of these parts, printed; into `lacking` goes what could not be measured, and why."""
    for name in parts:
        begun = time.monotonic()
        try:
            for figure in PARTS[name]():
                print("\n".join(figure.rows()), flush=True)
                yield figure
        except Exception as error:  # noqa: BLE001 - the others are worth having
            if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
                sys.exit(1)  # we were told to stop: it is what went wrong on the way out
            lacking[name] = f"{type(error).__name__}: {error}"
            print(f"{name} could not be measured: {lacking[name]}", flush=True)
        print(f"({name}: {time.monotonic() - begun:.0f} s)", flush=True)


def _left(_number: int, _frame: FrameType | None) -> None:
    """What was begun is ended on the way out, by us and by what we begin for that: nothing more cuts that off."""
    for one in _TOLD_TO_STOP:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
