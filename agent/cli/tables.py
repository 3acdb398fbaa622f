"""Tables for a person's screen: where it is too narrow for every column, those that can be done without stay away."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_NO_TERMINAL = 240
"""Columns where nobody's screen sets them."""
_GAP = 2
"""Columns of the screen between two of a table."""
_FOLDED = ("NAME", "JOB", "IMAGE", "REASON", "SSH")
"""Columns that may take several lines, where nothing else helps."""
_READABLE = 24
"""Columns of the screen that such a one is to have, if it needs them, before another stays away for it."""


def screen() -> tuple[Console, int | None]:
    """Standard output for tables, and the columns that a table has there; None where it is no terminal."""
    from rich.console import Console

    if not sys.stdout.isatty():
        return Console(width=_NO_TERMINAL), None
    console = Console()
    return console, console.width


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table, and the columns that it leaves out."""

    table: Table
    without: frozenset[str]


def fitted(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    width: int | None,
    spare: Sequence[str] = (),
) -> Fitted:
    """A table for a screen of `width` columns, None where nothing limits it. The `spare` ones of its columns stay away,
    the first of them first, until the others have room."""
    from rich.cells import cell_len
    from rich.table import Table

    needed = {
        column: max([cell_len(str(row[at])) for row in rows] + [len(column)])
        for at, column in enumerate(columns)
    }
    for column in _FOLDED:
        if column in needed and column != "SSH":
            needed[column] = min(needed[column], max(_READABLE, len(column)))
    without: set[str] = set()
    for column in spare:
        if width is None or sum(needed.values()) + _GAP * (len(needed) - 1) <= width:
            break
        if needed.pop(column, None) is not None:
            without.add(column)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in needed:
        table.add_column(column, no_wrap=column not in _FOLDED, overflow="fold")
    for row in rows:
        table.add_row(*(one for column, one in zip(columns, row, strict=True) if column in needed))
    return Fitted(table, frozenset(without))
