"""The agent's own log: a line an event, for people or for programs, each with the pass that brought it about."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_commands import plant

PASS = re.compile(r"[0-9a-f]+-[0-9]+")
OF_NO_PASS = {"Started", "Listening", "Leaving", "Left"}
JOB = "api: holdfast/v1\nkind: job\nname: hello\nscript: 'true'\n"
OTHERS = """
import asyncio, structlog
from agent import log

log.configure()
said = structlog.get_logger()

async def step(number):
    with log.of_pass(f"{number}"):
        await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            group.create_task(deep())
    said.info("after a step")

async def deep():
    said.warning("of somebody who knows no pass")

async def main():
    async with asyncio.TaskGroup() as group:
        for number in (1, 2):
            group.create_task(step(number))

asyncio.run(main())
"""


def once(root: Path, **more: Any) -> subprocess.Popen[bytes]:
    words = ["run", "--once", "--hypervisor", "memory", "--desired", "tree", "--state", "state"]
    return subprocess.Popen([sys.executable, "-m", "agent", *words], cwd=root, **more)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (plant(tmp_path) / "job.yaml").write_text(JOB)
    return tmp_path


LIBRARY = """
import logging
from agent import log

log.configure()
try:
    raise OSError(24, "Too many open files")
except OSError:
    logging.getLogger("asyncio").exception("socket.accept() out of system resource\\nsocket: 7")
logging.getLogger("asyncio").info("nobody has to know")
"""


def test_what_a_library_logs_is_one_line_too() -> None:
    """Sabotage: leave libraries to Python's own logging, which prints where in them it was."""
    told = subprocess.run([sys.executable, "-c", LIBRARY], capture_output=True, text=True)
    [line] = told.stderr.splitlines()
    said = json.loads(line)
    assert (said["event"], said["library"], said["level"]) == ("Library", "asyncio", "error")
    assert "out of system resource" in said["message"]
    assert "Too many open files" in said["message"]


def test_under_a_service_each_line_is_json_with_its_pass(root: Path) -> None:
    """Sabotage: bind no pass where steps are done."""
    agent = once(root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, said = agent.communicate(timeout=60)
    lines = [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]
    told = {line["event"] for line in lines}
    assert {"Started", "Created", "ImageFetched", "RunBegan", "Ready", "Left"} <= told
    for line in lines:
        assert line["timestamp"].endswith("Z")
        assert line["level"] in ("info", "warning", "error")
        assert line["event"] in OF_NO_PASS or PASS.fullmatch(line["pass_id"]), line
    [image, created] = [
        next(one["pass_id"] for one in lines if one["event"] == word)
        for word in ("ImageFetched", "Created")
    ]
    assert image != created


def test_on_a_terminal_people_read_it(root: Path) -> None:
    reader, terminal = pty.openpty()
    with once(root, stdout=terminal, stderr=terminal) as agent:
        os.close(terminal)
        said = _all(reader)
    assert agent.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    # The screen folds what is long.
    assert re.search(r"\d\d:\d\d:\d\d \[info +\] Created +message='[^']+'\s+name=web\s", text), text
    assert re.search(r"pass_id=[0-9a-f]+-[0-9]+", text)
    assert '{"' not in text


def _all(reader: int) -> bytes:
    """What is written to a terminal until nobody has it open any more (EIO, then)."""
    said = b""
    with open(reader, "rb", buffering=0) as file:
        while select.select([file], [], [], 60)[0]:
            try:
                said += file.read(1 << 16)
            except OSError:
                break
    return said


def test_who_knows_of_no_pass_is_told_to_belong_to_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHERS], capture_output=True, check=True, text=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    passes = {line.get("pass_id") for line in lines if line["level"] == "warning"}
    assert passes == {"1", "2"}
    assert all("pass_id" not in line for line in lines if line["event"] == "after a step")
