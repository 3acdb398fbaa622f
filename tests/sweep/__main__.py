"""`python -m tests.sweep [lines|operations|fetches] [--sample N] [--seed S]`: status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.sweep.engine import ALL
from tests.sweep.shares import SWEEPS, swept, whole


def main() -> int:
    """Print points, violations and seconds."""
    parser = argparse.ArgumentParser(prog="tests.sweep", description=__doc__)
    parser.add_argument("what", choices=list(SWEEPS), nargs="?", default="lines")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    said = parser.parse_args()
    what, sample, seed = said.what, said.sample, said.seed
    told = whole(what, seed) if sample is None else swept(ALL, what, sample, seed)
    counts = ", ".join(f"{name} {count}" for name, count in told.lines.items())
    print(f"seed {seed}; {what}: {counts}")
    for violation in told.violations:
        print(f"violation: {violation}")
    print(
        f"{told.points} points ({told.unreached} of them not reached), {len(told.violations)} violations,"
        f" {told.seconds:.0f} seconds"
    )
    return 1 if told.violations else 0


if __name__ == "__main__":
    sys.exit(main())
