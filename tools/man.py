"""`python tools/man.py DIRECTORY`: holdfast(1), and a page for every command, made from the program's own help."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from agent.cli import holdfast


def escaped(text: str) -> str:
    """As roff takes it, groff_man(7): a leading dot or quote would begin a request, and without UTF-8 there is no …."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring, each on one line."""
    for one in re.split(r"\n\s*\n", text.strip()):
        yield " ".join(one.split())


def page(command: click.Command, context: click.Context) -> str:
    """One page."""
    name = context.command_path.replace(" ", "-")
    lines = [f'.TH "{escaped(name.upper())}" "1" "" "holdfast {version("holdfast")}"']
    lines += [".SH NAME", f"{escaped(name)} \\- {escaped(command.get_short_help_str(200))}"]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines += [".SH SYNOPSIS", f".B {escaped(usage)}", ".SH DESCRIPTION"]
    for one in paragraphs(command.help or ""):
        lines += [".PP", escaped(one)]
    lines += options(command, context)
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            said = f"{name}-{below}"
            lines += [".TP", f".BR {escaped(said)} (1)", escaped(found.get_short_help_str(200))]
    if context.parent is not None:
        lines += [".SH SEE ALSO", ".BR holdfast (1)"]
    return "\n".join(lines) + "\n"


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """The options, as the help shows them."""
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    shown = [record for record in records if record is not None]
    if shown:
        yield ".SH OPTIONS"
    for names, said in shown:
        yield from (".TP", f".B {escaped(names)}", escaped(" ".join(said.split())))


def pages(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """The name and the text of every page from here down."""
    yield context.command_path.replace(" ", "-"), page(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from pages(found, click.Context(found, info_name=name, parent=context))


def main() -> None:
    """Write them all."""
    into = Path(sys.argv[1])
    into.mkdir(parents=True, exist_ok=True)
    for name, text in pages(holdfast, click.Context(holdfast, info_name="holdfast")):
        (into / f"{name}.1").write_text(text)


if __name__ == "__main__":
    main()
