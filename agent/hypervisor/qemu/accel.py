"""Finds out by trial which accelerator runs guests sooner on this host, and says why.

A `/dev/kvm` that opens proves nothing: where KVM itself is emulated a guest starts, is called running, and hangs. So a
tiny guest is timed under TCG and under KVM, from start to its last instruction, and KVM is cut off when it cannot win.
It refuses to remember: whoever asks keeps the evidence, which holds for one boot of one host and one build of QEMU.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.errors import BadInput, StartFailed
from agent.hypervisor.api import Accelerator
from agent.hypervisor.qemu import process
from agent.hypervisor.qemu.argv import DEFAULT_QEMU, KVM, SANDBOX, TCG_CPU
from agent.hypervisor.qemu.confine import Confinement
from state.spec.words import printable

BOOT_SECTOR = (
    bytes.fromhex(
        "fa31c08ed80f0116b07c0f20c00c010f22c0ea177c080066b810008ed88ec08ed0bf001000000f22df31c0b9000c0000f3ab"
        "66c70500100000032066c70500200000033066c7050030000083000f20e00c200f22e0b9800000c00f3280cc010f300f20c0"
        "0d000000800f22c0ea737c00001800b980c3c90148ffc975fbb9c8000000e680ffc975fab010e6f4f4ebfd90000000000000"
        "0000ffff0000009acf00ffff00000092cf00ffff0000009aaf001f00907c0000"
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)
"""What the trial guest does, at 0x7c00, in the syntax of the GNU assembler:

            .code16
    start:  cli
            xor     %ax, %ax
            mov     %ax, %ds
            lgdt    gdtr
            mov     %cr0, %eax              # real mode to protected mode
            or      $1, %al
            mov     %eax, %cr0
            ljmp    $0x08, $protected
            .code32
    protected:
            mov     $0x10, %ax
            mov     %ax, %ds
            mov     %ax, %es
            mov     %ax, %ss
            mov     $0x1000, %edi           # tables that map the first 2 MiB onto themselves
            mov     %edi, %cr3
            xor     %eax, %eax
            mov     $0xc00, %ecx
            rep stosl
            movw    $0x2003, 0x1000
            movw    $0x3003, 0x2000
            movw    $0x0083, 0x3000
            mov     %cr4, %eax              # PAE
            or      $0x20, %al
            mov     %eax, %cr4
            mov     $0xc0000080, %ecx       # EFER.LME
            rdmsr
            or      $1, %ah
            wrmsr
            mov     %cr0, %eax              # paging, and with it long mode
            or      $0x80000000, %eax
            mov     %eax, %cr0
            ljmp    $0x18, $long
            .code64
    long:   mov     $30000000, %ecx         # a while of plain work
    1:      dec     %rcx
            jnz     1b
            mov     $200, %ecx              # some exits to QEMU
    2:      out     %al, $0x80
            dec     %ecx
            jnz     2b
            mov     $0x10, %al              # done: isa-debug-exit ends QEMU with status 2 * 0x10 + 1
            out     %al, $0xf4
    3:      hlt
            jmp     3b
            .balign 8
    gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
    gdtr:   .word   31
            .long   gdt
"""
DONE = 33

NOBODY = 65534

TCG_DEADLINE = 20.0
"""Seconds; 0.1 to 0.2 are usual."""
CANNOT_WIN = 3.0
"""How many times as long as TCG KVM is let run: noise does not explain more."""
ROUNDS = 3
"""A close race is run again, and the best of each counts: another program may have been busy."""


@dataclass(frozen=True, slots=True)
class Run:
    """One trial: how many seconds it took, or None and a sentence part on why not."""

    seconds: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Which accelerator, and what speaks for it. `build` is `build_of` the QEMU that was tried, `boot_id` the boot that
    it was tried in; every field is fit for JSON."""

    choice: Accelerator
    why: str
    kvm_seconds: float | None
    tcg_seconds: float | None
    boot_id: str
    build: str
    qemu_version: str


def choose(kvm: Run, tcg: Run) -> tuple[Accelerator, str]:
    """The quicker one, and a sentence on it. Raises StartFailed where neither ran."""
    match kvm.seconds, tcg.seconds:
        case None, None:
            raise StartFailed(
                f"no guest runs on this host: under TCG {tcg.why}; under KVM {kvm.why}"
            )
        case float() as took, None:
            return "kvm", f"a trial guest took {_ms(took)} under KVM; under TCG {tcg.why}"
        case None, float() as took:
            return "tcg", f"a trial guest took {_ms(took)} under TCG; under KVM {kvm.why}"
        case float() as with_kvm, float() as with_tcg:
            choice: Accelerator = "kvm" if with_kvm < with_tcg else "tcg"
            return (
                choice,
                f"a trial guest took {_ms(with_kvm)} under KVM and {_ms(with_tcg)} under TCG",
            )
        case _:
            raise TypeError("a run takes a float of seconds or None")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def boot_id() -> str:
    """Of this boot of this host; evidence of another is void."""
    return process.boot_id()


async def build_of(qemu: str = DEFAULT_QEMU) -> str:
    """What tells one build of QEMU from another: where it lies, its size and when it was written. Raises BadInput where
    there is none."""
    return _build(qemu)


def _build(qemu: str) -> str:
    found = shutil.which(qemu)
    if found is None:
        raise BadInput(
            f"there is no program {qemu}",
            hint="install QEMU (Debian: qemu-system-x86), or name it with --qemu",
        )
    path = Path(found).resolve()
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


async def measure(qemu: str = DEFAULT_QEMU, kvm_device: Path = KVM) -> Evidence:
    """Try both; takes a few tenths of a second, also where KVM hangs. Raises StartFailed, BadInput."""
    build = await build_of(qemu)
    version = await _version(qemu)
    tcg = await _run(qemu, "tcg", TCG_DEADLINE)
    kvm = Run(None, _unusable(kvm_device))
    for _ in range(ROUNDS if not kvm.why else 0):
        limit = TCG_DEADLINE if tcg.seconds is None else CANNOT_WIN * tcg.seconds
        kvm = _better(kvm, await _run(qemu, "kvm", limit))
        if kvm.seconds is None or tcg.seconds is None or kvm.seconds < tcg.seconds:
            break
        tcg = _better(tcg, await _run(qemu, "tcg", TCG_DEADLINE))
    choice, why = choose(kvm, tcg)
    return Evidence(choice, why, kvm.seconds, tcg.seconds, boot_id(), build, version)


def _better(one: Run, other: Run) -> Run:
    if one.seconds is None or other.seconds is None:
        return other if one.seconds is None else one
    return min(one, other, key=lambda run: run.seconds or 0.0)


def _unusable(device: Path) -> str:
    """Why KVM need not be tried; empty where it must be."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"not at all: {device}: {error.strerror}"
    return ""


async def _version(qemu: str) -> str:
    _, words = await _finished([qemu, "--version"], (), 10.0, keep="stdout")
    return printable(words.partition("\n")[0].removeprefix("QEMU emulator version "))


_TRIAL = (
    f"-nodefaults -no-user-config -display none -vga none -sandbox {SANDBOX} -machine pc,usb=off -m 32 -boot strict=on"
    " -blockdev file,node-name=disk,filename=/dev/fdset/1 -device ide-hd,drive=disk,bootindex=0"
    " -device isa-debug-exit,iobase=0xf4"
)


async def _run(qemu: str, accelerator: Accelerator, deadline: float) -> Run:
    cpu = TCG_CPU if accelerator == "tcg" else "host"
    with _disk() as disk:
        command = [
            qemu,
            "-accel",
            accelerator,
            "-cpu",
            cpu,
            "-add-fd",
            f"fd={disk},set=1",
            *_TRIAL.split(),
        ]
        start = asyncio.get_running_loop().time()
        status, words = await _finished(command, (disk,), deadline, keep="stderr")
        took = asyncio.get_running_loop().time() - start
    if status is None:
        return Run(None, f"it had not ended after {_ms(took)}")
    if status != DONE:
        words = " ".join(words.split())[:300]
        return Run(None, f"QEMU {process.ending(status)}{': ' if words else ''}{printable(words)}")
    return Run(took)


@contextmanager
def _disk() -> Iterator[int]:
    """The trial guest's disk, which has no name."""
    descriptor = os.memfd_create("holdfast-trial", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, BOOT_SECTOR)
        yield descriptor
    finally:
        os.close(descriptor)


async def _finished(
    command: list[str], inherit: tuple[int, ...], deadline: float, *, keep: str
) -> tuple[int | None, str]:
    """The exit status, None where it was cut off, and what it said. Unlike a machine, it ends with us."""
    # Root's trial runs as a user who, like a machine's, is let in to /dev/kvm by its group alone.
    root = os.geteuid() == 0
    rights = Confinement(
        NOBODY if root else None, root, process.groups_for(KVM), file_size=0
    ).privileges()
    # The kernel ends it with the agent, and in any case after 30 s of processor time.
    limits = ["prlimit", "--core=0:0", "--cpu=30:30", "--"]
    confined = [*rights[:-1], "--pdeathsig", "KILL", "--", *limits, *command]
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(
            *confined,
            stdin=null,
            stdout=pipe if keep == "stdout" else null,
            stderr=pipe if keep == "stderr" else null,
            pass_fds=inherit,
            start_new_session=True,
        )
    except OSError as error:
        raise StartFailed(f"{confined[0]} cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(deadline):
            said = await child.communicate()
    except TimeoutError:
        return None, ""
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return child.returncode, (said[0] or said[1] or b"").decode(errors="backslashreplace")
