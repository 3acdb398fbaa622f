"""`holdfast install-service`: the units that systemd runs an agent by, with the options that it was given."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click

from agent import durable, units
from agent.cli.compose import origin_of
from agent.cli.options import PATH
from agent.cli.run import run
from agent.config import Settings
from agent.errors import BadUsage, StateUnusable
from agent.paths import StatePaths

if TYPE_CHECKING:
    from agent.source.git.origin import Origin

_SYSTEM = Path("/etc/systemd/system")
_SOURCE = click.core.ParameterSource
_NOT_FOR_A_SERVICE = ("once", "state", "config")


class _AsRun(click.Command):
    """Takes the options of `run`, and keeps their words as they were said."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        said, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_WORDS] = said
        return super().parse_args(ctx, args)


_WORDS = "agent.cli.service.words"


def _install(directory: Path | None, state: StatePaths, **options: Any) -> None:
    """Write the units that systemd runs the agent by, with the options that are given here: those of `run`.

    As root the system's, else those of this user's own manager. holdfast.service is the agent: VMs run on when it is
    stopped, restarted or upgraded. holdfast-guests.service powers them down when the host goes down."""
    system = os.geteuid() == 0
    into = directory or (_SYSTEM if system else _of_user())
    context = click.get_current_context()
    settings = Settings.from_options(options)
    origin = origin_of(settings)
    service = units.Service(
        program=_program(),
        options=tuple(_words(context)),
        state=state.root,
        reads=(*_reads(context), *_named(settings, origin)),
        system=system,
        drain=settings.drains_for,
        # A repository may lie there, or the key that opens it.
        home=origin is not None and not origin.url.startswith("http"),
        low_port=_is_low(options["listen"]),
    )
    texts = {units.AGENT: units.agent_unit(service), units.GUESTS: units.guests_unit(service)}
    try:
        # The service may write nowhere else, so this must be there before it.
        state.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        into.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, text in texts.items():
            durable.write(into / name, text.encode(), replace=True, mode=0o644)
            click.echo(f"wrote {into / name}")
    except OSError as error:
        raise StateUnusable(
            f"writing the units to {into}: {error.filename or into}: {error.strerror}",
            hint="do this as root, or say --directory DIR",
        ) from error
    if directory is None:
        manager = "systemctl" if system else "systemctl --user"
        names = " ".join(texts)
        click.echo(f"next: {manager} daemon-reload && {manager} enable --now {names}")
        if not system:
            click.echo("and, to go on without a login: loginctl enable-linger")


def _words(context: click.Context) -> Iterator[str]:
    """The options that were said here or by the environment; what the configuration file says, it goes on to say."""
    for parameter in run.params:
        name = parameter.name or ""
        if name in _NOT_FOR_A_SERVICE or not isinstance(parameter, click.Option):
            continue
        source = context.get_parameter_source(name)
        if source not in (_SOURCE.COMMANDLINE, _SOURCE.ENVIRONMENT):
            continue
        said, _ = parameter.consume_value(context, context.meta[_WORDS])
        for one in said if isinstance(said, list | tuple) else [said]:
            if not parameter.is_flag:
                yield from (parameter.opts[0], _absolute(parameter, context, one))
            elif one:
                yield parameter.opts[0]
    if (config := context.meta[_WORDS].get("config")) is not None:
        yield from ("--config", os.path.abspath(config))


def _absolute(parameter: click.Option, context: click.Context, said: object) -> str:
    """What was said, as it is meant wherever the agent is started."""
    if parameter.name == "git":
        return str(context.params["git"])
    return os.path.abspath(str(said)) if parameter.type is PATH else str(said)


def _reads(context: click.Context) -> Iterator[Path]:
    """Paths beside the state directory that the agent reads."""
    for parameter in run.params:
        said = context.params.get(parameter.name or "")
        if parameter.type is PATH and parameter.name not in _NOT_FOR_A_SERVICE and said:
            for one in said if isinstance(said, list | tuple) else [said]:
                yield Path(one).absolute()
    if (config := context.meta[_WORDS].get("config")) is not None:
        yield Path(config).absolute()


def _named(settings: Settings, origin: Origin | None) -> Iterator[Path]:
    """Paths that it reads beside those: a repository of this host, and what the list of secrets names by now."""
    if origin is not None and origin.url.startswith("/"):
        yield Path(origin.url)
    elif origin is not None and origin.url.lower().startswith("file:"):
        yield Path(unquote(urlsplit(origin.url).path))
    if settings.secrets is not None:
        from agent.source.hostsecrets import files

        yield from files(settings.secrets)


def _is_low(listen: str | None) -> bool:
    """Whether that is a port that takes a capability: ip_unprivileged_port_start of ip(7)."""
    port = (listen or "").rpartition(":")[2]
    return port.isdecimal() and 0 < int(port) < 1024


def _of_user() -> Path:
    """systemd.unit(5): units of one user that an administrator's do not take precedence over."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "systemd/user"


def _program() -> Path:
    """Where this program lies, as a unit must name it."""
    called = Path(sys.argv[0]).absolute()
    for found in (called, Path(sys.executable).parent / "holdfast"):
        if found.name == "holdfast" and os.access(found, os.X_OK):
            return found
    raise BadUsage(
        "writing the units: where the program `holdfast` lies cannot be told",
        hint="call it by that name",
    )


_DIRECTORY = click.Option(
    ["--directory"],
    type=PATH,
    metavar="DIR",
    help="Where to write them; default: /etc/systemd/system, or ~/.config/systemd/user.",
)
install_service = _AsRun(
    "install-service",
    callback=_install,
    params=[_DIRECTORY, *(one for one in run.params if one.name != "once")],
    help=_install.__doc__,
)
