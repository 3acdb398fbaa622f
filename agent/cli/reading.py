"""How commands that only look open a state directory: the ledger read-only, and what of it still runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import StateUnusable
from agent.paths import StatePaths
from state.ids import Process
from state.observed import Instance
from state.records import SETTINGS_KEY, LedgerUnreadable, Reader

if TYPE_CHECKING:
    from state.samples import MetricsReader


def open_reader(paths: StatePaths) -> Reader:
    """The ledger, read-only. Raises StateUnusable with what to do."""
    try:
        return Reader.open(paths.database)
    except LedgerUnreadable as error:
        raise StateUnusable(
            f"reading the state directory {paths.root}: {error}",
            hint="say --state DIR, or start an agent with `holdfast run`",
        ) from error


@contextmanager
def measured(paths: StatePaths) -> Iterator[MetricsReader]:
    """What machines have used, as long as the block lasts. Raises StateUnusable with what to do."""
    from state.samples import MetricsReader, MetricsUnusable

    open_reader(paths).close()
    try:
        with closing(MetricsReader(paths.metrics)) as reader:
            yield reader
    except MetricsUnusable as error:
        raise StateUnusable(
            f"reading what VMs of {paths.root} use: {error}",
            hint="an agent measures every 10 s, unless --metrics-interval says otherwise",
        ) from error


@contextmanager
def read(paths: StatePaths) -> Iterator[Reader]:
    """The ledger, read-only, as long as the block lasts. Raises StateUnusable, also for what is met in the block."""
    reader = open_reader(paths)
    try:
        yield reader
    except LedgerUnreadable as error:
        raise StateUnusable(f"reading the state directory {paths.root}: {error}") from error
    finally:
        reader.close()


def of_the_ledger(error: BaseException) -> LedgerUnreadable | None:
    """The trouble with the ledger that `error` is or holds, if there is one."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(of_the_ledger, error.exceptions)), None)
    return error if isinstance(error, LedgerUnreadable) else None


def in_memory(reader: Reader) -> bool:
    """Whether the machines of this state exist in the memory of its agent alone."""
    return bool(json.loads(reader.meta(SETTINGS_KEY) or "{}").get("hypervisor") == "memory")


def alive_of(reader: Reader, agent_pid: int | None) -> Callable[[Instance], bool]:
    """How to tell what still runs: machines in memory live as long as their agent."""
    if in_memory(reader):
        return lambda _: agent_pid is not None
    return still_runs


def still_runs(instance: Instance) -> bool:
    """Whether the recorded process runs, told from /proc alone: boot, pid and start time agree and it is no zombie."""
    process = instance.process
    return process is not None and _runs(process)


def _runs(process: Process) -> bool:
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # proc(5): the command name stands in parentheses and may hold anything, so fields count from the last one.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return (
        boot_id == process.boot_id
        and fields[0] not in ("Z", "X")
        and int(fields[19]) == process.start_ticks
    )
