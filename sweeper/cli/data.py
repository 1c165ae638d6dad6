"""What `sweeper init` and `sweeper data check` print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.draft import study as drafts
from sweeper.draft.columns import described
from sweeper.errors import ConfigError, DataError
from sweeper.launching.screen import terminal
from sweeper.paths import Home
from sweeper.preflight.data.finding import Severity
from sweeper.preflight.data.report import DataReport, Pieces, check_data
from sweeper.quoting import name_of

_FEW_LABELS = 20
_USABLE = "every row can be trained on and scored"


def init(
    data: Path,
    task: str | None,
    columns: tuple[str, ...],
    model: str,
    name: str | None,
    folder: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Drafts a study, writes it, and says what was guessed and what comes next."""
    made = drafts.draft(data, task, _chosen(columns), model, name, folder, Home.from_environment())
    drafts.write(made, force)
    if as_json:
        click.echo(json.dumps(_draft_json(made, model), indent=2))
        return
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


def _chosen(columns: Sequence[str]) -> dict[str, str]:
    """What `--column` has said, by key of `data.columns`; raises ConfigError where that is no pair."""
    wrong = [pair for pair in columns if not all(pair.partition("="))]
    if wrong:
        raise ConfigError(f"--column: must be KEY=COLUMN, such as text=Body, but is {wrong[0]!r}")
    return dict(pair.split("=", 1) for pair in columns)


def _draft_json(made: drafts.Draft, model: str) -> dict[str, Any]:
    """`init --json`."""
    return {
        "study": made.argument,
        "config": str(made.folder / "config.yaml"),
        "task": made.guess.task,
        "why": made.guess.why,
        "columns": dict(made.guess.columns),
        "not_used": list(made.guess.others),
        "rows": dict(made.numbers.counts),
        "model": model,
        "problem": made.numbers.problem,
    }


def data_check(arguments: list[str], columns: Sequence[str], as_json: bool) -> int:
    """Checks the rows of a study, or of a file as `sweeper init` would draft it.

    Returns:
        0, or 1 where something would stop a launch.

    Raises:
        ConfigError: if something that is no override stands behind a file, or columns are said of a study.
    """
    first, *overrides = arguments
    if "=" not in first and not first.startswith(("-", "+", "~")):
        return _show(_of_file(Path(first), _chosen(columns), overrides), as_json)
    if columns:
        raise ConfigError(f"--column: is for a file; a study has data.columns.{columns[0]}")
    reports: list[DataReport] = []
    compose.main(arguments, lambda config: reports.append(check_data(config, _home_of(config))))
    return _show(reports[0], as_json) if reports else 0  # --help, or --cfg job


def _of_file(data: Path, chosen: dict[str, str], overrides: list[str]) -> DataReport:
    for override in overrides:
        if override.startswith(("-", "study=")) or not ("=" in override or override.startswith("~")):
            raise ConfigError(
                f"behind a file there must be settings, such as data.long=drop, or --column text=NAME, but there is "
                f"{override!r}"
            )
    try:
        made = drafts.draft(data, None, chosen, drafts.SMALL, None, None, Home.from_environment())
    except DataError as error:
        if not data.exists():
            raise
        return DataReport.unread(drafts.name_of(data), error)
    config = drafts.composed(made, overrides)
    return check_data(config, _home_of(config), is_launched=False)


def _home_of(config: Config) -> Home:
    return Home.named(config.store.home, config.store.optuna)


def _show(report: DataReport, as_json: bool) -> int:
    errors = report.of(Severity.ERROR)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return int(bool(errors))
    console = terminal()
    if report.splits:
        console.print(_table(report))
        click.echo("lengths in tokens, with the answer, or in validation and test with the room for one")
    if report.labels:
        counts = [f"{name_of(label)} {count:,}" for label, count in report.labels.items()]
        more = f", … and {len(counts) - _FEW_LABELS} more" if len(counts) > _FEW_LABELS else ""
        click.echo(f"{len(counts)} labels in training: {', '.join(counts[:_FEW_LABELS])}{more}")
    if report.shown:
        click.echo("\nthe first training row; the loss is on what stands between ⟦ and ⟧:")
        console.print(_masked(report.shown), soft_wrap=True)
    if report.splits:
        click.echo()
    for finding in report.findings:
        label = {Severity.ERROR: "bold red", Severity.WARNING: "yellow"}.get(finding.severity, "")
        console.print(Text(f"{finding.severity}: ", style=label) + Text(str(finding)), soft_wrap=True, highlight=False)
    warnings = ", ".join(
        f"{len(found)} {word}{'s' if len(found) > 1 and severity is not Severity.ALLOWED else ''}"
        for severity, word in ((Severity.WARNING, "warning"), (Severity.ALLOWED, "allowed"))
        if (found := report.of(severity))
    )
    verdict = f"{len(errors)} error{'s' if len(errors) > 1 else ''} would stop a launch" if errors else _USABLE
    click.echo(f"{report.study}: {verdict}, {warnings or 'no warnings'}")
    return int(bool(errors))


def _table(report: DataReport) -> Table:
    table = Table(title=f"rows of {report.study}", title_justify="left")
    for name in ("split", "rows", "cut", "dropped", "shortest", "median", "longest"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, found in report.splits.items():
        sizes = (found.shortest_tokens, found.median_tokens, found.longest_tokens)
        cells = ["–" if size is None else f"{size:,}" for size in sizes]
        table.add_row(split, f"{found.rows:,}", f"{found.cut:,}", f"{found.dropped:,}", *cells)
    return table


def _masked(pieces: Pieces) -> Text:
    """A row as the model sees it: what the loss is on is bright and in brackets, what is only read is dim."""
    shown = Text()
    for piece, is_supervised in pieces:
        # What a terminal would take for a command is shown as such.
        plain = "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in piece)
        shown.append(f"⟦{plain}⟧" if is_supervised else plain, style="bold green" if is_supervised else "dim")
    return shown
