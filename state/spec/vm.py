"""The shape of `kind: vm`: what its author may write, before labels are resolved and defaults applied."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from state.ids import Name
from state.spec.document import (
    Document,
    FewItems,
    FileBeside,
    Fits,
    Labels,
    LabelText,
    NameText,
    Part,
    Port,
    between,
    wrong_at,
)
from state.spec.quantities import DAY, Duration, Size, Wait
from state.spec.resolved import Power, Restart
from state.spec.units import format_duration, format_size
from state.spec.words import quoted

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
USER_DATA_LIMIT = MIB
"""Bytes of user-data, given inline or in a file: cloud-init's own sources take far less, and a seed is no data disk."""

ANYWHERE = "0.0.0.0"  # noqa: S104 - compared with, never bound
"""Stands for every address of the host."""

Cpus = Annotated[int, Field(ge=1, le=255)]
"""QEMU's `pc` machine takes at most 255."""
Memory = Annotated[Size, between(16 * MIB, 16 * TIB, format_size)]
Disk = Annotated[Size, between(MIB, 64 * TIB, format_size)]
Period = Annotated[Duration, between(0.1, DAY, format_duration)]


def _address(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError(
            f"{quoted(value)} is no IPv4 address (write four numbers from 0 to 255, like 127.0.0.1)"
        ) from None


Address = Annotated[
    str,
    AfterValidator(_address),
    WithJsonSchema(
        {"type": "string", "format": "ipv4", "pattern": r"^([0-9]{1,3}\.){3}[0-9]{1,3}$"}
    ),
]
"""IPv4 only: QEMU 7.2's user-mode network takes neither IPv6 nor names in a host forward."""


class PortForward(Part):
    """A TCP port of the host that leads to a port of the guest."""

    host: Port = Field(description="The port on the host.")
    guest: Port = Field(description="The port in the guest.")
    address: Address = Field(
        default="127.0.0.1", description="The host's IPv4 address; 0.0.0.0 means all of them."
    )


class Network(Part):
    """What the guest may reach."""

    egress: bool = Field(
        default=True, description="false: the guest reaches nothing; forwards into it still work."
    )


class HttpCheck(Part):
    """Ready when a GET answers with the status."""

    port: Port = Field(description="The port in the guest.")
    path: Annotated[
        str, Fits(r"^/[!-~]{0,1023}$", "path (write `/` and printable ASCII without spaces)")
    ] = Field(default="/", description="The path of the request.")
    status: Annotated[int, Field(ge=100, le=599)] = Field(
        default=200, description="The status that counts as healthy."
    )


class Health(Part):
    """When the vm counts as ready: exactly one of `tcp`, `http` and `ssh`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["tcp"]}, {"required": ["http"]}, {"required": ["ssh"]}]
        }
    )

    tcp: Port | None = Field(default=None, description="A TCP port of the guest that must answer.")
    http: HttpCheck | None = Field(default=None, description="A request that must succeed.")
    ssh: Literal[True] | None = Field(default=None, description="An SSH login that must succeed.")
    interval: Period = Field(default=10.0, description="From one check to the next.")
    timeout: Period = Field(default=2.0, description="How long one check may take.")
    failures: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3, description="How many failures in a row make the vm unhealthy."
    )
    start_period: Wait = Field(
        default=120.0, description="Failures this soon after the start do not count."
    )

    @model_validator(mode="after")
    def _one_check(self) -> Self:
        given = [key for key in ("tcp", "http", "ssh") if getattr(self, key) is not None]
        if not given:
            raise wrong_at(
                "`health` says nothing to check (add one of `tcp`, `http` or `ssh: true`)"
            )
        if len(given) > 1:
            raise wrong_at(
                f"`{given[1]}` stands beside `{given[0]}` (give one of `tcp`, `http` and `ssh`)",
                given[1],
            )
        return self


class VmDocument(Document):
    """A virtual machine that is kept as the document says."""

    model_config = ConfigDict(
        title="vm",
        json_schema_extra={"not": {"required": ["user_data", "user_data_file"]}},
    )

    kind: Literal["vm"] = Field(description="A virtual machine.")
    labels: Labels = Field(
        default={}, description="Words of your own, shown in the status and on metrics."
    )
    image: LabelText | None = Field(
        default=None,
        description="An alias or image of the image map; without it, the map's default_label.",
    )
    size: LabelText | None = Field(
        default=None, description="A preset of the image map; cpus, memory and disk override it."
    )
    cpus: Cpus | None = Field(default=None, description="Virtual processors; 1 by default.")
    memory: Memory | None = Field(default=None, description="Memory; 512MiB by default.")
    disk: Disk | None = Field(
        default=None, description="The root disk is grown to this, and never shrunk."
    )
    ports: Annotated[tuple[PortForward, ...], FewItems] = Field(
        default=(), max_length=256, description="TCP ports of the host that lead into the guest."
    )
    network: Network = Field(default=Network(), description="How the guest is connected.")
    user_data: Annotated[str, Field(json_schema_extra={"maxLength": USER_DATA_LIMIT})] | None = (
        Field(default=None, description="cloud-init user-data, passed through unchanged.")
    )
    user_data_file: FileBeside | None = Field(
        default=None,
        description="A file with the user-data, relative to this one and never outside the tree.",
    )
    power: Power = Field(default="running", description="Whether it runs.")
    restart: Restart = Field(
        default="always", description="When it is started again after it ended on its own."
    )
    health: Health | None = Field(default=None, description="When it counts as ready.")
    depends_on: Annotated[tuple[NameText, ...], FewItems] = Field(
        default=(), max_length=64, description="Started only when these vms are ready."
    )
    suspend: bool = Field(default=False, description="true: the agent leaves this name alone.")
    protect: bool = Field(default=False, description="true: never destroyed or replaced.")
    stop_timeout: Wait = Field(
        default=30.0, description="How long a power-down is waited for before QEMU is ended."
    )

    @model_validator(mode="after")
    def _rules_over_several_keys(self) -> Self:
        if self.user_data is not None:
            if self.user_data_file is not None:
                raise wrong_at(
                    "`user_data_file` stands beside `user_data` (keep one)", "user_data_file"
                )
            if len(self.user_data.encode()) > USER_DATA_LIMIT:
                raise wrong_at("`user_data` is larger than 1MiB", "user_data")
        if self.ports:
            self._check_ports()
        if self.depends_on:
            self._check_depends_on()
        return self

    def _check_ports(self) -> None:
        for index, port in enumerate(self.ports):
            for earlier in self.ports[:index]:
                if overlap(port, earlier):
                    raise wrong_at(
                        f"host port {earlier.address}:{earlier.host} is given twice (each forward"
                        " needs an address and port of its own)",
                        "ports",
                        index,
                    )

    def _check_depends_on(self) -> None:
        seen: set[Name] = set()
        for index, name in enumerate(self.depends_on):
            if name == self.name:
                raise wrong_at("a vm cannot wait for itself (remove it)", "depends_on", index)
            if name in seen:
                raise wrong_at(f"`{name}` is listed twice (remove one)", "depends_on", index)
            seen.add(name)


def overlap(one: PortForward, other: PortForward) -> bool:
    """Whether the host cannot listen for both: the same port, on the same address or one of them on all."""
    return one.host == other.host and (
        one.address == other.address or ANYWHERE in (one.address, other.address)
    )
