"""`python -m bench [ROUNDS]`: every figure, with its floor and its limit; status 1 when one is missed."""

from __future__ import annotations

import os
import platform
import sys

from bench import cold, images, jobs, passes, repository, start, usage


def main() -> int:
    """Measure, print, and say whether every limit is met."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} processors")
    figures = [
        start.figure(rounds),
        jobs.figure(max(1, rounds // 3)),
        jobs.line(max(1, rounds // 3)),
        passes.figure(rounds),
        cold.status(rounds),
        cold.memory(max(1, rounds // 3)),
        *repository.figures(rounds),
        *usage.figures(rounds),
        *images.figures(max(1, rounds // 2)),
    ]
    for figure in figures:
        print("\n".join(figure.rows()))
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
