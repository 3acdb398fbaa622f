"""Which accelerator is chosen, on what evidence, and what the trial guest is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.errors import BadInput, StartFailed
from agent.hypervisor.qemu import accel, process
from agent.hypervisor.qemu.accel import CANNOT_WIN, DONE, Evidence, Run, choose, measure
from agent.hypervisor.qemu.argv import DEFAULT_QEMU, KVM


@pytest.mark.parametrize(
    ("kvm", "tcg", "choice", "said"),
    [
        (Run(0.06), Run(0.15), "kvm", "60 ms under KVM and 150 ms under TCG"),
        (Run(5.2), Run(0.084), "tcg", "5200 ms under KVM and 84 ms under TCG"),
        (Run(0.1), Run(0.1), "tcg", "100 ms"),
        (Run(None, "it had not ended after 300 ms"), Run(0.1), "tcg", "not ended after 300 ms"),
        (Run(0.1), Run(None, "QEMU exited with status 1"), "kvm", "exited with status 1"),
    ],
)
def test_the_quicker_is_chosen_and_the_figures_are_said(
    kvm: Run, tcg: Run, choice: str, said: str
) -> None:
    chosen, why = choose(kvm, tcg)
    assert chosen == choice
    assert said in why


def test_a_host_on_which_nothing_runs_says_both_reasons() -> None:
    with pytest.raises(StartFailed, match=r"under TCG no memory; under KVM no device"):
        choose(Run(None, "no device"), Run(None, "no memory"))


def children() -> str:
    """The command lines of what we started and did not end."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return " ".join(" ".join(process.command_line(int(pid))) for pid in pids)


@pytest.mark.qemu
async def test_a_host_without_kvm_is_measured_with_tcg_alone(tmp_path: Path) -> None:
    evidence = await measure(kvm_device=tmp_path / "kvm")
    assert evidence.choice == "tcg"
    assert evidence.tcg_seconds is not None
    assert evidence.kvm_seconds is None
    assert "No such file" in evidence.why
    assert Evidence(**json.loads(json.dumps(asdict(evidence)))) == evidence
    assert evidence.build == await accel.build_of()
    assert evidence.boot_id == accel.boot_id()
    assert re.match(r"\d+\.\d+", evidence.qemu_version)


@pytest.mark.qemu
async def test_this_host_is_measured_without_waiting_for_a_kvm_that_hangs() -> None:
    evidence = await measure()
    if evidence.kvm_seconds is not None and evidence.tcg_seconds is not None:
        assert evidence.choice == ("kvm" if evidence.kvm_seconds < evidence.tcg_seconds else "tcg")
    assert "qemu-system-x86_64" not in children()


MEASURED = """
import asyncio, json
from dataclasses import asdict
from agent.hypervisor.qemu.accel import measure
print(json.dumps(asdict(asyncio.run(measure()))))
"""
OPEN_TO_ALL = """
mount -t tmpfs none "$1" && mknod -m 0666 "$1/kvm" c $((0x$(stat -c %t /dev/kvm))) $((0x$(stat -c %T /dev/kvm))) &&
mount --bind "$1/kvm" /dev/kvm && shift && exec "$@"
"""
"""Shows a `/dev/kvm` that everybody may open: the trial's user may not where it is root's alone."""


@pytest.mark.qemu
def test_a_kvm_that_opens_and_crawls_or_breaks_is_told_and_emulation_is_taken(
    tmp_path: Path,
) -> None:
    """On hosts whose KVM is such a one. Sabotage: take KVM where its device opens."""
    if not KVM.exists() or os.geteuid() != 0:
        pytest.skip("there is no /dev/kvm here, or none that can be shown to the trial's user")
    within = ["unshare", "--mount", "sh", "-c", OPEN_TO_ALL, "sh", str(tmp_path)]
    if subprocess.run([*within, "true"], check=False).returncode:
        pytest.skip("no device can be mounted over another here")
    told = subprocess.run([*within, sys.executable, "-c", MEASURED], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    evidence = Evidence(**json.loads(told.stdout))
    assert evidence.tcg_seconds is not None
    status = under_kvm(tmp_path, within, 5 * CANNOT_WIN * evidence.tcg_seconds)
    if status == DONE:
        pytest.skip("KVM works here")
    assert evidence.choice == "tcg"
    why = r"it had not ended after \d+ ms$" if status is None else "QEMU (killed|exited)"
    assert re.search(f"under TCG; under KVM {why}", evidence.why)


def under_kvm(directory: Path, within: list[str], seconds: float) -> int | None:
    """The status of a QEMU with the trial guest, None where it has not ended in that time; by no word of what is tried
    here."""
    disk = directory.with_suffix(".disk")
    disk.write_bytes(accel.BOOT_SECTOR)
    words = f"-accel kvm -cpu host -nodefaults -display none -m 32 -drive format=raw,file={disk}"
    devices = ["-device", "isa-debug-exit,iobase=0xf4"]
    try:
        return subprocess.call([*within, DEFAULT_QEMU, *words.split(), *devices], timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


async def test_a_qemu_that_is_not_there_is_named() -> None:
    with pytest.raises(BadInput, match="no-such-qemu"):
        await measure("no-such-qemu")


@pytest.mark.skipif(
    shutil.which("as") is None or shutil.which("ld") is None, reason="needs binutils"
)
def test_the_bytes_of_the_trial_guest_are_those_of_its_listing(tmp_path: Path) -> None:
    module = Path(accel.__file__).read_text()
    listing = module.split("assembler:\n", 1)[1].split('"""', 1)[0]
    source, made, binary = tmp_path / "trial.S", tmp_path / "trial.o", tmp_path / "trial"
    source.write_text(listing)
    subprocess.run(["as", "-o", made, source], check=True)
    flat: list[str | Path] = [
        "ld",
        "-Ttext",
        "0x7c00",
        "-e",
        "start",
        "--oformat",
        "binary",
        "-o",
        binary,
        made,
    ]
    subprocess.run(flat, check=True)
    assert accel.BOOT_SECTOR.startswith(binary.read_bytes())
    assert accel.BOOT_SECTOR[len(binary.read_bytes()) : 510].strip(b"\0") == b""
    assert len(accel.BOOT_SECTOR) == 512
    assert DONE == 2 * 0x10 + 1
