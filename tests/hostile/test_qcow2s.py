"""What is no sound qcow2 does not come in, and whoever looks at it can do nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from agent.errors import ImageUnavailable
from agent.guest import inspection
from agent.guest.image import ImageStore
from agent.guest.qcow2 import NotUsable
from state.spec.resolved import ImageSpec
from tests.hostile.qcow2s import BY_HEADER, BY_QEMU, SHORT, SIZE, USABLE, Make, sound
from tests.waiting import eventually

NOBODY = 61_000
RUN_AS = NOBODY if os.geteuid() == 0 else None
SECRET = "a secret of the host"  # noqa: S105 - to be looked for


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "images").mkdir()
    return ImageStore(tmp_path / "images", run_as=RUN_AS)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def read(path: Path) -> bytes:
    return path.read_bytes()


def spec(disk: Path, **fields: object) -> ImageSpec:
    return ImageSpec("a", disk.as_uri(), **{"max_size": 1 << 30, **fields})  # type: ignore[arg-type]


async def refusal(store: ImageStore, disk: Path) -> str:
    """How it is refused; nothing of it stays."""
    with pytest.raises(ImageUnavailable) as refused:
        await store.fetch(spec(disk), lambda _: None)
    images = disk.parent / "images"
    assert await store.look([spec(disk)]) == {}
    await eventually(
        lambda: [one for one in images.rglob("*") if one.is_file()] == [], "nothing is left"
    )
    assert SECRET not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", BY_HEADER)
async def test_what_its_header_gives_away_is_refused(
    store: ImageStore, disk: Path, name: str
) -> None:
    make, words = BY_HEADER[name]
    secret = disk.with_name("secret")
    secret.write_text(SECRET)
    make(disk, secret)
    said = await refusal(store, disk)
    assert said.startswith(f"fetching image a from {disk.as_uri()}: ")
    assert words in said


@pytest.mark.parametrize("name", BY_QEMU)
async def test_what_qemu_does_not_read_is_refused(store: ImageStore, disk: Path, name: str) -> None:
    """Sabotage: leave it at the header. A machine then fails at each start of it."""
    BY_QEMU[name](disk, disk)
    assert "qemu-img does not read it: " in await refusal(store, disk)


@pytest.mark.parametrize("name", SHORT)
async def test_one_that_is_not_all_there_is_refused(
    store: ImageStore, disk: Path, name: str
) -> None:
    """Sabotage: leave it at `qemu-img info`. What is missing is zeros to a guest, and nothing says so."""
    SHORT[name](disk, disk)
    assert ": it is damaged, or was cut short: qemu-img says " in await refusal(store, disk)


@pytest.mark.parametrize("name", USABLE)
async def test_what_is_unusual_comes_in(store: ImageStore, disk: Path, name: str) -> None:
    """Sabotage: refuse whatever `qemu-img check` complains of."""
    USABLE[name](disk, disk)
    assert (await store.fetch(spec(disk), lambda _: None)).virtual_size == SIZE


async def test_a_sound_one_comes_in(store: ImageStore, disk: Path) -> None:
    sound(disk)
    base = await store.fetch(spec(disk), lambda _: None)
    assert (base.format, base.virtual_size) == ("qcow2", SIZE)


async def test_a_sound_one_comes_in_however_many_threads_look_at_it(disk: Path) -> None:
    """Sabotage: let glibc give each thread of `qemu-img` an arena. The address space is then too small now and then."""
    USABLE["small clusters"](disk, disk)
    with disk.open("rb") as file:
        for _ in range(30):
            await asyncio.to_thread(inspection.check, file.fileno(), SIZE, None)


async def test_a_header_is_believed_before_the_rest_has_come(store: ImageStore, disk: Path) -> None:
    """Sabotage: look when all is there. Whatever a stranger sends is then kept for that long."""
    make, words = BY_HEADER["a backing file"]
    make(disk, disk.with_name("other"))
    os.truncate(disk, 200 << 20)
    far: list[int] = []
    with pytest.raises(ImageUnavailable, match=words):
        await store.fetch(spec(disk), lambda how: far.append(how.got))
    assert far[-1] < 16 << 20


@pytest.mark.parametrize("name", ["a backing file", "external data", "an absurd size"])
async def test_what_a_guest_wrote_to_a_raw_disk_is_its_own_affair(
    store: ImageStore, disk: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: have a look at it. Without `qemu-img` on the path there is nobody who could."""
    make: Make = BY_HEADER[name][0]
    make(disk, disk.with_name("secret"))
    content = read(disk)
    monkeypatch.setenv("PATH", "/nowhere")
    base = await store.fetch(spec(disk, format="raw"), lambda _: None)
    assert (base.format, base.virtual_size) == ("raw", -(-len(content) // 512) * 512)
    assert read(base.path) == content
    with pytest.raises(ImageUnavailable, match=r"there is no qemu-img .*Debian: qemu-utils"):
        await store.fetch(spec(disk), lambda _: None)


# Who looks


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `qemu-img` of the test's own, which anybody may run."""
    directory = Path(tempfile.mkdtemp(prefix="hf-"))
    directory.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    yield directory / "qemu-img"
    shutil.rmtree(directory)


def written(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def looked(disk: Path, run_as: int | None = RUN_AS) -> None:
    disk.chmod(0o444)
    with disk.open("rb") as file:
        inspection.check(file.fileno(), SIZE, run_as)


async def test_whoever_looks_can_do_nothing_else(disk: Path, program: Path) -> None:
    """Sabotage: leave out any of the words before `qemu-img`."""
    sound(disk)
    go_on = program.with_name("go-on")
    os.mkfifo(go_on)
    go_on.chmod(0o666)
    wait = f'[ "$1" = check ] && read go < {go_on}'
    written(program, f'{wait}\nexec {shutil.which("qemu-img", path=os.defpath)} "$@"')
    async with asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.to_thread(looked, disk))
        found: list[psutil.Process] = []

        def begun() -> bool:
            for one in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # such as one that has ended, and is somebody else's
                    if str(program) in one.cmdline():
                        found.append(one)
            return bool(found)

        await eventually(begun, "it looks")
        try:
            _assert_alone(found[0].pid)
        finally:
            go_on.write_text("go\n")
        await task


def _assert_alone(pid: int) -> None:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    uid = os.geteuid() if RUN_AS is None else RUN_AS
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    if RUN_AS is not None:
        assert (status["Groups"], int(status["CapBnd"], 16)) == ("", 0)
    table = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    limits = {line[:26].strip(): line[26:47].strip() for line in table}
    assert limits["Max address space"] == str(inspection.MEMORY)
    assert limits["Max cpu time"] == str(inspection.PROCESSOR)
    assert limits["Max file size"] == str(inspection.SAYS)
    assert limits["Max core file size"] == "0"
    assert os.getsid(pid) == pid != os.getsid(0)
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {word.partition(b"=")[0] for word in words} <= {
        b"PATH",
        b"LC_ALL",
        b"MALLOC_ARENA_MAX",
        b"PWD",
        b"OLDPWD",
        b"_",
        b"",
    }
    assert {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()} <= {
        *(os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)),
        str(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1], "utf-8"),
    }  # fmt: skip
    if inspection.apart():
        interfaces = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert [line.partition(":")[0].strip() for line in interfaces] == ["lo"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo no; exit 3", "it ended with status 3"),
        ("echo 'qemu-img: oh' >&2; exit 1", "does not read it: oh"),
        (
            r"""printf 'no \033[31m%s' $(seq -s '' 9999) >&2; exit 1""",
            r"does not read it: no \\x1b\[31m\d{288}…$",
        ),
        ("kill -9 $$", "signal 9 ended it"),
        ("echo '[]'", "says that it is a None file"),
        ("yes", "File size limit exceeded"),
        ("exec python3 -c 'a = bytearray(1 << 30)'", "does not read it: MemoryError"),
        ("while :; do :; done", "signal 9 ended it"),
        ("exec sleep 1000", "did not come to an end"),
    ],
)
def test_one_that_fails_says_so(
    disk: Path, program: Path, script: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: leave out a limit."""
    monkeypatch.setattr(inspection, "PROCESSOR", 1)
    monkeypatch.setattr(inspection, "PATIENCE", 5.0 if "sleep" in script else 60.0)
    sound(disk)
    written(program, script)
    with pytest.raises(NotUsable, match=words):
        looked(disk)
