"""A guest that talks to the operator's terminal: no command obeys it but `console`, whose business that is."""

from __future__ import annotations

import pytest

from state.runs import RunPhase
from tests.e2e.jobs import NO_RETRIES, Jobs
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(600)]

SCRIPT = r"""
printf '\033]0;evil\007\033[2J\302\233\342\200\256over\rwritten\n' | tee /dev/console
mkdir -p /root/out
echo x >"/root/out/$(printf '\033[31mred')"
exit 3
"""
COMMANDS = (
    *(("logs", "evil"), ("status",), ("explain", "evil"), ("events",)),
    *(("job history", "evil"), ("job artifacts", "evil")),
)
ACTS = ("\x1b", "\x07", "\x9b", "\u202e", "\r")


def test_what_a_guest_prints_acts_on_no_terminal(tiny: Site) -> None:
    """Sabotage: write a piece of a log to the terminal as it is."""
    jobs = Jobs(tiny)
    jobs.write("evil", SCRIPT, NO_RETRIES, "artifacts: ['/root/out/*']")
    with tiny.agent():
        run = jobs.ended("evil", RunPhase.FAILED, "ScriptFailed", 3)
        raw = tiny.paths.run(run.id).log.read_bytes()
        assert b"\x1b]0;evil\x07" in raw, "it is stored as it came"
        said = {}
        for words in COMMANDS:
            told = tiny.call(*words)
            assert told.returncode == 0, told
            said[words[0]] = (told.stdout + told.stderr).decode()
    assert r"\x1b]0;evil\x07\x1b[2J\x9b\u202eover\rwritten" in said["logs"]
    assert "%1B[31mred" in said["job artifacts"]
    for command, text in said.items():
        assert not [one for one in ACTS if one in text], command
