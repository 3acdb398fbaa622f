"""What is kept of runs on disk: what each needs, what it said, and its result. It decides nothing.

A run's directory is made under another name and renamed, so that one that is there is whole; `run.json` in it follows
the ledger, so that a lost ledger makes no finished job run again.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent import durable
from agent.errors import Blocked, RetryLater, StartFailed
from agent.jobs.told import result
from agent.paths import RunPaths, StatePaths
from agent.worker import alone
from state.ids import Digest, Name, RunId, Uid
from state.run_rows import run_of, run_row
from state.runs import Run
from state.spec.resolved_job import Attachment, JobSpec
from state.work import Content

Bring = Callable[[str, Digest], bytes]
"""Returns the bytes of a file of the source, by its path and digest."""

Give = Callable[[Name, Sequence[str]], Mapping[str, str]]
"""Returns the values of secrets of the host for a job, by their names. Raises Blocked."""

_PATIENCE = 10.0
"""Seconds for the files that secrets lie in to be read."""


class RunStore:
    """The runs of one state directory."""

    def __init__(
        self, paths: StatePaths, bring: Bring | None = None, give: Give | None = None
    ) -> None:
        """`bring` hands over files of the source, and may take its time; without it no run is queued here. `give` hands
        over secrets; without it there are none."""
        self._paths = paths
        self._bring = bring
        self._give = give

    def of(self, run: RunId) -> RunPaths:
        """Where the files of a run lie."""
        return self._paths.run(run)

    def console(self, uid: Uid, offset: int, at_most: int) -> bytes | None:
        """Bytes of the serial log of an attempt's VM; none where there is no such log, None where it is shorter than
        `offset`, because it was cut."""
        try:
            with self._paths.instance(uid).console_log.open("rb") as log:
                if log.seek(0, os.SEEK_END) < offset:
                    return None
                log.seek(offset)
                return log.read(at_most)
        except OSError:
            return b""

    def enqueue(self, run: Run, spec: JobSpec) -> None:
        """Put down all that the run needs; one that is there already stays. Raises HoldfastError where a file is not
        what it was, and OSError."""
        assert self._bring is not None  # noqa: S101
        self._make(run, spec, self._bring)

    def _make(self, run: Run, spec: JobSpec, bring: Bring) -> None:
        mine = self.of(run.id)
        if mine.record.exists():
            return
        durable.directory(self._paths.runs)
        beside = RunPaths(mine.directory.with_name(f".{run.id}{durable.UNFINISHED}"))
        shutil.rmtree(beside.directory, ignore_errors=True)
        durable.directory(beside.directory)
        durable.directory(beside.inputs)
        for one in _attachments(spec):
            durable.write(beside.input(one.digest), bring(one.path, one.digest), replace=True)
        durable.write(beside.record, _text(run_row(run)), replace=True)
        beside.directory.rename(mine.directory)
        durable.sync_directory(self._paths.runs)

    def again(self, old: Run, new: Run) -> None:
        """Put down all that a rerun needs, which is what the old run needed."""
        spec = JobSpec.from_canonical(old.spec)
        self._make(new, spec, lambda _path, digest: self.of(old.id).input(digest).read_bytes())

    def record(self, run: Run) -> None:
        """Let the run's own files tell what its row is about to tell: the end of a run is believed from here on. Their
        directory is made anew if somebody removed it."""
        mine = self.of(run.id)
        if not mine.directory.exists():
            durable.directory(self._paths.runs)
            durable.directory(mine.directory)
        durable.write(mine.record, _text(run_row(run)), replace=True)
        if run.phase.ended:
            durable.write(mine.result, _text(result(run, mine)), replace=True)

    def script(self, run: Run, spec: JobSpec) -> Content:
        """The program that is to run."""
        if isinstance(spec.script, str):
            return spec.script.encode()
        return self._input(run, spec.script)

    def files(self, run: Run, spec: JobSpec) -> list[tuple[str, Content, int]]:
        """What goes into the guest beside the program: absolute path, content, mode. Nothing of it is read here."""
        return [(one.path, self._input(run, one.content), one.mode) for one in spec.files]

    async def secrets(self, spec: JobSpec) -> Mapping[str, str]:
        """The values of secrets that the host has for the job, by their names; they are written down nowhere. Raises
        Blocked, and RetryLater where what they lie on does not answer."""
        wanted = spec.secrets_of_the_host
        if not wanted:
            return {}
        if self._give is None:
            raise Blocked(
                f"giving the secret `{wanted[0]}` to {spec.name}: this agent has none to give",
                hint="list it in a file, and say --secrets FILE, or put it into `env`",
            )
        try:
            async with asyncio.timeout(_PATIENCE):
                return await alone("secrets", partial(self._give, spec.name, wanted))
        except TimeoutError:
            raise RetryLater(
                f"giving secrets to {spec.name}: what they lie on did not answer within {_PATIENCE:g} s"
            ) from None

    def _input(self, run: Run, one: Attachment) -> Path:
        found = self.of(run.id).input(one.digest)
        try:
            found.stat()
        except OSError as error:
            raise StartFailed(
                f"{run.name} cannot be run: its file {one.path} is not kept any more: {error.strerror}",
                hint=f"run it anew with `holdfast job rerun {run.name}` once its document has changed",
            ) from error
        return found

    def recovered(self) -> Iterator[Run]:
        """Every run whose own file can be read, each with its result if it has ended: a kill may have come between."""
        if not self._paths.runs.is_dir():
            return
        for directory in sorted(self._paths.runs.iterdir()):
            with suppress(OSError, ValueError, KeyError, TypeError):
                run = run_of(json.loads((directory / "run.json").read_text()))
                if run.id == directory.name:
                    if run.phase.ended and not self.of(run.id).result.exists():
                        self.record(run)
                    yield run

    def forget_artifacts(self, run: RunId) -> None:
        """Remove what an attempt left that is not the last."""
        shutil.rmtree(self.of(run).artifacts, ignore_errors=True)

    def shrink(self, run: RunId) -> None:
        """Keep the record and the result of a run alone."""
        mine = self.of(run)
        if mine.log.exists() or mine.inputs.exists():
            for kept in (mine.artifacts, mine.inputs):
                shutil.rmtree(kept, ignore_errors=True)
            for file in mine.directory.glob("log*"):
                file.unlink(missing_ok=True)

    def remove(self, run: RunId) -> None:
        """Remove everything of a run."""
        shutil.rmtree(self.of(run).directory, ignore_errors=True)


def rerun(old: Run, new: RunId, number: int, wall: float) -> Run:
    """A new run of what an ended one ran."""
    return Run(
        id=new,
        name=old.name,
        number=number,
        spec=old.spec,
        spec_digest=old.spec_digest,
        source=replace(old.source),
        phase=type(old.phase).QUEUED,
        queued_at=wall,
    )


def _attachments(spec: JobSpec) -> list[Attachment]:
    script = [] if isinstance(spec.script, str) else [spec.script]
    return [*script, *(one.content for one in spec.files)]


def _text(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
