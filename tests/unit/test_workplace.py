"""What is put into a guest for a run, and what is believed of the files of a run, to which its script can write."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import GuestRefused, StartFailed
from agent.guest.content import pieces, size_of
from state.work import Look
from tests.localguest import LocalGuest


async def looked(home: Path, code: str) -> Look:
    """A look at a run whose file with the exit code is `code`."""
    guest = LocalGuest(home)
    session = await guest.session()
    try:
        await session.upload("r1", b"true", {}, [])
        (guest.run("r1") / "begun").mkdir(exist_ok=True)
        (guest.run("r1") / "output").write_bytes(b"all of it\n")
        (guest.run("r1") / "code").write_text(code)
        return await session.look("r1", 0, 100)
    finally:
        await session.close()
        guest.end()


async def test_the_code_and_the_size_are_taken_from_the_file(tmp_path: Path) -> None:
    assert await looked(tmp_path, "3 3\n") == Look(True, b"all", 3, 3)
    assert await looked(tmp_path, "0 -\n") == Look(True, b"all of it\n", 10, 0)


@pytest.mark.parametrize(
    "code", ["", "0", "256 3", "-1 3", "x 3", f"0 {2**63}", f"0 {'9' * 900}", f"{'9' * 900} 3"]
)
async def test_what_no_wrapper_writes_is_refused(tmp_path: Path, code: str) -> None:
    with pytest.raises(GuestRefused, match=r"refused: .* (tampered with|than a file can be)"):
        await looked(tmp_path, code)


async def test_the_size_of_a_large_output_is_believed(tmp_path: Path) -> None:
    assert (await looked(tmp_path, f"0 {2**63 - 1}")).size == 2**63 - 1


async def test_a_file_of_this_host_comes_whole_and_is_read_in_pieces(tmp_path: Path) -> None:
    """Sabotage: write every piece to the start of the file."""
    large, script = tmp_path / "large", tmp_path / "script"
    large.write_bytes(bytes(range(256)) * 40_000)
    script.write_bytes(b"#!/bin/sh\n")
    assert max(map(len, pieces(large))) < large.stat().st_size == size_of(large)
    guest = LocalGuest(tmp_path / "home")
    session = await guest.session()
    try:
        await session.upload("r1", script, {}, [(f"{guest.home}/there", large, 0o640)])
        assert (guest.home / "there").read_bytes() == large.read_bytes()
        assert (guest.run("r1") / "script").read_bytes() == b"#!/bin/sh\n"
        large.unlink()
        with pytest.raises(StartFailed, match=r"reading .*/large for a guest: No such file"):
            await session.upload("r2", script, {}, [(f"{guest.home}/there", large, 0o640)])
    finally:
        await session.close()
        guest.end()
