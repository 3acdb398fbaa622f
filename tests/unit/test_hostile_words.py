"""What a guest says reaches people in many ways: in none of them does it act on their terminal, or forge a line."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from agent import log
from agent.cli.showing import Showing
from agent.errors import GuestRefused
from agent.guest.session import GuestSession
from agent.paths import StatePaths
from state.desired import SourceRef
from state.history import Event, Finding
from state.ids import Name, RunId
from state.ledger import Ledger
from state.runs import Run, RunPhase
from state.work import Artifact
from tests.builders import job
from tests.localguest import LocalGuest, LocalLine
from tests.unit.test_commands import Call, caller
from tests.unit.test_job_commands import RUN, plant

EVIL = "\x1b]52;c;YQ==\x07\x1b[2J\x9b\u202e\nforged"
SHOWN = r"\x1b]52;c;YQ==\x07\x1b[2J\x9b\u202e\nforged"


class Hostile(LocalLine):
    """A line into a guest that begins nothing, and says so in such words."""

    def ask(self, command: str, lasting: bytes = b"") -> bytes:
        return b"refused " + EVIL.encode() if lasting else super().ask(command)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_with(message: str) -> Run:
    spec = job()
    return Run(
        id=RunId("r1"), name=spec.name, number=1, spec=spec.canonical(), spec_digest=spec.digest,
        source=SourceRef("tests.yaml", 1), phase=RunPhase.QUEUED, queued_at=0.0, message=message,
    )  # fmt: skip


async def test_a_refusal_is_made_harmless_where_it_comes_in(tmp_path: Path) -> None:
    guest = LocalGuest(tmp_path / "home")
    guest.lines.append(line := Hostile(guest))
    session = await GuestSession.open(Name("web"), lambda: line, 20.0)
    try:
        await session.upload("r1", b"true", {}, [])
        with pytest.raises(GuestRefused) as refused:
            await session.begin("r1")
        assert refused.value.message.endswith(f"the guest refused: {SHOWN}")
    finally:
        await session.close()
        guest.end()


def test_what_run_once_shows_acts_on_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    showing = Showing(StatePaths(tmp_path))
    showing.told(run_with(EVIL))
    assert capsys.readouterr().out == f"tests: run 1: queued: {SHOWN}\n"
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "200")
    with showing.on_screen():
        showing.told(run_with(EVIL + "!"))
    assert f"{SHOWN}!" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


def test_the_agents_log_acts_on_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    try:
        log.configure()
        log.event_logger()(Event(at=0.0, reason="RunFailed", message=EVIL))
    finally:
        structlog.reset_defaults()
    assert "RunFailed" in screen.getvalue()
    assert not any(one in screen.getvalue() for one in ("\x1b[2J", "\x9b", "\x07", "\nforged"))


@pytest.fixture(scope="module")
def holdfast(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Commands where a ledger holds such words wherever it can."""
    root = tmp_path_factory.mktemp("hostile")
    plant(root)
    call = caller(root)
    assert call(f"{RUN} --once").returncode == 0
    with closing(Ledger(StatePaths(root / "state").database)) as ledger:
        (first,) = ledger.runs()
        with ledger.transaction() as change:
            told = Artifact(f"/root/{EVIL}", "unit.xml", 3, "0" * 64)
            words = replace(first, reason="Refused", message=EVIL, notes=(EVIL,))
            words = replace(words, artifacts=(told,), phase=RunPhase.ERROR)
            change.put_run(replace(words, id=RunId("r2"), number=2))
            wanted = replace(first, id=RunId("r3"), number=3, phase=RunPhase.QUEUED)
            change.put_run(replace(wanted, name=Name("cancelled"), cancel=EVIL))
            change.event(Event(at=0.0, reason="RunFailed", message=EVIL, name=first.name))
            for scope in ("held", "error", "waiting"):
                finding = Finding(scope, "Reason", EVIL, "job", Name(f"n-{scope}"))
                change.put_finding(f"job/n-{scope}", finding)
    return call


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "status tests",
        "explain tests",
        "events",
        "job history tests",
        "job artifacts tests",
        "plan",
    ],
)
def test_what_is_printed_acts_on_no_terminal(holdfast: Call, command: str) -> None:
    told = holdfast(command)
    assert r"\x1b]52;c;YQ==\x07" in told.stdout + told.stderr
    assert "\x1b" not in told.stdout + told.stderr
    assert not any(line.startswith("forged") for line in (told.stdout + told.stderr).split("\n"))
