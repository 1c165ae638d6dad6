"""`sweeper report`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sweeper.cli.completion import study_names
from sweeper.cli.plainly import plainly
from sweeper.paths import Home

FORMATS = ("html", "markdown", "both")


@click.command()
@click.argument("study", shell_complete=study_names)
@click.option(
    "--to",
    "where",
    type=click.Path(path_type=Path),
    help="A folder, or a file in .html, or in .md without pictures; otherwise the study's folder.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="both, or as the file of --to says.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def report(study: str, where: Path | None, form: str | None, as_json: bool) -> None:
    """Write a report of a study: one HTML file that needs nothing else, and Markdown.

    What was searched, what won and how sure that is, what it cost, what was stopped and why, what to try next, and the
    command that does it again. It only reads, and may be asked while the study runs.
    """
    from sweeper.report.answer import answer
    from sweeper.report.facts import read
    from sweeper.report.written import ENDINGS, Form, Place, write

    home = Home.from_environment()
    of_file = ENDINGS.get(where.suffix.lower()) if where is not None and not where.is_dir() else None
    if of_file is not None and form not in (None, of_file.value):
        raise click.UsageError(
            f"--format must be {of_file.value} where --to is {where}, but is {form}; --to may be a folder"
        )
    facts = read(home, study)
    if where is not None and of_file is not None:
        place = Place.file(where.expanduser().absolute(), of_file)
    else:
        folder = where.expanduser().absolute() if where is not None else None
        place = Place.folder(facts.paths, Form(form or "both"), folder)
    files = write(facts, place)
    if as_json:
        said = {"study": study, "state": facts.state, "answer": answer(facts)}
        click.echo(json.dumps({**said, "files": [str(file) for file in files]}, indent=2))
        return
    for file in files:
        click.echo(str(file))
