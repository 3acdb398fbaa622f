"""Which accelerator the guests of `holdfast run` get: the operator's choice, or the one measured to be quicker."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from state.records import ACCELERATOR_KEY

if TYPE_CHECKING:
    from agent.config import Settings
    from state.ledger import Ledger


async def choose_accelerator(ledger: Ledger, settings: Settings) -> str:
    """What runs the guests: as the operator says, or as measured once for each boot and each build of QEMU."""
    from agent.cli.compose import DEFAULT_QEMU

    if settings.hypervisor == "memory":
        return "tcg"
    if settings.accel in ("kvm", "tcg"):
        return settings.accel
    from agent.hypervisor.qemu import accel

    qemu = settings.qemu or DEFAULT_QEMU
    build = await accel.build_of(qemu)
    boot_id = accel.boot_id()
    known = json.loads(ledger.reader.meta(ACCELERATOR_KEY) or "{}")
    if known.get("boot_id") == boot_id and known.get("build") == build:
        return str(known["choice"])
    evidence = await accel.measure(qemu)
    with ledger.transaction() as change:
        change.put_meta(ACCELERATOR_KEY, json.dumps(asdict(evidence)))
    return evidence.choice
