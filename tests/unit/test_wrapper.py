"""What a script meets in its guest, under every shell that a guest's `/bin/sh` may be."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import BadInput, GuestRefused
from agent.guest.session import GuestSession
from state.work import Look
from tests.localguest import LocalGuest
from tests.waiting import eventually

SHELLS = ("dash", "bash", "busybox", "ksh93")
ODD = 'it\'s\n \\ "$x" `y` * \udcff'


@dataclass(frozen=True)
class Case:
    """A script, and what is to come of it."""

    script: bytes
    code: int
    says: bytes | None = b""


SH = b"#!/bin/sh\n"
CASES = {
    "both outputs come in order": Case(SH + b"echo 1; echo 2 >&2; echo 3; exit 3", 3, b"1\n2\n3\n"),
    "its error output may be opened anew": Case(
        SH + b"echo 1; echo 2 >/dev/stderr; echo 3 >/dev/stdout", 0, b"1\n2\n3\n"
    ),
    "without an interpreter line": Case(b"echo plain; exit 1", 1, b"plain\n"),
    "a binary": Case(Path("/bin/true").read_bytes(), 0),
    "empty": Case(b"", 0, None),
    "an interpreter that is not there": Case(b"#!/no/such\n", 127, None),
    "any bytes": Case(SH + b"printf '\\377\\376\\0\\r\\n\\200'", 0, b"\xff\xfe\0\r\n\x80"),
    "an unfinished line": Case(SH + b"printf end", 0, b"end"),
    "much at once": Case(SH + b"head -c 3000000 /dev/zero; echo", 0, bytes(3_000_000) + b"\n"),
    "nothing to read": Case(SH + b"cat; read x || echo none", 0, b"none\n"),
    "its environment": Case(SH + b'printf %s "$ODD"', 0, os.fsencode(ODD)),
    "a variable of a shell": Case(SH + b'printf "%s %s" "$AFTER" "$(env | grep ^UID)"', 0, None),
    "a signal": Case(SH + b"kill -9 $$", 137),
    "an interrupt is not ignored": Case(SH + b"kill -INT $$; echo on", 130),
    "a hangup is not ignored": Case(SH + b"kill -HUP $$; echo on", 129),
    "a broken pipe is not ignored": Case(SH + b"kill -PIPE $$; echo on", 141),
    "the highest code": Case(SH + b"exit 255", 255),
    "it signals its group": Case(SH + b"trap : TERM; kill 0; echo on; exit 5", 5, b"on\n"),
    "it interrupts its group": Case(SH + b"trap : INT; kill -INT 0; exit 0", 0),
    "it kills its group": Case(SH + b"echo on; kill -9 0", 137, b"on\n"),
    "it ends its parent": Case(SH + b"kill $PPID; echo on; exit 4", 4, b"on\n"),
    "it kills its parent": Case(SH + b"kill -9 $PPID", 137),
    "it closes its outputs": Case(SH + b"echo on; exec >&- 2>&-; exit 6", 6, b"on\n"),
    "it leaves a process behind": Case(SH + b"sleep 1000 & echo on", 0, b"on\n"),
}


@pytest.fixture(params=SHELLS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalGuest]:
    """One whose `/bin/sh` is the shell, called `sh`, as some shells ask how they are called."""
    found = shutil.which(request.param)
    assert found, f"{request.param} is not there: install what tools/packages-test names"
    shell = tmp_path / "sh"
    shell.symlink_to(found)
    made = LocalGuest(tmp_path / "a home", str(shell))
    yield made
    made.end()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[LocalGuest]:
    """One with the shell of this host."""
    made = LocalGuest(tmp_path / "a home")
    yield made
    made.end()


async def ran(session: GuestSession, run: str) -> Look:
    """All that it says, to its end."""
    said = b""
    async with asyncio.timeout(60):
        while True:
            look = await session.look(run, len(said), 1 << 20)
            said += look.data
            if look.exit_code is not None and len(said) >= look.size:
                return Look(True, said, look.size, look.exit_code)
            await asyncio.sleep(0.02)


async def over(session: GuestSession, run: str) -> Look:
    """The first look that finds it ended, or that nobody watches it."""
    async with asyncio.timeout(60):
        while True:
            look = await session.look(run, 0, 0)
            if look.exit_code is not None or not look.alive:
                return look
            await asyncio.sleep(0.02)


async def test_every_script_runs_as_it_would_by_hand(guest: LocalGuest) -> None:
    """Sabotage: ignore signals instead of catching them; write to the output without a pipe; leave `setsid` out."""
    session = await guest.session()
    env = {"UID": "mine", "ODD": ODD, "AFTER": "set"}
    for number, case in enumerate(CASES.values()):
        await session.upload(f"run-{number}", case.script, env, [])
        await session.begin(f"run-{number}")
    for number, (name, case) in enumerate(CASES.items()):
        look = await ran(session, f"run-{number}")
        assert look.exit_code == case.code, name
        assert case.says is None or look.data == case.says, name
        if name == "a variable of a shell":
            # A shell may keep its own, but none of the others is lost for that.
            assert look.data.startswith(b"set")
    await session.close()


async def test_a_signal_to_what_runs_a_script_before_it_waits_for_it_is_not_its_end(
    tmp_path: Path,
) -> None:
    """strace holds the shell up at each fork. Sabotage: run the script from a subshell, `(exec script 2>&1)`."""
    named = tmp_path / "ksh" / "sh"
    named.parent.mkdir()
    named.symlink_to(shutil.which("ksh93") or "ksh93")
    # So that it is not a part of the script's group, -DDD; and a program that is traced cannot be traced once more.
    late = "strace -DDD -f -qq -o /dev/null -e trace=clone -e inject=clone:delay_exit=200000"
    shell = tmp_path / "sh"
    shell.write_text(f'#!/bin/sh\n[ "$2" = run ] || exec {named} "$@"\nexec {late} {named} "$@"\n')
    shell.chmod(0o755)
    guest = LocalGuest(tmp_path / "a home", str(shell))
    try:
        session = await guest.session()
        for name in ("it signals its group", "it interrupts its group", "it ends its parent"):
            case, run = CASES[name], name.replace(" ", "-")
            await session.upload(run, case.script, {}, [])
            await session.begin(run)
            look = await ran(session, run)
            assert (look.exit_code, look.data) == (case.code, case.says), name
        await session.close()
    finally:
        guest.end()


async def test_it_runs_at_home_with_the_umask_and_environment_of_the_login(
    guest: LocalGuest,
) -> None:
    session = await guest.session()
    await session.upload(
        "one", b"#!/bin/sh\npwd; umask; echo $HOME; env | cut -d= -f1 | sort", {}, []
    )
    await session.begin("one")
    *said, names = (await ran(session, "one")).data.decode().split("\n", 3)
    assert said == [str(guest.home), f"{_umask():04o}", str(guest.home)]
    assert set(names.split()) <= {
        "HOME",
        "LANG",
        "PATH",
        "PWD",
        "SHLVL",
        "_",
        "A__z",
        "_AST_FEATURES",
    }
    await session.close()


async def test_without_setsid_it_is_told_that_nobody_watches(
    guest: LocalGuest, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cat", "ls", "mkdir", "mv", "rm", "sleep", "cut", "env"):
        (programs / name).symlink_to(shutil.which(name) or "")
    guest.path = str(programs)
    session = await guest.session()
    await session.upload("one", b"#!/bin/sh\nexit 7", {}, [])
    await session.upload("two", b"#!/bin/sh\necho on; kill -9 0; sleep 1000", {}, [])
    for run in ("one", "two"):
        await session.begin(run)
    assert (await ran(session, "one")).exit_code == 7
    look = await over(session, "two")
    # busybox has a setsid of its own, wherever it looks for programs.
    assert (look.alive, look.exit_code) == ((True, 137) if guest.is_busybox else (False, None))
    await session.close()


async def test_nothing_of_it_can_be_read_by_others_and_no_secret_is_on_a_command_line(
    plain: LocalGuest,
) -> None:
    session = await plain.session()
    await session.upload("one", b"#!/bin/sh\nsleep 1000", {"TOKEN": "canary-7613"}, [])
    await session.begin("one")
    await eventually(lambda: (plain.run("one") / "begun/pid").exists(), "it is watched")
    modes = {path.name: path.stat().st_mode & 0o777 for path in plain.run("one").rglob("*")}
    assert modes.pop("script") == 0o755
    assert modes.pop("begun") == 0o700
    assert {modes.pop(name) for name in ("boot", "pid")} <= {0o600, 0o644}
    assert set(modes.values()) == {0o600}
    for directory in (plain.run("one"), plain.run("one").parent):
        assert directory.stat().st_mode & 0o777 == 0o700
    for pid in plain.processes():
        assert b"canary" not in content_of(f"/proc/{pid}/cmdline")
    await session.close()


async def test_what_its_script_takes_away_is_not_begun_and_leaves_nobody(plain: LocalGuest) -> None:
    session = await plain.session()
    await session.upload("one", b"#!/bin/sh\ncd /; rm -rf ~/.holdfast", {}, [])
    await session.begin("one")
    await eventually(lambda: not (plain.home / ".holdfast").exists(), "it has taken all away")
    assert not (await over(session, "one")).alive
    await eventually(lambda: len(plain.processes()) == 1, "only its SFTP server is left")
    await session.close()


async def test_files_come_whole_to_their_places(plain: LocalGuest) -> None:
    session = await plain.session()
    place = plain.home / "not yet/there"
    files = [
        (f"{place}/a", b"a" * 100_000, 0o644),
        (f"{place}/b", b"", 0o4755),
        (f"{plain.home}/c", b"new", 0o600),
    ]
    (plain.home / "c").write_text("older and longer")
    await session.upload("one", b"", {}, files)
    for path, content, mode in files:
        assert content_of(path) == content
        assert os.stat(path).st_mode & 0o7777 == mode
    assert sorted(path.name for path in place.iterdir()) == ["a", "b"]
    (plain.home / "file").touch()
    with pytest.raises(GuestRefused, match=r"writing .*/file/below: "):
        await session.upload("two", b"", {}, [(f"{plain.home}/file/below", b"", 0o644)])
    with pytest.raises(GuestRefused, match="not there"):
        await session.begin("two")
    await session.close()


@pytest.mark.parametrize("run", ["", "..", "a/b", "a b", "$(id)", "-rf", "x" * 65])
async def test_no_other_name_is_a_run(plain: LocalGuest, run: str) -> None:
    session = await plain.session()
    for doing in (session.upload(run, b"", {}, []), session.begin(run), session.look(run, 0, 1)):
        with pytest.raises(BadInput):
            await doing
    assert list(plain.home.iterdir()) == []
    await session.close()


@pytest.mark.parametrize("env", [{"A B": ""}, {"": ""}, {"A": "\0"}, {"A;id": ""}, {"1": ""}])
async def test_no_other_variable_is_set(plain: LocalGuest, env: dict[str, str]) -> None:
    session = await plain.session()
    with pytest.raises(BadInput):
        await session.upload("one", b"", env, [])
    await session.close()


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


def _umask() -> int:
    before = os.umask(0o022)
    os.umask(before)
    return before


async def test_what_a_cut_off_upload_has_left_goes_with_the_next_one(plain: LocalGuest) -> None:
    """Sabotage: leave it. A guest whose disk holds a large file once, but not twice, would refuse it for ever."""
    session = await plain.session()
    large = plain.home / "large"
    kept = [large.with_name(".holdfast-mine"), large.with_name("holdfast-0123456789abcdef")]
    for file in kept:
        file.touch()
    await session.upload("run", b"", {}, [])
    half = [
        plain.home / ".holdfast-0123456789abcdef",
        plain.run("run") / ".holdfast-fedcba9876543210",
    ]
    for file in half:
        file.write_bytes(b"half")
    await session.upload("run", b"", {}, [(str(large), b"whole", 0o644)])
    assert large.read_bytes() == b"whole"
    assert not any(file.exists() for file in half)
    assert all(file.exists() for file in kept)
    await session.close()
