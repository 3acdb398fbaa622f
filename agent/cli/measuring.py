"""The options of `run` that say how often is measured what VMs use, and how long that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from agent.cli.options import duration, option
from state.metrics import Keep

F = TypeVar("F", bound=Callable[..., Any])

_LEAST = {"raw": (120.0, "2m"), "minutes": (7200.0, "2h"), "hours": (7200.0, "2h")}
"""Seconds that each resolution is kept at least: the next is made from it."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """`interval`: seconds from one sweep over the machines to the next, 0 for none."""

    interval: float
    keep: Keep


def measuring(options: dict[str, Any]) -> Measuring:
    """What they say; they are taken out of `options`."""
    raw, minutes, hours = (options.pop(f"metrics_{what}") for what in _LEAST)
    return Measuring(options.pop("metrics_interval"), Keep(raw, minutes, hours))


def _kept(what: str) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    least, written = _LEAST[what]

    def checked(context: click.Context, param: click.Parameter, said: str | None) -> float | None:
        seconds = duration(context, param, said)
        if seconds is not None and seconds < least:
            raise click.BadParameter(
                f"{said} is too short (say {written} at least)", context, param
            )
        return seconds

    return checked


def _keep_option(what: str, default: str, of: str) -> Callable[[F], F]:
    return option(
        f"--metrics-{what}",
        callback=_kept(what),
        default=default,
        show_default=True,
        metavar="DURATION",
        help=f"Keep {of} for so long.",
    )


def measuring_options(function: F) -> F:
    """All of them."""
    options = [
        option(
            "--metrics-interval",
            type=click.FloatRange(min=0),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="Measure what VMs use so often; 0: never.",
        ),
        _keep_option("raw", "1h", "what was measured as it was"),
        _keep_option("minutes", "1d", "one figure a minute"),
        _keep_option("hours", "30d", "one figure an hour"),
    ]
    for one in reversed(options):
        function = one(function)
    return function
