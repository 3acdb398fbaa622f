"""Asking the agent of a state directory to leave, in time for its jobs to end or with these cancelled first."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from agent.errors import Blocked, HoldfastError, StateInUse, StateUnusable
from agent.paths import StatePaths
from state.records import SETTINGS_KEY

if TYPE_CHECKING:
    from state.ids import RunId
    from state.records import Reader
    from state.runs import Run

_AGENT_LEAVES = 30.0
"""Seconds that a running agent gets to finish its steps and leave, beside those that its slowest guest gets."""
_REMIND = 0.5


def under_way(state: StatePaths) -> set[RunId]:
    """The runs that have not ended; none where that cannot be told."""
    from agent.cli.reading import read

    with suppress(HoldfastError), read(state) as reader:
        return {run.id for run in unended(reader)}
    return set()


def unended(reader: Reader) -> list[Run]:
    """The runs that have not ended, oldest first."""
    return [run for run in reader.runs() if not run.phase.ended]


def _cancel_runs(state: StatePaths) -> None:
    """Ask the running agent to cancel what it runs, so that this is what the results say. One that does not answer ends
    the runs all the same, as it leaves."""
    from agent.cli.reading import read
    from agent.web.client import ask_of_job

    with suppress(HoldfastError), read(state) as reader:
        for run in unended(reader):
            with suppress(Blocked):
                ask_of_job(state.api_socket, run.name, "cancel")


def stop_agent(state: StatePaths, *, cancel: bool, sparing: bool) -> bool:
    """Ask the agent that holds the state directory to leave, and wait until it has; whether there was one. `cancel`:
    what its jobs run is cancelled, instead of being given the time that it gives them. `sparing`: it lets its VMs run
    on, also where it was told to take them down."""
    from agent.cli.leaving import SPARE
    from agent.statedir import UNSEEN, holder

    pid = holder(state)
    if pid is None:
        return False
    if pid == UNSEEN:
        raise StateInUse(
            f"the agent of {state.root} cannot be stopped from here: its process cannot be seen",
            hint="stop it where it runs, perhaps in another container, and try again",
        )
    try:
        agent = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The pid may be another's by now; only if it still holds the lock is it the one that was meant.
        if holder(state) != pid:
            return False
        if cancel:
            _cancel_runs(state)
        seconds = patience(state, sparing=sparing) + (0.0 if cancel else _drain_timeout(state))
        number = SPARE if sparing else signal.SIGTERM
        if not _left_in_time(agent, seconds, state, number, again=cancel):
            raise StateInUse(
                f"the agent with pid {pid} did not leave within {seconds:.0f} s",
                hint="see what it is doing with `holdfast events`, end it, and try again",
            )
    finally:
        os.close(agent)
    return True


def _drain_timeout(state: StatePaths) -> float:
    from agent.cli.reading import read
    from agent.config import Settings

    settings = Settings()
    with suppress(HoldfastError), read(state) as reader:
        settings = Settings.from_json(reader.meta(SETTINGS_KEY))
    return settings.drains_for


def _left_in_time(
    agent: int, seconds: float, state: StatePaths, number: signal.Signals, *, again: bool
) -> bool:
    """Tell the process behind a pidfd to leave, with the signal `number`; `again` while it has running jobs: told
    twice, it gives them no more time."""
    import select

    end, told = time.monotonic() + seconds, False
    while (left := end - time.monotonic()) > 0:
        if not told or (again and _jobs_run(state)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(agent, number)
            told = True
        if select.select([agent], [], [], min(left, _REMIND))[0]:
            return True
    return False


def _jobs_run(state: StatePaths) -> bool:
    from agent.cli.reading import read

    with suppress(HoldfastError), read(state) as reader:
        return any(run.phase.active for run in unended(reader))
    return False


def patience(state: StatePaths, *, sparing: bool = False) -> float:
    """Seconds to wait for the agent: it may be about to end a guest, which is given its `stop_timeout`, and has to end
    all of them after that where it was told to take its VMs down."""
    from agent.cli.reading import read
    from agent.config import Settings
    from agent.parting import grace_of, longest

    seconds = _AGENT_LEAVES
    with suppress(StateUnusable), read(state) as reader:
        instances = reader.instances()
        seconds += max(map(grace_of, instances), default=0.0)
        said = Settings.from_json(reader.meta(SETTINGS_KEY)).on_stop
        if said == "shutdown" and not sparing:
            seconds += longest(instances)
    return seconds
