"""`python -m tests.fuzz TARGET [--seconds S | --runs N] [--seed N] [--corpus DIR]`: status 0 if nothing was found.

What breaks the target is written to `found-…` in the corpus; a fix comes with that file in `tests/fuzz/found/TARGET/`.
"""

from __future__ import annotations

import argparse
import re
import sys
from hashlib import sha256
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["agent", "state", "qemu.qmp"]):
    from tests.fuzz.targets import FOUND, TARGETS

SLOWEST = 30
"""Seconds that one input may take."""
MEMORY = 2048
"""MiB."""


def main() -> None:
    """Fuzz one target; ends the process."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, default=Path(".cache/fuzz"))
    said = parser.parse_args()
    target = TARGETS[said.target]
    corpus = said.corpus / said.target
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = [*target.seeds, *(one.read_bytes() for one in FOUND.glob(f"{said.target}/*"))]
    for seed in seeds:
        (corpus / sha256(seed).hexdigest()).write_bytes(seed)
    tokens = {token for seed in seeds for token in re.findall(rb"[A-Za-z_]\w+", seed)} or {b"QFI"}
    dictionary = said.corpus / f"{said.target}.dict"
    dictionary.write_text("".join(f'"{token.decode()}"\n' for token in sorted(tokens)))
    words = [
        f"-dict={dictionary}",
        f"-max_total_time={said.seconds}",
        f"-runs={said.runs}",
        f"-seed={said.seed}",
        f"-max_len={target.longest}",
        "-len_control=0",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={corpus}/found-",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *words], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
