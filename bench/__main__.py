"""`python -m bench [ROUNDS]`: every figure, with its floor and its limit, on the screen and in `bench/RESULTS.md`;
status 1 when one is missed."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

from bench import chart, cold, crowd, images, jobs, passes, repository, results, usage
from bench.harness import Figure

HERE = Path(__file__).parent
CHART = "results.svg"


def main() -> int:
    """Measure, print, write down, and say whether every limit is met."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    signal.signal(signal.SIGTERM, _left)
    few = max(1, rounds // 3)
    parts: dict[str, Callable[[], Iterable[Figure]]] = {
        "crowds of VMs": crowd.figures,
        "jobs": lambda: [*jobs.figures(few), jobs.line(few)],
        "passes": lambda: [*passes.figures(rounds), *passes.growth(few)],
        "a command, and an agent without VMs": lambda: [cold.status(rounds), cold.memory(few)],
        "commits": lambda: repository.figures(rounds),
        "two hundred idle VMs": lambda: usage.figures(rounds),
        "images": lambda: images.figures(few),
    }
    figures: list[Figure] = []
    lacking: dict[str, str] = {}
    try:
        for name, part in parts.items():
            lacking[name], begun = "it was cut off", time.monotonic()
            try:
                for figure in part():
                    print("\n".join(figure.rows()), flush=True)
                    figures.append(figure)
            except Exception as error:  # noqa: BLE001 - the others are worth having
                lacking[name] = f"{type(error).__name__}: {error}"
                print(f"{name} could not be measured: {lacking[name]}", flush=True)
            else:
                del lacking[name]
            print(f"({name}: {time.monotonic() - begun:.0f} s)", flush=True)
    finally:
        (HERE / CHART).write_text(chart.drawn(figures))
        (HERE / "RESULTS.md").write_text(results.written(figures, CHART, lacking))
    return 0 if not lacking and all(figure.met for figure in figures) else 1


def _left(_number: int, _frame: FrameType | None) -> None:
    """Told to stop: what was begun is ended on the way out."""
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
