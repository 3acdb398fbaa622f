"""The shape of `kind: images`: the image map, its aliases and its sizes, before sources are placed and maps merged."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from state.ids import Digest
from state.spec.document import Document, Fits, LabelText, Part, between, wrong_at
from state.spec.quantities import BootTime, Size
from state.spec.resolved import (
    MAX_SIZE,
    Decompress,
    DiskFormat,
    Firmware,
    MachineType,
    SeedBus,
)
from state.spec.units import format_size
from state.spec.vm import GIB, MIB, TIB, Cpus, Disk, Memory

Sha256 = Annotated[
    str, Fits(r"^([0-9a-f]{64}|[0-9A-F]{64})$", "sha256 (write its 64 hexadecimal digits)")
]
Sha512 = Annotated[
    str, Fits(r"^([0-9a-f]{128}|[0-9A-F]{128})$", "sha512 (write its 128 hexadecimal digits)")
]
SshUser = Annotated[
    str,
    Fits(r"^[A-Za-z_][A-Za-z0-9._-]{0,31}$", "user name (write letters, digits, `.`, `_`, `-`)"),
]
MaxSize = Annotated[Size, between(MIB, 64 * TIB, format_size)]
Location = Annotated[str, Field(min_length=1, max_length=4096)]


Mebibytes = Annotated[int, Field(ge=16, le=16 * TIB // MIB)]
Gibibytes = Annotated[int, Field(ge=1, le=64 * TIB // GIB)]
Resources = tuple[int | None, int | None, int | None]
"""Processors, bytes of memory, bytes of disk; None where nothing says how many."""


TWO_SPELLINGS = (("cpus", "cpu"), ("memory", "ram_mb"), ("disk", "disk_gb"))


class SizePreset(Part):
    """A size; what it leaves out comes from the image or from the built-in default. Orchestrators' image maps spell it
    in numbers without a unit."""

    model_config = ConfigDict(
        json_schema_extra={"allOf": [{"not": {"required": list(both)}} for both in TWO_SPELLINGS]}
    )

    cpus: Cpus | None = Field(default=None, description="Virtual processors.")
    memory: Memory | None = Field(default=None, description="Memory.")
    disk: Disk | None = Field(default=None, description="Root disk.")
    cpu: Cpus | None = Field(default=None, description="Virtual processors, instead of `cpus`.")
    ram_mb: Mebibytes | None = Field(default=None, description="MiB, instead of `memory`.")
    disk_gb: Gibibytes | None = Field(default=None, description="GiB, instead of `disk`.")

    @model_validator(mode="after")
    def _one_spelling(self) -> Self:
        for ours, theirs in TWO_SPELLINGS:
            if getattr(self, ours) is not None and getattr(self, theirs) is not None:
                raise wrong_at(f"`{theirs}` stands beside `{ours}` (keep one)", theirs)
        return self

    @property
    def resources(self) -> Resources:
        """What it says, however it is spelled."""
        return (
            self.cpu if self.cpus is None else self.cpus,
            self.memory if self.ram_mb is None else self.ram_mb * MIB,
            self.disk if self.disk_gb is None else self.disk_gb * GIB,
        )


class ImageEntry(Part):
    """An image: where it comes from and what its guest needs."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["source"]}, {"required": ["local_path"]}],
            "not": {"required": ["sha256", "sha512"]},
        }
    )

    source: Location | None = Field(
        default=None, description="An https, http or file URL, or a path relative to this file."
    )
    local_path: Location | None = Field(
        default=None,
        description="A path on this host, instead of `source`; beside it, where a copy may lie that is unpacked.",
    )
    sha256: Sha256 | None = Field(default=None, description="Of what is downloaded.")
    sha512: Sha512 | None = Field(
        default=None, description="Of what is downloaded, instead of sha256."
    )
    decompress: Decompress = Field(default="none", description="How the download is packed.")
    format: DiskFormat = Field(
        default="qcow2", description="The format of the disk; never guessed from its content."
    )
    nocloud: bool = Field(default=True, description="Whether a NoCloud seed is attached.")
    seed_bus: SeedBus = Field(default="ide", description="How the guest can see the seed.")
    firmware: Firmware = Field(default="bios", description="What starts the guest.")
    machine: MachineType = Field(default="pc", description="QEMU's machine type.")
    ssh_user: SshUser = Field(default="root", description="Who can log in.")
    boot_timeout: BootTime = Field(
        default=300.0, description="How long a boot may take until the guest is reached."
    )
    max_size: MaxSize = Field(
        default=MAX_SIZE,
        description="How large it may be when it is unpacked, and the disk that its guest sees.",
    )
    defaults: SizePreset = Field(
        default=SizePreset(), description="For documents that say nothing themselves or by `size`."
    )

    @model_validator(mode="after")
    def _rules_over_several_keys(self) -> Self:
        if self.source is None and self.local_path is None:
            raise wrong_at("key `source` is missing (write a URL or a path)")
        if self.sha256 is not None and self.sha512 is not None:
            raise wrong_at("`sha512` stands beside `sha256` (keep one)", "sha512")
        return self

    @property
    def digest(self) -> Digest | None:
        """The pinned digest of the download."""
        if self.sha256 is not None:
            return Digest(f"sha256:{self.sha256.lower()}")
        return None if self.sha512 is None else Digest(f"sha512:{self.sha512.lower()}")


class ImagesDocument(Document):
    """Images by label, aliases for them, and sizes by name."""

    model_config = ConfigDict(title="images")

    kind: Literal["images"] = Field(description="An image map.")
    default_label: LabelText | None = Field(
        default=None, description="For documents that name no image; in one image map at most."
    )
    aliases: dict[LabelText, LabelText] = Field(
        default={}, description="Other labels for images, or for other aliases."
    )
    sizes: dict[LabelText, SizePreset] = Field(default={}, description="Presets for `size:`.")
    images: dict[LabelText, ImageEntry] = Field(default={}, description="The images, by label.")

    @model_validator(mode="after")
    def _one_meaning_a_label(self) -> Self:
        for label in self.aliases:
            if label in self.images:
                raise wrong_at(
                    f"`{label}` is an image already (rename the alias)", "aliases", label
                )
        return self
