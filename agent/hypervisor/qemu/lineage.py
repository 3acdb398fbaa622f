"""Finds the id of a state directory that has lost it: the machines that were born in it bear it on their command lines.

It refuses to believe a command line, which anybody can write: a machine's uid is made from that id, and only the right
one makes it again.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.hypervisor.qemu import argv, files, process
from agent.paths import StatePaths
from state.ids import Uid, instance_uid


def state_id(paths: StatePaths) -> str | None:
    """The id of the state directory, told by a process whose files lie in it; None where none runs."""
    for kept in files.all_kept(paths):
        for told in _marks(kept.uid):
            made = (instance_uid(told, kind, kept.name, kept.generation) for kind in ("vm", "job"))
            if kept.uid in made:
                return told
    return None


def _marks(uid: Uid) -> Iterator[str]:
    """What processes that say they are this machine say of where they belong."""
    for pid in process.with_command_line(lambda words: uid in words, uid.encode()):
        if (told := argv.marked_state(process.command_line(pid))) is not None:
            yield told
