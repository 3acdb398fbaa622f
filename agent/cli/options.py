"""Options that several commands share, and where their values come from: option, environment, file, default."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.cli.typed import remember
from agent.errors import BadInput, BadUsage, StateUnusable
from agent.paths import StatePaths, default_state
from state.spec.units import parse_duration

F = TypeVar("F", bound=Callable[..., Any])


class _Path(click.Path):
    """A path as text: one that is no UTF-8 can be recorded nowhere. An empty one, such as of a variable that a script
    has not set, is none: it would mean the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail(
                "an empty path names nothing (leave the option out, or say a path)", param, ctx
            )
        path = super().convert(value, param, ctx)
        try:
            str(path).encode()
        except UnicodeEncodeError:
            self.fail(f"{str(path)!a} is not UTF-8 (choose a path whose name is)", param, ctx)
        return path


PATH = _Path(path_type=Path, readable=False)  # who reads it says better what is wrong with it
PROGRAM = _Path(readable=False)


class _Option(click.Option):
    """An option whose errors name its variable only where that is what said the value."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        source = ctx.get_parameter_source(self.name or "") if ctx is not None else None
        if source is click.core.ParameterSource.ENVIRONMENT:
            return super().get_error_hint(ctx)
        return click.Parameter.get_error_hint(self, ctx)


def option(name: str, *more: str, **settings: Any) -> Callable[[F], F]:
    """A click option that `HOLDFAST_NAME` sets too, as its help says; with `envvar=None` none does."""
    variable = "HOLDFAST_" + name.removeprefix("--").replace("-", "_").upper()
    settings.setdefault("envvar", variable)
    settings.setdefault("show_envvar", settings["envvar"] is not None)
    return click.option(name, *more, cls=_Option, **settings)


def duration(context: click.Context, param: click.Parameter, said: str | None) -> float | None:
    """Seconds, written as in documents."""
    try:
        return None if said is None else parse_duration(said)
    except ValueError as error:
        raise click.BadParameter(str(error), context, param) from error


def _configured(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    known = {
        parameter.name: parameter
        for parameter in context.command.params
        if isinstance(parameter, click.Option) and parameter.name
    }
    context.default_map = {
        key: _value(known[key], value, f"the configuration {path}: `{key}`")
        for key, value in read_config(path).items()
        if key in known
    }


def _value(parameter: click.Option, value: object, where: str) -> object:
    """As if it had been said on the command line, so that it is checked as that is."""
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise BadUsage(f"{where} must be true or false")
        return value
    values = value if isinstance(value, list) and parameter.multiple else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise BadUsage(f"{where} must be a text or a number")
    return [str(one) for one in values] if parameter.multiple else str(value)


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a configuration file: options' names in snake_case. Raises BadUsage for a file that is none."""
    from agent.source.yaml import load_mapping

    try:
        values = load_mapping(path.read_bytes(), str(path))
    except OSError as error:
        raise BadUsage(f"reading the configuration {path}: {error.strerror}") from error
    except BadInput as error:
        raise BadUsage(error.message, hint=error.hint) from error
    unknown = sorted(values.keys() - _every_option())
    if unknown:
        raise BadUsage(
            f"the configuration {path} has the unknown key `{unknown[0]}`",
            hint="keys are the long options of the commands, with _ for -",
        )
    return values


def _every_option() -> set[str]:
    from agent.cli import _COMMANDS, holdfast

    context = click.Context(holdfast)
    return {
        parameter.name
        for name in _COMMANDS
        if (command := holdfast.get_command(context, name)) is not None
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name
    }


def config_option(function: F) -> F:
    """`--config FILE`."""
    return option(
        "--config",
        type=PATH,
        is_eager=True,
        expose_value=False,
        callback=_configured,
        help="YAML file with options.",
    )(function)


def _state(context: click.Context, _: click.Parameter, path: Path | None) -> StatePaths:
    state = StatePaths((path or default_state()).absolute())
    remember(context, state)
    _check_enterable(state)
    return state


def _check_enterable(state: StatePaths) -> None:
    """Raises StateUnusable for a directory of somebody else's, which is private to whom it belongs to."""
    try:
        os.stat(state.database)
    except PermissionError as error:
        try:
            owner = _owner(state.root)
        except OSError:
            who, hint = "this user may not go there", "say --state DIR"
        else:
            who = f"it belongs to {owner}, and nobody else may enter it"
            hint = f"do this as {owner}, or say --state DIR"
        raise StateUnusable(
            f"entering the state directory {state.root}: {who}", hint=hint
        ) from error
    except OSError:
        return  # who needs it says what is wrong with it


def _owner(path: Path) -> str:
    uid = path.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def state_option(function: F) -> F:
    """`--state DIR`, as StatePaths, and `--config FILE`."""
    chosen = option(
        "--state", "state", type=PATH, callback=_state, help="State directory.", metavar="DIR"
    )
    return config_option(chosen(function))


def output_option(function: F) -> F:
    """`-o json`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        help="What to print.",
    )(function)
