"""What `sweeper init` and `sweeper data check` print."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.draft import study as drafts
from sweeper.draft.columns import described
from sweeper.errors import ConfigError
from sweeper.paths import Home
from sweeper.preflight.data import DataReport, check_data

_FEW_LABELS = 20


def init(
    data: Path,
    task: str | None,
    columns: tuple[str, ...],
    model: str,
    name: str | None,
    folder: Path | None,
    force: bool,
) -> None:
    """Drafts a study, writes it, and says what was guessed and what comes next."""
    wrong = [pair for pair in columns if not all(pair.partition("="))]
    if wrong:
        raise ConfigError(f"--column: must be KEY=COLUMN, such as text=Body, but is {wrong[0]!r}")
    chosen = dict(pair.split("=", 1) for pair in columns)
    made = drafts.draft(data, task, chosen, model, name, folder, Home.from_environment())
    drafts.write(made, force)
    click.echo(f"{made.folder / 'config.yaml'}: {made.guess.task}, told {made.guess.why}")
    by_name = {column.name: column for column in made.columns}
    for key, column in made.guess.columns.items():
        click.echo(f"  {key}: {column} ({described(by_name[column])})")
    if made.guess.others:
        click.echo(f"  not used: {', '.join(made.guess.others)}")
    counts = ", ".join(f"{count:,} {split}" for split, count in made.numbers.counts.items())
    click.echo(f"  rows: {counts}; model: {model}")
    if made.numbers.problem is not None:
        click.echo(f"  prompt.max_tokens is a guess, for the rows could not be rendered: {made.numbers.problem}")
    option = f"study={made.argument}"
    click.echo(f"look at the rows: sweeper data check {option}\nsearch: sweeper launch {option}")


def data_check(arguments: list[str], as_json: bool) -> None:
    """Checks the rows of a study, or of a file as `sweeper init` would draft it."""
    home = Home.from_environment()
    if len(arguments) == 1 and "=" not in arguments[0] and not arguments[0].startswith("-"):
        made = drafts.draft(Path(arguments[0]), None, {}, drafts.SMALL, None, None, home)
        _show(check_data(drafts.composed(made), home, is_launched=False), as_json)
    else:
        compose.main(arguments, lambda config: _check(config, as_json))


def _check(config: Config, as_json: bool) -> None:
    home = Home(Path(config.store.home).expanduser().absolute())
    _show(check_data(config, home), as_json)


def _show(report: DataReport, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return
    console = Console()
    table = Table(title=f"rows of {report.study}", title_justify="left")
    for name in ("split", "rows", "cut", "dropped", "shortest", "median", "longest"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, found in report.splits.items():
        sizes = (found.shortest_tokens, found.median_tokens, found.longest_tokens)
        table.add_row(split, f"{found.rows:,}", *map(str, (found.cut, found.dropped)), *(f"{size:,}" for size in sizes))
    console.print(table)
    click.echo("lengths in tokens, with the answer, or in validation and test with the room for one")
    if report.labels:
        counts = [f"{label} {count:,}" for label, count in report.labels.items()]
        more = f", … and {len(counts) - _FEW_LABELS} more" if len(counts) > _FEW_LABELS else ""
        click.echo(f"{len(counts)} labels in training: {', '.join(counts[:_FEW_LABELS])}{more}")
    click.echo("\nthe first training row; the loss is on what stands between ⟦ and ⟧:")
    shown = Text()
    for piece, is_supervised in report.shown:
        shown.append(f"⟦{piece}⟧" if is_supervised else piece, style="bold green" if is_supervised else "")
    console.print(shown, soft_wrap=True)
    click.echo()
    for line in report.warnings:
        click.echo(f"warning: {line}")
    count = len(report.warnings)
    warnings = f"{count or 'no'} warning{'s' if count != 1 else ''}"
    click.echo(f"{report.study}: every row can be trained on and scored, {warnings}")
