"""The shape of `kind: job`: what its author may write, before labels are resolved and files are read."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from state.spec.document import (
    Document,
    FewItems,
    FileBeside,
    Fits,
    Labels,
    LabelText,
    Part,
    between,
    wrong_at,
)
from state.spec.guestpaths import GuestPath, GuestPattern
from state.spec.quantities import BootTime, Duration, Wait
from state.spec.units import format_duration
from state.spec.words import quoted

ATTACHMENT_LIMIT = 64 << 20
"""Bytes of one file that a job's document names: it goes into the guest over SSH, and more belongs into an image."""

ATTACHMENTS_LIMIT = 1 << 30
"""Bytes of all that a job's document names."""

MOST_FILES = 255
"""Of one job; with a script that is a file, 256 attachments."""

SCRIPT_LIMIT = 1 << 20
"""Bytes of a script within a document."""

VARIABLE_LIMIT = (128 << 10) - 1
"""Bytes of `NAME=value`: Linux hands a program no longer text (MAX_ARG_STRLEN, with its NUL)."""

ENVIRONMENT_LIMIT = 1 << 20
"""Bytes of all variables: half of what Linux hands a program whose stack may grow to the usual 8MiB."""

_WEEK = 7 * 86_400.0

Limit = Annotated[Duration, between(1.0, _WEEK, format_duration)]
Tries = Annotated[int, Field(ge=0, le=10)]

VariableName = Annotated[
    str,
    Fits(
        r"^[A-Za-z_][A-Za-z0-9_]{0,127}$",
        "name of a variable (write letters, digits and `_`, no digit first, at most 128)",
    ),
]


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("it has a NUL character in it (remove it)")
    return value


Text = Annotated[str, AfterValidator(_without_nul)]


class FileEntry(Part):
    """A file that is put into the guest before the script begins."""

    path: GuestPath = Field(description="Where it goes: an absolute path in the guest.")
    source: FileBeside = Field(
        description="Where it comes from, relative to this file and never outside the tree."
    )
    mode: Annotated[
        str,
        Fits(r"^[0-7]{3,4}$", 'file mode (write its octal digits in quotes, like "0644")'),
    ] = Field(default="0644", description="Its permissions in the guest, as octal digits.")


class Timeouts(Part):
    """How long an attempt waits for what; a silent or overdue script is ended."""

    boot: BootTime | None = Field(
        default=None,
        description="For the guest to let us in; without it, the image's boot_timeout, which is 5m.",
    )
    silence: Limit = Field(default=600.0, description="For the script's next output.")
    total: Limit = Field(default=3600.0, description="For the attempt as a whole.")


class RetryCounts(Part):
    """How many attempts more a run gets, by what ended the last one."""

    infrastructure: Tries = Field(
        default=2, description="Something failed before the script began."
    )
    interrupted: Tries = Field(default=0, description="The script was cut off after it began.")
    script: Tries = Field(default=0, description="The script itself failed.")


class JobDocument(Document):
    """A script that is run once in a fresh virtual machine, which is then thrown away. A changed spec is a new run."""

    model_config = ConfigDict(
        title="job",
        json_schema_extra={"oneOf": [{"required": ["script"]}, {"required": ["script_file"]}]},
    )

    kind: Literal["job"] = Field(description="A script in a throw-away virtual machine.")
    labels: Labels = Field(default={}, description="Words of your own, shown in the status.")
    runs_on: LabelText | None = Field(
        default=None,
        description="An alias or image of the image map; without it, the map's default_label.",
    )
    size: LabelText | None = Field(
        default=None, description="A preset of the image map; what it leaves out, the image says."
    )
    script: (
        Annotated[Text, Field(min_length=1, json_schema_extra={"maxLength": SCRIPT_LIMIT})] | None
    ) = Field(default=None, description="The program, usually a script that begins with `#!`.")
    script_file: FileBeside | None = Field(
        default=None,
        description="A file with the program, relative to this one and never outside the tree.",
    )
    env: Annotated[dict[VariableName, Text], Field(max_length=256)] = Field(
        default={}, description="Variables of the script's environment."
    )
    secrets: Annotated[tuple[VariableName, ...], FewItems] = Field(
        default=(),
        max_length=256,
        description="Variables whose values the log masks, but for those of fewer than 4 characters; one that is no"
        " key of `env` is a secret of the host.",
    )
    files: Annotated[tuple[FileEntry, ...], FewItems] = Field(
        default=(), max_length=MOST_FILES, description="Files that are put into the guest."
    )
    artifacts: Annotated[tuple[GuestPattern, ...], FewItems] = Field(
        default=(),
        max_length=64,
        description="Files of the guest that are kept: absolute paths with `*`, `?`, `[...]`, `**`.",
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="How long what may take.")
    retries: RetryCounts = Field(default=RetryCounts(), description="How often it is tried again.")
    keep_on_failure: Wait = Field(
        default=0.0, description="How long the failed virtual machine is kept for a look."
    )
    priority: Annotated[int, Field(ge=-1000, le=1000)] = Field(
        default=0, description="Of those that wait, the highest comes first."
    )

    @model_validator(mode="after")
    def _rules_over_several_keys(self) -> Self:
        self._check_script()
        self._check_env()
        self._check_files()
        for key in ("secrets", "artifacts"):
            seen: set[str] = set()
            for index, one in enumerate(getattr(self, key)):
                if one in seen:
                    raise wrong_at(f"{quoted(one)} is listed twice (remove one)", key, index)
                seen.add(one)
        return self

    def _check_script(self) -> None:
        if self.script is None and self.script_file is None:
            raise wrong_at("key `script` is missing (write the script, or name a `script_file`)")
        if self.script is not None:
            if self.script_file is not None:
                raise wrong_at("`script_file` stands beside `script` (keep one)", "script_file")
            if len(self.script.encode()) > SCRIPT_LIMIT:
                raise wrong_at(
                    "`script` is larger than 1MiB (put it into a `script_file`)", "script"
                )

    def _check_env(self) -> None:
        total = 0
        for name, value in self.env.items():
            size = len(name) + 1 + len(value.encode())
            total += size
            if size > VARIABLE_LIMIT or total > ENVIRONMENT_LIMIT:
                raise wrong_at(
                    f"{quoted(name)} is more than a program can be given (at most 128KiB in one"
                    " variable and 1MiB in all: put it into a file)",
                    "env",
                    name,
                )

    def _check_files(self) -> None:
        """Sorted by their components, a path stands directly before one that lies below it."""
        found = sorted((tuple(file.path.split("/")), at) for at, file in enumerate(self.files))
        for (upper, first), (lower, second) in pairwise(found):
            if lower[: len(upper)] != upper:
                continue
            if lower == upper:
                message = f"{quoted(self.files[second].path)} is given twice (remove one)"
            else:
                below, file = quoted(self.files[second].path), quoted(self.files[first].path)
                message = f"{below} lies below {file}, which is a file too (rename one)"
            raise wrong_at(message, "files", max(first, second), "path")
