"""The ledger: whole or not at all, private, refused where it is not sound, and readable beside its writer."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from state import database, schema
from state import ledger as ledger_module
from state.history import Event, Finding, StepRecord
from state.ids import Name
from state.ledger import Ledger, LedgerHeld, LedgerNewer, LedgerUnwritable
from state.lifecycle import IllegalMove, Phase
from state.observed import NameRecord, Retry
from state.records import LedgerDamaged, LedgerUnreadable, Reader
from state.transaction import Transaction
from tests.builders import instance, running, vm

WEB = Name("web")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path)) as opened:
        yield opened


def event(message: str, name: str | None = "web", at: float = 1.0) -> Event:
    return Event(at, "Said", message, Name(name) if name else None, None, "vm", "p-1")


def step(action: str = "create", name: str = "web") -> StepRecord:
    return StepRecord(0, "p-1", action, "vm", Name(name), "it is wanted", 1.0)


def messages(reader: Reader) -> list[str]:
    return [one.message for one in reader.events()]


def taken_back(
    ledger: Ledger,
    say: Callable[[Transaction], None],
    error: type[Exception],
    words: str | None = None,
) -> None:
    """Begin a transaction in which `say` raises, and see that the error comes through."""
    with pytest.raises(error, match=words), ledger.transaction() as change:
        say(change)


# Whole or not at all


def test_what_a_transaction_says_is_there_for_the_next_ledger(path: Path) -> None:
    retry = Retry("vm/web", "restart", 2, 10.0, "boot-1", "it fell")
    with closing(Ledger(path)) as first, first.transaction() as change:
        change.put_instance(running())
        change.put_name(NameRecord(WEB, 1, 22000))
        change.put_retry(retry)
    with closing(Ledger(path)) as second:
        assert second.instances() == [running()]
        assert second.instance(running().uid) == running()
        assert second.names() == {WEB: NameRecord(WEB, 1, 22000)}
        assert second.retries() == {"vm/web": retry}


def test_a_transaction_that_raises_leaves_nothing_on_disk_in_memory_or_told(path: Path) -> None:
    told: list[Event] = []
    with closing(Ledger(path, on_event=told.append)) as ledger:

        def say(change: Transaction) -> None:
            change.put_instance(instance())
            change.put_name(NameRecord(WEB, 1, 22000))
            change.put_retry(Retry("vm/web", failures=1))
            change.put_meta("key", "value")
            change.put_finding("vm/web", Finding("kept", "Ready", "it answers"))
            change.begin_step(step())
            change.event(event("gone"))
            raise ZeroDivisionError

        taken_back(ledger, say, ZeroDivisionError)
        assert told == []
        assert ledger.instances() == []
        assert ledger.name(WEB) == NameRecord(WEB)
        assert ledger.retry("vm/web") == Retry("vm/web")
        reader = ledger.reader
        assert (reader.instances(), reader.names(), reader.retries()) == ([], {}, {})
        assert (reader.meta("key"), reader.findings(), reader.steps()) == (None, {}, [])
        assert messages(reader) == []


def test_a_removal_that_is_taken_back_leaves_everything(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        change.put_instance(instance())
        change.put_name(NameRecord(WEB, 1, 22000))
        change.put_retry(Retry("vm/web", failures=1))
        change.put_finding("vm/web", Finding("kept", "Ready", "it answers"))

    def say(change: Transaction) -> None:
        change.remove_instance(instance().uid)
        change.put_name(NameRecord(WEB, 1))
        change.remove_retry("vm/web")
        change.remove_finding("vm/web")
        raise ZeroDivisionError

    taken_back(ledger, say, ZeroDivisionError)
    assert ledger.instances() == ledger.reader.instances() == [instance()]
    assert ledger.names() == ledger.reader.names() == {WEB: NameRecord(WEB, 1, 22000)}
    assert set(ledger.retries()) == set(ledger.reader.retries()) == {"vm/web"}
    assert set(ledger.reader.findings()) == {"vm/web"}


def test_what_is_removed_is_gone_in_memory_and_on_disk(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        change.put_instance(instance())
        change.put_name(NameRecord(WEB, 1, 22000))
        change.put_retry(Retry("vm/web", failures=1))
        change.put_finding("vm/web", Finding("kept", "Ready", "it answers"))
    with ledger.transaction() as change:
        change.remove_instance(instance().uid)
        change.put_name(NameRecord(WEB, 1))
        change.remove_retry("vm/web")
        change.remove_finding("vm/web")
        change.remove_retry("never/there")
    assert ledger.instances() == ledger.reader.instances() == []
    assert ledger.names() == ledger.reader.names() == {WEB: NameRecord(WEB, 1)}
    assert ledger.retries() == ledger.reader.retries() == {}
    assert ledger.reader.findings() == {}
    assert ledger.instance(instance().uid) is None


def test_events_are_told_once_they_are_durable(path: Path) -> None:
    told: list[tuple[str, list[str]]] = []

    def tell(one: Event) -> None:
        with closing(Reader.open(path)) as reader:
            told.append((one.message, messages(reader)))

    with closing(Ledger(path, on_event=tell)) as ledger, ledger.transaction() as change:
        change.event(event("first"))
        change.event(event("second"))
        assert told == []
    assert told == [("first", ["first", "second"]), ("second", ["first", "second"])]


WRITER = dedent("""
    import sys
    from pathlib import Path
    from state.history import Event
    from state.ledger import Ledger

    ledger = Ledger(Path(sys.argv[1]))
    number = 0
    while True:
        with ledger.transaction() as change:
            for part in "abc":
                change.event(Event(1.0, "Said", f"{number}{part}"))
        print(number, flush=True)
        number += 1
""")

HALF_WAY = dedent("""
    import sys
    from pathlib import Path
    from state.history import Event
    from state.ledger import Ledger

    ledger = Ledger(Path(sys.argv[1]))
    with ledger.transaction() as change:
        change.event(Event(1.0, "Said", "acknowledged"))
    with ledger.transaction() as change:
        for number in range(5000):
            change.event(Event(1.0, "Said", "x" * 1000))
        print("half way", flush=True)
        sys.stdin.read()
""")


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_killed_at_any_moment_it_has_every_commit_that_was_acknowledged(
    path: Path, lines: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(lines)]
        writer.kill()
    assert acknowledged == [str(number) for number in range(lines)]
    assert sound(path)
    with closing(Ledger(path)) as ledger:
        found = messages(ledger.reader)
    commits, torn = divmod(len(found), 3)
    assert torn == 0
    assert commits >= lines
    assert found == [f"{number}{part}" for number in range(commits) for part in "abc"]


def test_killed_inside_a_transaction_it_has_nothing_of_it(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HALF_WAY, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half way\n"
        writer.kill()
    assert sound(path)
    with closing(Ledger(path)) as ledger:
        assert messages(ledger.reader) == ["acknowledged"]


# A disk that fails


def test_a_full_disk_says_so_leaves_nothing_half_said_and_is_got_over(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")

        def say(change: Transaction) -> None:
            change.put_name(NameRecord(WEB, 1, 22000))
            for _ in range(1000):
                change.event(event("x" * 1000))

        taken_back(ledger, say, LedgerUnwritable, "database or disk is full")
        assert ledger.names() == ledger.reader.names() == {}
        ledger._connection.execute("PRAGMA max_page_count = 100000")
        with ledger.transaction() as change:
            change.put_name(NameRecord(WEB, 1, 22000))
        assert WEB in ledger.reader.names()


def test_a_write_that_the_system_refuses_says_so(path: Path) -> None:
    """A limit on the size of files stands in for the disk: SQLite meets a failed write(2), and rolls back by itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def say(change: Transaction) -> None:
        for _ in range(300):
            change.event(event("x" * 1000))

    with closing(Ledger(path)) as ledger:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            taken_back(ledger, say, LedgerUnwritable, "disk I/O error")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
    assert sound(path)


@pytest.mark.parametrize("by_another", [False, True])
def test_a_database_that_is_taken_away_is_written_no_more(path: Path, by_another: bool) -> None:
    with closing(Ledger(path)) as ledger:
        path.unlink()
        if by_another:
            Ledger(path).close()
        taken_back(
            ledger,
            lambda change: change.event(event("into the void")),
            LedgerUnwritable,
            "taken away or replaced",
        )


def test_a_database_that_became_read_only_says_so_and_is_got_over(ledger: Ledger) -> None:
    ledger._connection.execute("PRAGMA query_only = ON")
    said = "attempt to write a readonly database"
    taken_back(ledger, lambda change: change.event(event("x")), LedgerUnwritable, said)
    ledger._connection.execute("PRAGMA query_only = OFF")
    with ledger.transaction() as change:
        change.event(event("said"))


def test_a_database_that_another_program_does_not_let_go_of_is_no_bug(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY", 0.01)
    with closing(Ledger(path)) as ledger, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = "another program holds the state database"
        taken_back(ledger, lambda change: change.event(event("x")), LedgerHeld, said)
        other.rollback()
        with ledger.transaction() as change:
            change.event(event("said"))
        assert messages(ledger.reader) == ["said"]


def test_a_transaction_may_write_from_its_first_word_on(path: Path) -> None:
    """What read first and then wants to write is refused at once where another has written meanwhile, however long it
    would wait. Sabotage: a plain BEGIN."""
    with closing(Ledger(path)) as ledger, closing(sqlite3.connect(path, timeout=0)) as other:
        with ledger.transaction() as change:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            change.put_meta("key", "value")
        other.execute("BEGIN IMMEDIATE")
        other.rollback()


async def test_a_database_that_is_held_is_waited_for_while_others_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: try to write, and wait in SQLite. Nothing else of the process then runs meanwhile."""
    with closing(Ledger(path)) as ledger, closing(sqlite3.connect(path)) as other:
        assert not await ledger.free()
        other.execute("BEGIN EXCLUSIVE")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(ledger.free())
            for _ in range(1000):
                await asyncio.sleep(0)
            assert not waiting.done()
            other.rollback()
        assert waiting.result()
        monkeypatch.setattr(database, "PATIENCE", 0.01)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerHeld, match="fuser"):
            await ledger.free()
        assert ledger.reader.events() == []


def test_what_sqlite_does_not_understand_is_a_bug_and_no_fault_of_the_disk(ledger: Ledger) -> None:
    """Sabotage: take every OperationalError for the disk's. The agent then leaves with the wrong advice."""
    taken_back(
        ledger,
        lambda change: change._put("none", {"a": 1, "b": 2}),
        sqlite3.OperationalError,
        "no such",
    )


def test_a_rule_of_the_tables_that_is_broken_is_a_bug_and_no_fault_of_the_disk(
    ledger: Ledger,
) -> None:
    def say(change: Transaction) -> None:
        change.put_name(NameRecord(WEB, 1, 22000))
        change.put_name(NameRecord(Name("db"), 1, 22000))

    taken_back(ledger, say, sqlite3.IntegrityError)
    assert ledger.names() == {}


# Who may read it, and what is no ledger


def test_it_is_private_from_its_first_byte(path: Path) -> None:
    with closing(Ledger(path)) as ledger, ledger.transaction() as change:
        change.event(event("said"))
    with closing(Ledger(path)), closing(Reader.open(path)) as reader:
        reader.events()
        found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert found == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_one_that_was_put_back_open_to_others_is_made_private(path: Path) -> None:
    Ledger(path).close()
    path.chmod(0o644)
    Ledger(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_planted_link_is_not_followed(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("theirs")
    path.symlink_to(target)
    with pytest.raises(LedgerUnreadable, match="cannot be opened"):
        Ledger(path)
    assert target.read_text() == "theirs"


def test_an_empty_file_is_an_empty_ledger(path: Path) -> None:
    path.touch()
    with closing(Ledger(path)) as ledger:
        assert ledger.instances() == []


@pytest.mark.parametrize("content", [b"not a database\n", b"x" * 8192, b"SQLite format 3\0" * 300])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerDamaged, match="state database"):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LedgerUnreadable, match="cannot be opened: Is a directory"):
        Ledger(path)


def test_every_page_that_is_damaged_is_found_before_anything_is_done(path: Path) -> None:
    """Sabotage: open the database without a check. Most pages are then only met in the middle of a step."""
    with closing(Ledger(path)) as ledger, ledger.transaction() as change:
        change.put_instance(instance())
        for number in range(60):
            change.event(event(f"{number} " + "x" * 200))
    whole = path.read_bytes()
    page = int.from_bytes(whole[16:18], "big")
    used = [at for at in range(page, len(whole), page) if any(whole[at : at + page])]
    assert len(used) > 10
    for at in used:
        path.write_bytes(whole[:at] + b"\xa5" * page + whole[at + page :])
        with pytest.raises(LedgerDamaged):
            Ledger(path)


def test_a_database_that_is_cut_short_is_refused(path: Path) -> None:
    with closing(Ledger(path)) as ledger, ledger.transaction() as change:
        for _ in range(60):
            change.event(event("x" * 200))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(LedgerDamaged):
        Ledger(path)


def test_a_later_versions_database_is_refused_and_named(path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as later, later:
        later.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('holdfast', 'm9999_later', '2099-01-01')"
        )
    with pytest.raises(LedgerNewer, match="a later version \\(m9999_later\\)"):
        Ledger(path)


def test_a_new_database_has_had_every_migration_that_is_known(path: Path) -> None:
    """Sabotage: write a migration, and leave its name out of `KNOWN`."""
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as made:
        assert schema.applied(made) == list(schema.KNOWN)


def test_a_value_that_no_version_of_ours_wrote_is_told_apart_from_a_bug(path: Path) -> None:
    with closing(Ledger(path)) as ledger, ledger.transaction() as change:
        change.put_instance(instance())
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE instances SET phase = 'dreaming'")
    with pytest.raises(LedgerUnreadable, match=r"does not understand: .*dreaming"):
        Ledger(path)


# Moves, steps, findings, retries


def test_an_illegal_move_is_refused_with_everything_around_it(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        change.put_instance(instance())

    def say(change: Transaction) -> None:
        change.event(event("before"))
        change.put_instance(replace(instance(), phase=Phase.STOPPED))

    taken_back(ledger, say, IllegalMove, "from pending to stopped")
    assert ledger.instances() == [instance()]
    assert messages(ledger.reader) == []


def test_moves_within_one_transaction_are_judged_one_after_the_other(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        change.put_instance(instance())
        change.put_instance(replace(instance(), phase=Phase.STARTING))
        change.put_instance(replace(instance(), phase=Phase.RUNNING))
    assert ledger.instances() == [replace(instance(), phase=Phase.RUNNING)]


def test_a_removed_instance_may_begin_again_anywhere(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        change.put_instance(running())
        change.remove_instance(running().uid)
        change.put_instance(instance())
    assert ledger.instances() == [instance()]


def test_a_step_is_open_until_it_ends(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        first = change.begin_step(step())
        second = change.begin_step(replace(step("destroy", "db"), generation=3))
    with ledger.transaction() as change:
        change.end_step(first, at=2.0, outcome="failed", error="the disk is full")
    assert [one.id for one in ledger.reader.steps(open_only=True)] == [second]
    ended, still_open = ledger.reader.steps()
    assert (ended.outcome, ended.error, ended.ended_at) == ("failed", "the disk is full", 2.0)
    assert still_open == replace(step("destroy", "db"), id=second, generation=3)
    assert ledger.reader.steps(name=WEB) == [ended]
    assert ledger.reader.steps(last=1) == [still_open]


def test_every_step_of_an_agent_that_died_is_interrupted(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        ended = change.begin_step(step())
        change.end_step(ended, at=2.0, outcome="done")
        change.begin_step(step("destroy"))
        change.begin_step(step("create", "db"))
    with ledger.transaction() as change:
        assert change.interrupt_open_steps(at=3.0) == 2
    assert [(one.outcome, one.ended_at) for one in ledger.reader.steps()] == [
        ("done", 2.0), ("interrupted", 3.0), ("interrupted", 3.0),
    ]  # fmt: skip


def test_a_finding_is_replaced_under_its_key(ledger: Ledger) -> None:
    first = Finding("waiting", "PortTaken", "no", "vm", WEB, "web.yaml", 3, 1, 5.0)
    with ledger.transaction() as change:
        change.put_finding("vm/web", Finding("kept", "Ready", "it answers"))
        change.put_finding("vm/web", first)
        change.put_finding("source", Finding("error", "SourceUnreadable", "gone"))
    assert ledger.reader.findings() == {
        "source": Finding("error", "SourceUnreadable", "gone"), "vm/web": first,
    }  # fmt: skip


def test_a_retry_keeps_what_was_tried_and_when_it_is_due(ledger: Ledger) -> None:
    retry = Retry("step/web", "create 1", 3, 12.5, "boot-1", "no")
    with ledger.transaction() as change:
        change.put_retry(retry)
    assert ledger.retry("step/web") == ledger.reader.retries()["step/web"] == retry
    assert ledger.retry("step/db") == Retry("step/db")


def test_the_control_socket_of_an_instance_is_told(path: Path, tmp_path: Path) -> None:
    with closing(Ledger(path, sockets=tmp_path / "run")) as ledger:
        with ledger.transaction() as change:
            change.put_instance(instance())
        uid = instance().uid
        assert ledger.reader.qmp_sockets() == {uid: f"{tmp_path}/run/{uid}/qmp"}


# History is bounded


def test_only_the_latest_of_a_long_history_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "EVENTS_KEPT", 30)
    monkeypatch.setattr(ledger_module, "STEPS_KEPT", 20)
    with closing(Ledger(path)) as ledger:
        for number in range(300):
            with ledger.transaction() as change:
                change.event(event(str(number)))
                change.end_step(change.begin_step(step()), at=2.0, outcome="done")
        assert len(messages(ledger.reader)) == 80  # cut once, 250 transactions in, not at each
        with ledger.transaction() as change:
            for number in range(300, 800):
                change.event(event(str(number)))
        assert messages(ledger.reader) == [str(number) for number in range(770, 800)]
        assert [one.id for one in ledger.reader.steps(last=1000)] == list(range(281, 301))


# Reading beside a writer


def test_a_reader_sees_what_was_committed_and_nothing_half_said(path: Path) -> None:
    with closing(Ledger(path)) as ledger, closing(Reader.open(path)) as reader:
        with ledger.transaction() as change:
            change.event(event("first"))
            assert messages(reader) == []
        assert messages(reader) == ["first"]


def test_a_snapshot_is_of_one_moment_and_holds_up_no_writer(path: Path) -> None:
    with closing(Ledger(path)) as ledger, closing(Reader.open(path)) as reader:
        with reader.snapshot():
            assert reader.instances() == []
            with ledger.transaction() as change:
                change.put_instance(instance())
                change.event(event("made"))
            assert (reader.instances(), messages(reader)) == ([], [])
        assert (reader.instances(), messages(reader)) == ([instance()], ["made"])


def test_a_reader_needs_no_writer(path: Path) -> None:
    with closing(Ledger(path)) as ledger, ledger.transaction() as change:
        change.event(event("said"))
    with closing(Reader.open(path)) as reader:
        assert messages(reader) == ["said"]


def test_a_reader_cannot_write(path: Path) -> None:
    Ledger(path).close()
    with closing(Reader.open(path)) as reader, pytest.raises(LedgerUnreadable, match="readonly"):
        reader._rows("DELETE FROM events")


def test_a_reader_says_what_is_wrong_with_what_it_cannot_read(path: Path) -> None:
    with pytest.raises(LedgerUnreadable, match="there is no state database yet"):
        Reader.open(path)
    path.touch()
    with pytest.raises(LedgerUnreadable, match="only being made"):
        Reader.open(path)
    path.write_text("something else\n" * 100)
    with pytest.raises(LedgerUnreadable, match="file is not a database"):
        Reader.open(path)
    with pytest.raises(LedgerUnreadable, match="cannot be read: Not a directory"):
        Reader.open(path / "state.db")


def test_damage_that_is_met_while_reading_is_told_as_such(path: Path) -> None:
    with closing(Ledger(path)) as ledger, ledger.transaction() as change:
        for _ in range(60):
            change.event(event("x" * 200))
    whole = path.read_bytes()
    page = int.from_bytes(whole[16:18], "big")
    path.write_bytes(whole[:page] + b"\xa5" * (len(whole) - page))
    with closing(Reader.open(path)) as reader:
        with pytest.raises(LedgerUnreadable, match="malformed"):
            reader.events()
        with pytest.raises(LedgerUnreadable, match="malformed"):
            reader.instances()


def test_columns_of_a_later_version_do_not_disturb_a_reader(path: Path) -> None:
    with closing(Ledger(path)) as ledger, ledger.transaction() as change:
        change.put_instance(instance())
        change.put_name(NameRecord(WEB, 1, 22000))
        change.put_retry(Retry("vm/web", failures=1))
        change.put_finding("vm/web", Finding("kept", "Ready", "it answers"))
        change.event(event("said"))
        change.begin_step(step())
    with closing(sqlite3.connect(path)) as later, later:
        for table in ("instances", "names", "retries", "findings", "events", "steps"):
            later.execute(f"ALTER TABLE {table} ADD COLUMN mood TEXT DEFAULT 'sunny'")
    with closing(Reader.open(path)) as reader:
        assert reader.instances() == [instance()]
        assert reader.names() == {WEB: NameRecord(WEB, 1, 22000)}
        assert reader.retries() == {"vm/web": Retry("vm/web", failures=1)}
        assert set(reader.findings()) == {"vm/web"}
        assert messages(reader) == ["said"]
        assert len(reader.steps()) == 1


def test_events_are_told_in_order_of_one_name_after_one_or_the_last_few(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        for number, name in enumerate(["web", "db", None, "web"]):
            change.event(event(str(number), name))
    reader = ledger.reader
    assert messages(reader) == ["0", "1", "2", "3"]
    assert [one.message for one in reader.events(name=WEB)] == ["0", "3"]
    assert [one.message for one in reader.events(after=2)] == ["2", "3"]
    assert [one.message for one in reader.events(last=2)] == ["2", "3"]
    assert [one.message for one in reader.events(after=1, first=2)] == ["1", "2"]
    assert [one.message for one in reader.events(name=WEB, after=1, last=1)] == ["3"]
    assert reader.events(last=1) == [
        replace(event("3"), id=4)
    ]  # fmt: skip


def test_two_names_with_a_spec_each_are_told_by_name_and_generation(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        for spec, generation in ((vm("web"), 2), (vm("db"), 1), (vm("web"), 1)):
            change.put_instance(instance(spec, generation=generation))
    assert [(one.name, one.generation) for one in ledger.reader.instances()] == [
        ("db", 1), ("web", 1), ("web", 2),
    ]  # fmt: skip


async def test_a_database_that_was_taken_away_is_seen_though_nothing_is_written(
    tmp_path: Path,
) -> None:
    """Each pass asks whether it is free. Sabotage: look at the file when something is to be written only."""
    path = tmp_path / "state.db"
    with closing(Ledger(path)) as ledger:
        assert await ledger.free() is False
        aside = path.with_name("aside")
        path.rename(aside)
        with pytest.raises(LedgerUnwritable, match="was taken away or replaced"):
            await ledger.free()
        aside.rename(path)
        assert await ledger.free() is False
