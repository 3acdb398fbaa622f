"""Which accelerator is chosen, on what evidence, and what the trial guest is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.errors import BadInput, StartFailed
from agent.hypervisor.qemu import accel, process
from agent.hypervisor.qemu.accel import DONE, Evidence, Run, choose, measure


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
