"""`holdfast validate` and `holdfast schema`: documents alone, fit for pre-commit, CI and editors.

Neither reads a state directory nor needs QEMU; what they need is imported when they run.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import PATH, option, output_option
from agent.cli.text import in_line

if TYPE_CHECKING:
    from agent.source.validation import Report


@click.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="PATH...",
    type=click.Path(exists=True, readable=False, path_type=Path),
)
@option("--host", metavar="NAME", help="Check as on this host; default: as on any.")
@option(
    "--images",
    type=PATH,
    metavar="FILE",
    help="An image map outside the tree; its api, kind and name may be left out.",
)
@option(
    "--image-root",
    type=PATH,
    multiple=True,
    metavar="DIR",
    help="Where local images may lie beside the tree without a warning; may be given again.",
)
@output_option
def validate(
    paths: tuple[Path, ...],
    host: str | None,
    images: Path | None,
    image_root: tuple[Path, ...],
    output: str,
) -> None:
    """Check documents, and show which hosts those reach that are not for all. Exits 1 if there is a problem.

    A directory is checked as `run` would read it. Files are checked alone and against each other; their
    labels only where an image map is among them or given with --images. Relative paths in them may lead
    anywhere below the current directory.

    In a pre-commit hook, `pass_filenames: false` and the directory check most; file names are fine too.
    """
    from agent.source.validation import Options, validate

    report = validate(paths, Options(host, images, image_root), time.time_ns() / 1e9)
    if output == "json":
        click.echo(json.dumps(_as_json(report), indent=2, ensure_ascii=False))
    else:
        _tell(report)
    if report.problems:
        raise click.exceptions.Exit(1)


def _tell(report: Report) -> None:
    for problem in report.problems:
        click.echo(str(problem))
    for warning in report.warnings:
        where = str(warning.where) if warning.where.line else warning.where.file
        click.echo(f"{where}: warning: {warning.message}")
    for reach in report.reaches:
        if "*" not in reach.hosts:
            here = (
                "" if reach.here is None else ", this host is one" if reach.here else ", not this"
            )
            what = f"{reach.kind or 'document'} {reach.name or ''}".strip()
            reaches = f"{reach.where}: {what} is for hosts {', '.join(reach.hosts)}{here}"
            click.echo(in_line(reaches), err=True)
    problems = f"{len(report.problems)} problem{'s' * (len(report.problems) != 1)}"
    documents = f"{report.documents} document{'s' * (report.documents != 1)}"
    click.echo(f"{documents}, {problems if report.problems else 'no problems'}", err=True)


def _as_json(report: Report) -> dict[str, object]:
    return {
        "ok": not report.problems,
        "documents": report.documents,
        "problems": [
            {
                "file": problem.file,
                "line": problem.line,
                "column": problem.column,
                "kind": problem.kind,
                "name": problem.name,
                "message": problem.message,
            }
            for problem in report.problems
        ],
        "hosts": [
            {
                "file": reach.where.file,
                "line": reach.where.line,
                "kind": reach.kind,
                "name": reach.name,
                "hosts": list(reach.hosts),
                "here": reach.here,
            }
            for reach in report.reaches
        ],
        "warnings": [
            {"file": one.where.file, "line": one.where.line, "message": one.message}
            for one in report.warnings
        ],
    }


@click.command()
@click.argument("kind", required=False, type=click.Choice(["vm", "job", "images"]))
@click.option("-o", "--output", type=click.Choice(["json"]), default="json", help="How to print.")
def schema(kind: str | None, output: str) -> None:
    """Print the JSON Schema of documents, for editors.

    For example, for an editor with a YAML language server: `holdfast schema > holdfast.schema.json`, and as
    the first line of a document `# yaml-language-server: $schema=holdfast.schema.json`.
    """
    from state.spec import jsonschema

    click.echo(json.dumps(jsonschema.schema(kind), indent=2))
