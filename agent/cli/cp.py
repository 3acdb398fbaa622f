"""`holdfast cp`: files into a guest and out of it, with the keys that were pinned for it."""

from __future__ import annotations

import os
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.guests import entered
from agent.cli.options import state_option
from agent.cli.text import harmless
from agent.errors import BadUsage, GuestRefused
from agent.paths import StatePaths

if TYPE_CHECKING:
    from agent.guest.copying import Copying

_REMOTE = re.compile(r"([a-z0-9](?:[a-z0-9-]*[a-z0-9])?):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Place:
    """A path; in the guest of `name`, or on this host where that is None."""

    name: str | None
    path: str

    @property
    def remote(self) -> bytes:
        """The path as SFTP takes it: below the login's home, unless it begins with `/`."""
        return os.fsencode("." if self.path in ("", "~") else self.path.removeprefix("~/"))


@click.command()
@click.argument("source", nargs=-1, required=True, metavar="SOURCE…")
@click.argument("target", metavar="TARGET")
@click.option("-r", "--recursive", is_flag=True, help="Directories with all that is in them.")
@state_option
def cp(state: StatePaths, source: tuple[str, ...], target: str, recursive: bool) -> None:
    """Copy files into a guest (TARGET is NAME:PATH) or out of it (SOURCE is NAME:PATH), with their permission bits: out
    of a guest with those that the umask leaves. No setuid, setgid or sticky bit is copied.

    A PATH in a guest begins at the login's home, or at `/`. A file of this host whose name looks like NAME:PATH is said
    as ./NAME:PATH. What TARGET names is replaced; where it is a directory, the copy lies in it.

    A guest that is not ready yet is waited for, a minute at most."""
    from agent.guest.copying import Copying
    from agent.guest.sftp import Broken, Refused, Sftp
    from agent.guest.ssh import SshLine

    sources, into = [_place(one) for one in source], _place(target)
    name = _guest(sources, into)
    with entered(state, name) as transport:
        try:
            line = SshLine(transport)
            with closing(Sftp(line.sftp())) as sftp:
                copying = Copying(sftp, name, _tell)
                if into.name is None:
                    _download(copying, sources, Path(into.path), recursive)
                else:
                    _upload(copying, sources, into, recursive)
        except (Refused, Broken) as error:
            raise GuestRefused(f"copying files with {name}: {error}") from error


def _place(said: str) -> _Place:
    found = _REMOTE.fullmatch(said)
    return _Place(found[1], found[2]) if found else _Place(None, said)


def _guest(sources: list[_Place], into: _Place) -> str:
    """The one guest that is meant. Raises BadUsage."""
    names = {one.name for one in sources}
    if len(names) == 1 and None in (*names, into.name) and {*names, into.name} != {None}:
        return str(into.name or sources[0].name)
    raise BadUsage(
        "copying: either what is copied or where to is in a guest, and that in one guest",
        hint="write a path of a guest as NAME:PATH",
    )


def _download(copying: Copying, sources: list[_Place], target: Path, recursive: bool) -> None:
    within = target.is_dir()
    _check_many(sources, within, str(target))
    for one in sources:
        name = os.path.basename(os.fsdecode(one.remote).rstrip("/"))
        # One that has no name of its own, such as the home, is copied as the target.
        inside = within and name not in ("", ".", "..")
        copying.download(one.remote, target / name if inside else target, recursive=recursive)


def _upload(copying: Copying, sources: list[_Place], into: _Place, recursive: bool) -> None:
    within = copying.is_directory(into.remote)
    _check_many(sources, within, f"{into.name}:{into.path}")
    for one in sources:
        path = Path(one.path)
        target = into.remote
        if within:
            target = target.rstrip(b"/") + b"/" + os.fsencode(path.absolute().name)
        copying.upload(path, target, recursive=recursive)


def _check_many(sources: list[_Place], within: bool, target: str) -> None:
    if len(sources) > 1 and not within:
        raise BadUsage(f"copying: {target} is no directory, and there is more than one source")


def _tell(said: str) -> None:
    click.echo(harmless(f"holdfast: {said}"), err=True)
