"""What the files of a run are believed to say, in a guest whose script can write to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import GuestRefused
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
