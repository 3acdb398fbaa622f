"""What every session in a guest promises: a script begins once, and nothing that it says is lost or comes twice."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.errors import GuestRefused, SessionLost
from agent.hypervisor.api import Limits, Look, Session
from agent.hypervisor.memory import Scripted
from tests.contract.inns import INNS, Inn

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

SLOWLY = Scripted(tuple((0.02, f"line {number}\n".encode()) for number in range(50)), 3)
SLOWLY_SAYS = b"".join(piece for _, piece in SLOWLY.output)
FOR_EVER = Scripted(((0.0, b"begun\n"),), None)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(name, marks=[pytest.mark.guest] * (name == "tiny")) for name in INNS],
)
async def inn(request: pytest.FixtureRequest) -> AsyncIterator[Inn]:
    async with INNS[request.param]() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def session(inn: Inn) -> AsyncIterator[Session]:
    made = await inn.enter()
    yield made
    await made.close()


@pytest.fixture
def run() -> str:
    """A run that the guest has not seen yet."""
    return secrets.token_hex(8)


async def heard(session: Session, run: str, enough: int | None = None, piece: int = 100) -> Look:
    """Its output to the end, or until there are `enough` bytes of it."""
    said = b""
    async with asyncio.timeout(60):
        while True:
            look = await session.look(run, len(said), piece)
            assert look.begun
            assert look.alive
            assert len(look.data) <= piece
            said += look.data
            over = look.exit_code is not None and len(said) >= look.size
            if over or (enough is not None and len(said) >= enough):
                return Look(True, said, look.size, look.exit_code)
            await asyncio.sleep(0.02)


async def lost(session: Session, run: str) -> None:
    """A connection that broke is known when it is used, if not at once."""
    async with asyncio.timeout(60):
        while True:
            try:
                await session.look(run, 0, 1)
            except SessionLost:
                return
            await asyncio.sleep(0.02)


async def test_a_script_says_all_and_ends_with_its_code(
    inn: Inn, session: Session, run: str
) -> None:
    await session.upload(run, inn.script(SLOWLY), {}, [])
    assert await session.look(run, 0, 100) == Look(begun=False)
    assert await session.begin(run)
    assert await heard(session, run) == Look(True, SLOWLY_SAYS, len(SLOWLY_SAYS), 3)


async def test_output_is_read_from_any_offset_and_again(
    inn: Inn, session: Session, run: str
) -> None:
    await session.upload(run, inn.script(SLOWLY), {}, [])
    await session.begin(run)
    size = (await heard(session, run)).size
    for offset, most in ((0, 5), (7, 100_000), (size - 1, 10), (size, 10), (0, 0)):
        look = await session.look(run, offset, most)
        assert look == Look(True, SLOWLY_SAYS[offset : offset + most], size, 3)


async def test_what_was_not_uploaded_does_not_begin(session: Session, run: str) -> None:
    with pytest.raises(GuestRefused):
        await session.begin(run)
    assert not (await session.look(run, 0, 10)).begun


async def test_it_begins_once_whoever_asks_and_however_often(
    inn: Inn, session: Session, run: str
) -> None:
    another = await inn.enter()
    await session.upload(run, inn.script(SLOWLY), {}, [])
    began = await asyncio.gather(*(one.begin(run) for one in (session, another) * 2))
    assert sorted(began) == [False, False, False, True]
    assert (await heard(session, run)).data == SLOWLY_SAYS
    assert not await another.begin(run)
    assert (await heard(another, run)).data == SLOWLY_SAYS
    await another.close()


async def test_two_runs_in_one_guest_are_two(inn: Inn, session: Session, run: str) -> None:
    other = Scripted(((0.0, b"other\n"),), 0)
    await session.upload(run, inn.script(SLOWLY), {}, [])
    await session.upload(f"{run}-2", inn.script(other), {}, [])
    await session.begin(f"{run}-2")
    assert await heard(session, f"{run}-2") == Look(True, b"other\n", 6, 0)
    assert not (await session.look(run, 0, 10)).begun


async def test_uploading_again_is_harmless_before_and_after_it_began(
    inn: Inn, session: Session, run: str
) -> None:
    script = inn.script(SLOWLY)
    for _ in range(2):
        await session.upload(run, script, {"A": "1"}, [])
    await session.begin(run)
    await session.upload(run, inn.script(FOR_EVER), {}, [])
    assert await heard(session, run) == Look(True, SLOWLY_SAYS, len(SLOWLY_SAYS), 3)


async def test_a_script_that_does_not_end_has_no_code(inn: Inn, session: Session, run: str) -> None:
    await session.upload(run, inn.script(FOR_EVER), {}, [])
    await session.begin(run)
    await heard(session, run, enough=6)
    for _ in range(30):
        assert await session.look(run, 6, 10) == Look(True, b"", 6, None)


async def test_a_cut_connection_costs_no_line(inn: Inn, session: Session, run: str) -> None:
    await session.upload(run, inn.script(SLOWLY), {}, [])
    await session.begin(run)
    before = (await heard(session, run, enough=20)).data
    await inn.cut()
    await lost(session, run)
    await session.close()
    again = await inn.enter()
    assert (await heard(again, run)).data == SLOWLY_SAYS
    look = await again.look(run, len(before), 100_000)
    assert before + look.data == SLOWLY_SAYS
    assert again.boot == session.boot
    await again.close()


async def test_what_was_begun_outlives_its_session(inn: Inn, session: Session, run: str) -> None:
    await session.upload(run, inn.script(SLOWLY), {}, [])
    await session.begin(run)
    await session.close()
    await session.close()
    with pytest.raises(SessionLost):
        await session.look(run, 0, 10)
    again = await inn.enter()
    assert (await heard(again, run)).exit_code == 3
    await again.close()


async def test_a_reboot_ends_it_and_nothing_begins_it_again(
    inn: Inn, session: Session, run: str
) -> None:
    await session.upload(run, inn.script(FOR_EVER), {}, [])
    await session.begin(run)
    await heard(session, run, enough=6)
    await inn.reboot()
    await lost(session, run)
    again = await inn.enter()
    assert again.boot != session.boot
    assert await again.look(run, 0, 100) == Look(True, b"begun\n", 6, None, alive=False)
    assert not await again.begin(run)
    assert await again.look(run, 0, 100) == Look(True, b"begun\n", 6, None, alive=False)
    await again.close()


async def test_what_patterns_name_is_collected(
    inn: Inn, session: Session, run: str, tmp_path: Path
) -> None:
    leaves = {
        "/left/report/a.xml": b"<a/>",
        "/left/report/b.xml": b"\0" * 100_000,
        "/left/report/deep/er/c.xml": b"c",
        "/left/other": b"",
    }
    await session.upload(run, inn.script(Scripted((), 0, leaves=leaves)), {}, [])
    root = inn.root
    await session.begin(run)
    await heard(session, run)
    into = tmp_path / "artifacts"
    for _ in range(2):
        patterns = [f"{root}/left/**/*.xml", f"{root}/left/report/[ab].xml", f"{root}/none/*"]
        found = await session.collect(run, patterns, into, Limits())
        assert sorted(one.path.removeprefix(root) for one in found.artifacts) == sorted(
            path for path in leaves if path.endswith(".xml")
        )
        assert found.notes == (f"{root}/none/* matches no file",)
        for one in found.artifacts:
            content = (into / one.file).read_bytes()
            assert content == leaves[one.path.removeprefix(root)]
            assert one.size == len(content)
