"""Which vms want a port of the host that another one wants too. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.source.documents import Reading
from state.spec.complaints import Path
from state.spec.vm import ANYWHERE, VmDocument
from state.spec.words import quoted


@dataclass(frozen=True, slots=True)
class _Claim:
    """A document that wants a port of the host on an address."""

    reading: Reading
    index: int
    address: str


def contested(readings: Iterable[Reading]) -> Iterator[tuple[Reading, Path, str]]:
    """Each claim that another document's overlaps: whose it is, the path to it, and what is wrong with it."""
    vms = [
        (reading, reading.document)
        for reading in readings
        if isinstance(reading.document, VmDocument) and reading.document.ports
    ]
    owners: dict[int, Reading] = {}
    crowded = {
        port.host
        for reading, document in vms
        for port in document.ports
        if owners.setdefault(port.host, reading) is not reading
    }
    by_port: dict[int, list[_Claim]] = defaultdict(list)
    for reading, document in vms if crowded else ():
        for index, port in enumerate(document.ports):
            if port.host in crowded:
                by_port[port.host].append(_Claim(reading, index, port.address))
    for number, claims in by_port.items():
        yield from _contested(number, claims)


def _contested(number: int, claims: Sequence[_Claim]) -> Iterator[tuple[Reading, Path, str]]:
    by_address: dict[str, list[_Claim]] = defaultdict(list)
    for claim in claims:
        by_address[claim.address].append(claim)
    for claim in claims:
        rivals = (
            claims
            if claim.address == ANYWHERE
            else (*by_address[claim.address][:2], *by_address.get(ANYWHERE, ()))
        )
        rival = next((one for one in rivals if one.reading is not claim.reading), None)
        if rival is not None:
            message = (
                f"host port {claim.address}:{number} is also wanted by"
                f" {quoted(rival.reading.name)} in {rival.reading.ref}, on {rival.address} (give one"
                " of them another port)"
            )
            yield claim.reading, ("ports", claim.index), message
