"""Every page leads to what is there, and every command that it shows is one that the program takes."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from agent.cli import holdfast
from tests import pages
from tests.pages import ROOT, anchors, blocks, links, missing, prose, read

PAGES = pages.pages()


def refused(words: list[str]) -> str | None:
    """Why the program does not take these words; nothing is done, and no file is looked for."""
    context = click.Context(holdfast, info_name="holdfast")
    command: click.Command = holdfast
    try:
        while isinstance(command, click.Group):
            options, words, _ = command.make_parser(context).parse_args([*words])
            if not words:
                return None if options else f"{context.command_path} alone does nothing"
            name, found, words = command.resolve_command(context, words)
            assert found is not None
            command, context = found, click.Context(found, info_name=name, parent=context)
        options, rest, _ = command.make_parser(context).parse_args([*words])
        if rest:
            return f"{rest} is too much"
        for parameter in command.params:
            _check(parameter, options, context)
    except click.UsageError as error:
        return error.format_message()
    return None


def _check(parameter: click.Parameter, options: dict[str, object], context: click.Context) -> None:
    """That what has to be said is, and that words and numbers are such as the program takes."""
    value = options.get(str(parameter.name))
    said = isinstance(value, str | int | tuple | list) and value not in ((), [])
    if parameter.required and not said:
        raise click.MissingParameter(ctx=context, param=parameter)
    if said and not isinstance(parameter.type, click.Path):
        value = parameter.type_cast_value(context, value)
        if parameter.callback is not None and not parameter.is_eager:
            parameter.callback(context, parameter, value)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(read(page)):
        file, _, anchor = target.partition("#")
        there = (ROOT / page).parent / file if file else ROOT / page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_in_a_block_is_taken_by_the_program(page: Path) -> None:
    calls = [call for block in blocks(read(page)) for call in block.calls]
    assert {" ".join(call): why for call in calls if (why := refused(call))} == {}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_in_a_sentence_exists_with_its_options(page: Path) -> None:
    named = re.findall(r"`(?:\S*/)?holdfast ([a-z][a-z-]*(?: [^`]*)?)`", prose(read(page)))
    wrong = [words for words in named if any(map(_unknown, words.split(" | ")))]
    assert not wrong


def _unknown(words: str) -> bool:
    """Whether a command, or an option of one, is not there; what else is said may stand for anything."""
    context = click.Context(holdfast)
    found = holdfast.get_command(context, words.split()[0])
    if found is None:
        return True
    below = [*found.commands.values()] if isinstance(found, click.Group) else []
    parameters = [one for command in (found, *below) for one in command.params]
    known = {flag for one in parameters for flag in one.opts} | {"--help"}
    return not set(re.findall(r"(?<= )--[a-z][a-z-]+", words.partition(" -- ")[0])) <= known


@pytest.mark.parametrize(
    "line",
    [
        "$ holdfast run --desierd x",
        "# /opt/bin/holdfast approve one two",
        "  - run: holdfast plan -o yaml",
        "holdfast job logs x",
        "sudo /opt/bin/holdfast explain",
        "cd x && HOLDFAST_STATE=y holdfast run --interval often",
        "holdfast run --drain-timeout 5minutes",
        "podman exec holdfast holdfast stauts",
    ],
)
def test_what_the_program_would_not_take_is_found(line: str) -> None:
    """Sabotage: look at the first word alone."""
    kind = "console" if line.startswith(("$", "#")) else "sh"
    [block] = blocks(f"```{kind}\n{line}\n```\n")
    [call] = block.calls
    assert refused(call)


def test_what_is_shown_and_was_not_said_is_found() -> None:
    """Sabotage: take lines in any order."""
    said = ["plan 0123456789ab: 1 to create", "took 3.2s", "the end"]
    assert missing(["plan cd3d2056fd4e: 2 to create", "…", "the  end"], said) is None
    assert missing(["the end", "took 1s"], said) == "took 1s"
    assert missing(["plan: 1 to destroy"], said)


def test_headings_are_called_as_they_are_on_the_web() -> None:
    text = "# From git: what's `--path`?\n## A [VM](x.md)\n## A VM\n```\n# no heading\n```\n"
    assert anchors(text) == {"from-git-whats---path", "a-vm", "a-vm-1"}


def rows(text: str) -> list[list[str]]:
    """The cells of every row of its tables."""
    found = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in cells] for cells in found]


def test_the_figures_of_the_readme_are_those_of_the_last_benchmark() -> None:
    """Whoever publishes another run has the table of the readme made of it, too. Sabotage: round one in the readme."""
    _, _, said = read(Path("README.md")).partition("## What it costs")
    table = [cells for cells in rows(said.partition("\n## ")[0]) if cells[0]]
    measured = {cells[0]: cells for cells in rows(read(Path("bench/RESULTS.md")))}
    assert len(table) > 8
    assert {cells[0] for cells in table} <= measured.keys()
    for name, by_hand, *of_others, verdict in table:
        _, floor, libvirt, holdfast, _, bar, met = measured[name]
        told = floor.partition(": ")[2]
        assert (by_hand, of_others, verdict) == (told, [libvirt, holdfast, bar], met), name
