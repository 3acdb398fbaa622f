"""A session in a real guest, over SSH: what only a kernel, an SSH server and a disk of its own can do to it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from agent.errors import GuestRefused, NotReady, SessionLost
from agent.guest.ssh import HostKeyChanged, SshDoorway
from agent.hypervisor.api import Limits, Look, Session
from agent.hypervisor.qemu.process import Handle
from state.ids import Name
from tests.contract.houses import QemuHouse, Watched, qemu_house
from tests.e2e.steps import started
from tests.e2e.tinyguest import Guest, tiny

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]


class Place:
    """A tiny guest that lets us in."""

    def __init__(self, house: QemuHouse, guest: Guest, port: int) -> None:
        self.house, self.guest, self.port = house, guest, port

    async def enter(self, name: str = "web", user: str = "root") -> Session:
        doorway = SshDoorway(self.house.paths)
        return await doorway.enter(self.guest.machine.uid, Name(name), self.port, user)

    def signal(self, number: signal.Signals) -> None:
        """To its QEMU."""
        (found,) = self.house.agent().scan()
        held = Handle.hold(found.process)
        assert held is not None
        held.signal(number)
        held.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    async with qemu_house() as house:
        hypervisor = house.agent()
        await hypervisor.open(Watched().on_change)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        # Half of its memory is its disk.
        machine = replace(tiny(house, port), memory=256 << 20)
        await started(hypervisor, machine)
        guest = Guest(house, machine, port)
        await guest.ready()
        yield Place(house, guest, port)
        await hypervisor.close()


@pytest_asyncio.fixture(loop_scope="module")
async def session(place: Place) -> AsyncIterator[Session]:
    made = await place.enter()
    yield made
    await made.close()


async def ran(session: Session, run: str, script: bytes, env: dict[str, str] | None = None) -> Look:
    """All that a script says, to its end."""
    await session.upload(run, script, env or {}, [])
    assert await session.begin(run)
    return await followed(session, run)


async def followed(session: Session, run: str, said: bytes = b"") -> Look:
    """The rest of what it says, behind what was heard already."""
    async with asyncio.timeout(200):
        while True:
            look = await session.look(run, len(said), 1 << 20)
            assert look.alive
            said += look.data
            if look.exit_code is not None and len(said) >= look.size:
                return Look(True, said, look.size, look.exit_code)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("echo 1; echo 2 >&2; echo 3 >/proc/self/fd/2", 0, b"1\n2\n3\n"),
        ("exit 1", 1, b""),
        ("exit 137", 137, b""),
        ("kill -9 $$", 137, b""),
        ("kill -INT $$", 130, b""),
        ("kill -9 $PPID; exit 1", 137, b""),
        ("(sleep 1000 &); echo on", 0, b"on\n"),
        ("echo on; exec >&- 2>&-; exit 6", 6, b"on\n"),
        ("printf '\\377\\0\\r'", 0, b"\xff\0\r"),
        ('echo "$TOKEN"; tr "\\0" "\\n" </proc/1/cmdline | grep -c canary', 1, b"canary\n0\n"),
    ],
)
async def test_a_script_runs_to_its_end(
    session: Session, script: str, code: int, says: bytes
) -> None:
    run = f"run-{abs(hash(script))}"
    look = await ran(session, run, f"#!/bin/sh\n{script}\n".encode(), {"TOKEN": "canary"})
    assert look == Look(True, says, len(says), code)


async def test_a_binary_runs(place: Place, session: Session) -> None:
    told = await place.guest.run("cp /bin/busybox /tmp/pwd && cat /tmp/pwd | wc -c")
    assert told[0] == 0
    found = await session.collect("any", ["/tmp/pwd"], place.house.paths.root / "got", Limits())
    binary = content_of(place.house.paths.root / "got" / found.artifacts[0].file)
    # busybox does what it is called, and has no applet `script`: that is how it says so.
    look = await ran(session, "binary", binary)
    assert look.exit_code == 127
    assert b"applet not found" in look.data


async def test_twenty_megabytes_come_whole(place: Place, session: Session) -> None:
    size = 20 << 20
    look = Look(True)
    heard = 0
    await session.upload("much", f"#!/bin/sh\nhead -c {size} /dev/zero".encode(), {}, [])
    await session.begin("much")
    async with asyncio.timeout(250):
        while look.exit_code is None or heard < look.size:
            look = await session.look("much", heard, 1 << 20)
            assert look.data.count(0) == len(look.data)
            heard += len(look.data)
    assert (look.exit_code, heard) == (0, size)
    assert (await place.guest.run("rm -r .holdfast/much"))[0] == 0


async def test_a_guest_that_stands_still_loses_the_session_and_no_line(
    place: Place, session: Session
) -> None:
    script = b"#!/bin/sh\nfor i in $(seq 1 40); do echo line $i; sleep 0.1; done"
    await session.upload("still", script, {}, [])
    await session.begin("still")
    look = await session.look("still", 0, 1 << 20)
    place.signal(signal.SIGSTOP)
    try:
        with pytest.raises(SessionLost, match="looking at the script in web: "):
            await session.look("still", 0, 1)
        with pytest.raises(NotReady):
            await place.enter()
    finally:
        place.signal(signal.SIGCONT)
    again = await place.enter()
    whole = await followed(again, "still", look.data)
    assert whole.data == b"".join(b"line %d\n" % number for number in range(1, 41))
    assert whole.exit_code == 0
    await again.close()


async def test_a_full_disk_ends_with_the_code_of_the_script(place: Place) -> None:
    """The disk is an ext4 of a few megabytes, on which a home would lie."""
    link = "mkdir -p /persist/runs && rm -rf .holdfast && ln -s /persist/runs .holdfast"
    assert await place.guest.run(link) == (0, "")
    session = await place.enter()
    script = b"#!/bin/sh\ncat /dev/zero >/persist/fill; echo full; exit 9"
    look = await ran(session, "full", script)
    assert look.exit_code == 9
    assert look.data.endswith(b"full\n")
    with pytest.raises(GuestRefused, match="putting its script into web: "):
        await session.upload("next", b"x" * 1_000_000, {}, [])
    assert (await place.guest.run("rm /persist/fill"))[0] == 0
    assert (await ran(session, "next", b"#!/bin/sh\nexit 2")).exit_code == 2
    left = "$(($(df -k /persist | awk 'END {print $4}') - 4096))"
    assert (await place.guest.run(f"fallocate -l {left}k /persist/fill"))[0] == 0
    much = b"#!/bin/sh\ntr '\\0' x </dev/zero | head -c 5000000; echo; echo last words; exit 5"
    look = await ran(session, "much", much)
    assert (look.exit_code, look.size < 5_000_000) == (5, True)
    assert look.data.count(b"output is missing here") == 1
    assert look.data.endswith(b"last words\n")
    await session.close()
    assert (await place.guest.run("rm -r .holdfast /persist/runs"))[0] == 0


async def test_only_the_pinned_guest_is_entered(place: Place) -> None:
    with pytest.raises(HostKeyChanged):
        await place.enter(name="other")
    with pytest.raises(NotReady, match="refuses our key"):
        await place.enter(user="nobody")


async def test_a_guest_without_sftp_is_told_from_one_that_is_not_ready(place: Place) -> None:
    where = (await place.guest.run("find / -xdev -name sftp-server -type f"))[1].strip()
    await place.guest.run(f"mv {where} {where}.away")
    try:
        with pytest.raises(GuestRefused, match=r"opening a session in web: .*SFTP"):
            await place.enter()
    finally:
        await place.guest.run(f"mv {where}.away {where}")


async def test_names_of_the_guest_stay_below_the_folder(
    place: Place, session: Session, tmp_path: Path
) -> None:
    make = (
        "mkdir -p /tmp/left/deep && cd /tmp/left && printf 1 >\"$(printf '\\377')\" &&"
        " printf 2 >\"$(printf 'two\\nlines')\" && printf 3 >..a && printf 4 >deep/a &&"
        " ln -s /etc/passwd link && ln -s / deep/root && mkfifo pipe && printf 5 >A && printf 6 >a"
    )
    assert await place.guest.run(make) == (0, "")
    found = await session.collect("any", ["/tmp/left/**"], tmp_path / "into", Limits())
    paths = {one.path.removeprefix("/tmp/left/") for one in found.artifacts}
    assert paths == {"\udcff", "two\nlines", "deep/a", "link", "A", "a"}
    for one in found.artifacts:
        kept = tmp_path / "into" / one.file
        assert kept.is_file()
        assert not kept.is_symlink()
    assert found.notes == ()


async def test_files_are_put_where_they_belong(place: Place, session: Session) -> None:
    files = [("/opt/not/there/a b", b"x" * 300_000, 0o640), ("/etc/motd", b"new", 0o644)]
    await session.upload("files", b"", {}, files)
    told = await place.guest.run("stat -c '%a %s' '/opt/not/there/a b' /etc/motd")
    assert told == (0, "640 300000\n644 3\n")


def content_of(path: Path) -> bytes:
    return path.read_bytes()
