"""`holdfast images fetch` as a shell sees it, with an agent and without, from a real server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.hostile.servers import Server, Turn, misbehaving
from tests.unit.test_commands import ROOT, caller
from tests.unit.test_job_commands import an_agent
from tests.waiting import DEADLINE, eventually

CONTENT = bytes(range(256)) * 4096 * 4
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MAP = """\
api: holdfast/v1
kind: images
name: default
default_label: tiny
aliases: {{small: tiny}}
images:
  tiny: {{source: "{url}", format: raw, nocloud: false, sha256: "{digest}"}}
  other: {{source: "{url}", format: raw}}
"""
VM = "---\napi: holdfast/v1\nkind: vm\nname: web\n"
FETCH = "images fetch"


@asynccontextmanager
async def served(root: Path, *turns: Turn, more: str = "") -> AsyncIterator[Server]:
    """A server, and a tree that asks for what it has."""
    (root / "tree").mkdir()
    async with misbehaving(CONTENT, *turns) as server:
        text = MAP.format(url=server.url, digest=DIGEST.removeprefix("sha256:"))
        (root / "tree" / "all.yaml").write_text(text + more)
        yield server


@asynccontextmanager
async def keeping(root: Path) -> AsyncIterator[None]:
    """An agent that has looked once, and that can start no machine."""
    with an_agent(root, run="run --accel tcg --qemu /bin/false --desired tree"):
        async with asyncio.timeout(DEADLINE):
            while '"location"' not in (await call(root, "status -o json")).stdout:
                pass
        yield


async def call(root: Path, words: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = await asyncio.to_thread(caller(root), words)
    return done


async def begun(root: Path, words: str, **more: Any) -> Process:
    """A fetch as a process of its own."""
    settings = {"HOLDFAST_STATE": str(root / "state"), "PYTHONPATH": str(ROOT)}
    environment = os.environ | settings | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    program = (sys.executable, "-m", "agent", *FETCH.split(), *words.split())
    return await create_subprocess_exec(*program, cwd=root, env=environment, **more)


def stored(root: Path) -> list[str]:
    """The disks of the store, and what is on its way there."""
    images = root / "state" / "images"
    return sorted(one.name for one in images.glob("*") if one.suffix in (".raw", ".part"))


async def test_the_whole_map_is_fetched_where_no_agent_has_ever_run(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        told = await call(tmp_path, f"{FETCH} --desired tree")
        assert (told.returncode, told.stdout) == (
            0, f"other: fetched, {DIGEST[:19]}\ntiny: fetched, {DIGEST[:19]}\n",
        )  # fmt: skip
        assert "tiny: 100%\n" in told.stderr
        assert len(told.stderr.splitlines()) <= 22
        assert len(server.asked) == 2
        again = await call(tmp_path, f"{FETCH} --desired tree small small -o json")
        assert again.stderr == ""
        assert json.loads(again.stdout) == [
            {"label": "tiny", "digest": DIGEST, "fetched": False, "error": None}
        ]
        assert len(server.asked) == 2
        assert len(stored(tmp_path)) == 1


async def test_what_cannot_be_had_holds_up_no_other(tmp_path: Path) -> None:
    async with served(tmp_path, Turn(status="404 Not Found")) as server:
        told = await call(tmp_path, f"{FETCH} --desired tree")
        assert told.returncode == 1
        assert f"fetching {server.url}: the server says 404 Not Found\n" in told.stderr
        assert re.fullmatch(r"(other|tiny): fetched, sha256:\w+\n", told.stdout)


async def test_what_is_meant_must_be_clear(tmp_path: Path) -> None:
    bare = await call(tmp_path, FETCH)
    assert bare.returncode == 1
    assert "there is no state database yet" in bare.stderr
    assert not (tmp_path / "state").exists()
    async with served(tmp_path):
        unknown = await call(tmp_path, f"{FETCH} --desired tree tiyn")
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert unknown.stderr == (
            "holdfast: fetching images: no usable image is called `tiyn` (did you mean `tiny`?)\n"
        )


async def test_an_agent_fetches_what_it_is_asked_for(tmp_path: Path) -> None:
    """Sabotage: fetch in the command. Two processes then write to one store."""
    async with served(tmp_path) as server:
        async with keeping(tmp_path):
            told = await call(tmp_path, f"{FETCH} tiny")
            assert (told.returncode, told.stdout) == (0, f"tiny: fetched, {DIGEST[:19]}\n")
            assert told.stderr.endswith("tiny: 100%\n")
            assert (await call(tmp_path, f"{FETCH} tiny")).stdout.startswith("tiny: is there")
            server.turns = [Turn(status="404 Not Found")]
            told = await call(tmp_path, FETCH)
            assert told.returncode == 1
            assert "holdfast: other: fetching http" in told.stderr
            assert "called `x`" in (await call(tmp_path, f"{FETCH} x")).stderr
            other = await call(tmp_path, f"{FETCH} --desired elsewhere tiny")
            assert other.returncode == 64
            assert "has other options (leave them out, or stop it first)" in other.stderr
        assert "ImageFetched" in (await call(tmp_path, "events")).stdout


async def test_who_leaves_wants_it_no_more_unless_another_does(tmp_path: Path) -> None:
    """Sabotage: let it go on. An agent then downloads for nobody."""
    stalls = Turn(cut=1 << 20, stalls=True)
    async with served(tmp_path, stalls) as server, keeping(tmp_path):
        left = await begun(tmp_path, "tiny")
        await eventually(lambda: stored(tmp_path), "it is on its way")
        left.kill()
        await left.wait()
        await eventually(lambda: server.left == 1, "the server was left")
        await eventually(lambda: stored(tmp_path) == [], "nothing is left over")


async def test_all_who_want_one_image_at_once_are_served_by_one_fetch(tmp_path: Path) -> None:
    """Sabotage: a fetch for each."""
    stalls = Turn(cut=1 << 20, stalls=True)
    async with served(tmp_path, stalls, more=VM) as server, keeping(tmp_path):
        await eventually(lambda: len(server.asked) == 1, "the agent fetches it for its vm")
        commands = [await begun(tmp_path, word, stderr=PIPE) for word in ("tiny", "small", "tiny")]
        for one in commands:
            assert one.stderr is not None
            assert await one.stderr.readline() == b"tiny: 25%\n"
        assert len(server.asked) == 1
        for one in commands:
            one.kill()
            await one.communicate()
        assert server.left == 0, "the agent goes on for itself"


async def test_how_far_it_is_stands_in_the_status(tmp_path: Path) -> None:
    """Sabotage: look again only when something has happened."""
    stalls = Turn(cut=3 << 20, stalls=True)

    async def waiting() -> list[dict[str, Any]]:
        told = await call(tmp_path, "status -o json")
        found: list[dict[str, Any]] = json.loads(told.stdout)["waiting"]
        return found

    async with served(tmp_path, stalls, more=VM), keeping(tmp_path):
        said = ""
        async with asyncio.timeout(20):
            while "on its way: 75%" not in said:
                said = " ".join(one["message"] for one in await waiting())
        told = (await call(tmp_path, "events")).stdout
        assert told.count("FetchingImage") == 1


async def test_on_a_terminal_it_is_a_bar(tmp_path: Path) -> None:
    reader, terminal = pty.openpty()

    def shown() -> str:
        said = b""
        with suppress(OSError):  # EIO: it has ended
            while piece := os.read(reader, 1 << 16):
                said += piece
        return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", said).decode()

    async with served(tmp_path):
        fetch = await begun(tmp_path, "tiny --desired tree", stdout=PIPE, stderr=terminal)
        os.close(terminal)
        text = await asyncio.to_thread(shown)
        os.close(reader)
        said, _ = await fetch.communicate()
        assert (fetch.returncode, said) == (0, f"tiny: fetched, {DIGEST[:19]}\n".encode()), text
    assert re.search(r"tiny ━+ +100% +4.0/4.0 MiB", text), text
