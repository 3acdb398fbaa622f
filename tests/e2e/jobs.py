"""Jobs on a site: their documents, their results, and that nothing of them is left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from state.records import LedgerUnreadable, Reader
from state.runs import Run, RunPhase
from tests.e2e.site import DEADLINE, Site

NO_RETRIES = "retries: {infrastructure: 0, interrupted: 0, script: 0}"

JOB = """\
api: holdfast/v1
kind: job
name: {name}
size: small
{more}
script: |
  #!/bin/sh
{script}
"""

IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: tiny
aliases: {{other: copy}}
sizes:
  small: {{cpus: 1, memory: 112MiB}}
images:
  tiny: {{source: "{image}", ssh_user: tiny, boot_timeout: 5m}}
  copy: {{source: "{image}", ssh_user: tiny, boot_timeout: 5m}}
  mute: {{source: mute.img, format: raw, ssh_user: tiny, boot_timeout: 5m}}
"""
"""`mute` is a disk that nothing can be booted from."""


class Jobs:
    """The jobs of one site."""

    def __init__(self, site: Site, *, images: bool = True) -> None:
        """`images`: with an image map that has more than the site's own."""
        self.site = site
        if not images:
            return
        with (site.desired / "mute.img").open("wb") as disk:
            disk.truncate(64 << 20)
        site.write("images.yaml", IMAGES.format(image=site.image))

    def write(self, name: str, script: str, *more: str) -> None:
        lines = "\n".join(f"  {line}" for line in script.strip().splitlines())
        self.site.write(f"{name}.yaml", JOB.format(name=name, script=lines, more="\n".join(more)))

    # What is told

    def runs(self, name: str) -> list[Run]:
        """As the ledger knows them, oldest first."""
        try:
            reader = Reader.open(self.site.paths.database)
        except LedgerUnreadable:
            return []  # no agent has made it yet
        try:
            return [run for run in reader.runs() if run.name == name]
        finally:
            reader.close()

    def phase(self, name: str, *phases: RunPhase) -> Run:
        """Wait until the latest run is in one of these phases; that run."""

        def look() -> Run | None:
            found = self.runs(name)
            return found[-1] if found and found[-1].phase in phases else None

        run: Run = self.site.until(look, f"{name} is {' or '.join(phases)}")
        return run

    def log(self, name: str) -> str:
        """What `holdfast logs` prints of it; empty where nothing has been said."""
        told = self.site.call("logs", name)
        assert told.returncode == 0 or b"has said nothing" in told.stderr, told.stderr
        return told.stdout.decode()

    def written(self, name: str) -> str:
        """The log of its latest run as it lies there, for those who look again and again; empty where there is none."""
        runs = self.runs(name)
        path = self.site.paths.run(runs[-1].id).log if runs else None
        return path.read_text(errors="replace") if path and path.exists() else ""

    def says(self, name: str, words: str) -> None:
        """Wait until its log has a line of exactly these words."""
        self.site.until(lambda: words in self.written(name).splitlines(), f"it says {words}")
        assert words in self.log(name).splitlines()

    def result(self, run: Run) -> dict[str, Any]:
        """Its result.json."""
        found: dict[str, Any] = json.loads(self.site.paths.run(run.id).result.read_text())
        return found

    # What must hold

    def ended(self, name: str, phase: RunPhase, reason: str, exit_code: int | None = None) -> Run:
        """Wait for the end of the one run of a name, and look at everything that tells of it."""
        run = self.phase(name, *(one for one in RunPhase if one.ended))
        assert (run.phase, run.reason, run.exit_code) == (phase, reason, exit_code), (
            run, self.log(name), self.site.log(),
        )  # fmt: skip
        assert [one.id for one in self.runs(name)] == [run.id]
        self.at_rest()
        told = self.result(run)
        assert (told["phase"], told["reason"], told["exit_code"]) == (phase, reason, exit_code)
        [said] = json.loads(self.site.call("job history", name, "-o", "json").stdout)
        assert said == told
        return run

    def at_rest(self) -> None:
        """Every run has one result, and nothing of the jobs' VMs is left: no process, no file, no socket, no port."""
        paths = self.site.paths

        def settled() -> bool:
            reader = Reader.open(paths.database)
            try:
                return (
                    all(run.phase.ended for run in reader.runs())
                    and not reader.instances()
                    and not any(one.ssh_port for one in reader.names().values())
                )
            finally:
                reader.close()

        self.site.until(settled, "nothing is recorded of any VM")
        self.site.until(lambda: self.site.processes() == {}, "no process is left", DEADLINE / 5)
        assert os.listdir(paths.instances) == []
        assert [one for one in os.listdir(paths.sockets) if one != "api.sock"] == []
        runs = sorted(path for path in paths.runs.iterdir())
        assert all((path / "result.json").exists() for path in runs), runs
        assert not [path for path in paths.runs.rglob("*") if _unfinished(path)]


def _unfinished(path: Path) -> bool:
    return path.name.startswith(".")


def count(text: str, line: str) -> int:
    """How often a log has a line of exactly these words."""
    return text.splitlines().count(line)
