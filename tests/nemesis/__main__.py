"""`python -m tests.nemesis [--seconds S] [--seed N]`: status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

from state.lifecycle import Phase
from state.runs import RunPhase
from tests.e2e.jobs import IMAGES, Jobs
from tests.e2e.site import Site, image_path, site
from tests.nemesis.faults import Nemesis

VMS = 10
PATIENCE = 600.0
"""Seconds from the last fault until all must be as it is wanted."""
HONEST = {0: RunPhase.SUCCEEDED, 1: RunPhase.FAILED, 2: RunPhase.FAILED}


def wrong(nemesis: Nemesis) -> list[str]:
    """What is not as it must be, now that the faults are over."""
    return [*_of_vms(nemesis), *_of_jobs(nemesis), *_of_the_host(nemesis.site)]


def _of_vms(nemesis: Nemesis) -> Iterator[str]:
    place = nemesis.site
    vms = {str(one.name): one for one in place.instances() if one.kind == "vm"}
    for name, (memory, tier) in nemesis.wanted.items():
        one = vms.get(name)
        asked = f'"memory":{int(memory.removesuffix("MiB")) << 20}'
        if one is None or one.phase is not Phase.RUNNING or one.ready_at is None:
            yield f"{name} is not ready: {place.item(name).get('message')}"
        elif asked not in one.spec or tier not in one.spec:
            yield f"{name} is not as its document says"
    if extra := vms.keys() - nemesis.wanted.keys():
        yield f"nobody wants {sorted(extra)}"


def _of_jobs(nemesis: Nemesis) -> Iterator[str]:
    jobs = Jobs(nemesis.site, images=False)
    for name, code in nemesis.jobs.items():
        run = next(iter(jobs.runs(name)[::-1]), None)
        if run is None or not run.phase.ended:
            yield f"{name} has not ended: {run.phase if run else 'it was never run'}"
        elif (run.phase, run.exit_code) != (HONEST[code], code):
            yield f"{name} is {run.phase} with {run.exit_code}, and should have ended with {code}"
    if left := [one.name for one in nemesis.site.instances() if one.kind == "job"]:
        yield f"machines of jobs are left: {left}"


def _of_the_host(place: Site) -> Iterator[str]:
    instances = place.instances()
    running = {one.process.pid: one.uid for one in instances if one.process}
    if running != place.processes():
        yield f"recorded as running are {running}, and {place.processes()} run"
    if set(os.listdir(place.paths.instances)) != {one.uid for one in instances}:
        yield "directories of instances are amiss"


def doubled(place: Site, stop: threading.Event, found: set[str]) -> None:
    """Look all the while that no machine runs twice."""
    while not stop.wait(0.2):
        for uid, count in Counter(place.processes().values()).items():
            if count > 1:
                found.add(f"I1: {uid} has {count} processes")


def main() -> int:
    """Strike for so many seconds, then let everything come to rest."""
    parser = argparse.ArgumentParser(prog="tests.nemesis", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    said = parser.parse_args()
    violations: set[str] = set()
    with site(image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2"), "tiny") as place:
        place.write("images.yaml", IMAGES.format(image=place.image))
        (place.desired / "mute.img").write_bytes(bytes(1 << 20))
        nemesis = Nemesis(place, [f"vm{number}" for number in range(VMS)], said.seed)
        over = threading.Event()
        watcher = threading.Thread(target=doubled, args=(place, over, violations))
        nemesis.heal()
        nemesis.keep_agent()
        watcher.start()
        try:
            end = time.monotonic() + said.seconds
            while time.monotonic() < end:
                over.wait(nemesis.chance.uniform(0.2, 3.0))
                nemesis.strike()
                nemesis.keep_agent()
            nemesis.heal()
            healed = time.monotonic()
            lacking = ["not looked at yet"]
            while lacking and time.monotonic() < healed + PATIENCE:
                nemesis.keep_agent()
                over.wait(2.0)
                lacking = wrong(nemesis)
            took = time.monotonic() - healed
            violations |= {f"I11: {one}" for one in lacking}
            log = place.log()
            violations |= {log[log.index(word) :][:2000] for word in ("Traceback",) if word in log}
        finally:
            over.set()
            watcher.join()
            nemesis.kill_agent()
    did = ", ".join(f"{what} {count}" for what, count in sorted(nemesis.did.items()))
    print(f"seed {said.seed}: {did}")
    for violation in sorted(violations):
        print(f"violation: {violation}")
    print(
        f"{nemesis.did.total()} faults in {said.seconds:.0f} s on {VMS} VMs, {len(violations)} violations;"
        f" all as wanted {took:.0f} s after the last"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
