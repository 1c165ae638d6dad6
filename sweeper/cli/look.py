"""Looking at studies: what `list`, `status`, `best`, `cost`, `errors`, `compare` and `interaction` print.

They only read; but `compare` counts what it compares on a test split.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from sweeper.cli.completion import studies_or_folders, study_names
from sweeper.cli.plainly import plainly
from sweeper.paths import Home


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def list_studies(as_json: bool) -> None:
    """Show all studies of the store."""
    from sweeper.housekeeping.listing import studies

    home = Home.from_environment()
    lines = studies(home)
    if as_json:
        click.echo(json.dumps({"store": str(home.root), "studies": [line.as_dict() for line in lines]}, indent=2))
        return
    if not lines:
        click.echo(f"no studies yet at {home.root}; `sweeper launch study=demo` makes one")
        return
    from sweeper.cli.housekeeping import details, list_table
    from sweeper.launching.screen import terminal

    terminal().print(list_table(lines))
    for line in details(lines):
        click.echo(line)


@click.command()
@click.argument("study", shell_complete=study_names)
@click.option("--follow", "follows", is_flag=True, help="While it runs: what `launch` shows, until it ends.")
@click.option("--all", "shows_all", is_flag=True, help="Every trial; otherwise the best and those that run.")
@click.option("--json", "as_json", is_flag=True, help="For scripts; with --follow the events, a line each.")
@plainly
def status(study: str, follows: bool, shows_all: bool, as_json: bool) -> int:
    """Show a study's trials and their states.

    With --follow the exit code is 0 where the study has come to its end, 1 where it was stopped, killed or ended with
    an error, and 130 after Ctrl-C, which leaves the study alone.
    """
    from sweeper.launching.screen import terminal
    from sweeper.launching.tables import SHOWN, study_json, study_table
    from sweeper.report.reading import cost_of, studied
    from sweeper.search.looks import looks

    home = Home.from_environment()
    code = 0
    if follows:
        from sweeper.cli.follow import follow
        from sweeper.launching.question import INTERRUPTED

        code = follow(home, study, as_json)
        if as_json or code == INTERRUPTED:
            return code
    seen, config = studied(home, study)
    cost, used = cost_of(home, seen, config), looks(seen.attributes, home.study(study))
    if as_json:
        click.echo(json.dumps(study_json(seen, config, cost, used), indent=2))
    else:
        terminal().print(study_table(seen, config, cost, None if shows_all else SHOWN, used))
    return code


@click.command()
@click.argument("study", shell_complete=study_names)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--force", is_flag=True, help="Exit with 0 even if the winner is nothing to use.")
@plainly
def best(study: str, as_json: bool, force: bool) -> int:
    """Show a study's best trial and what it scored.

    The exit code is 1 where there is nothing to use: no trial keeps to the constraints, or the winner cannot be told
    from the untuned base.
    """
    from sweeper.launching.screen import say_next, terminal
    from sweeper.launching.tables import answer, trial_json
    from sweeper.report.reading import cost_of, studied
    from sweeper.report.verdict import advice
    from sweeper.search.advice import shortfall
    from sweeper.search.cheaper import cheaper_tie
    from sweeper.search.looks import looks
    from sweeper.serving import record

    home = Home.from_environment()
    seen, config = studied(home, study)
    paths = home.study(study)
    problem = shortfall(seen, config)
    steps, used = advice(seen, config, paths), looks(seen.attributes, paths)
    cost = cost_of(home, seen, config)
    if as_json:
        extra = {
            "baseline": seen.attributes.get("baseline"),
            "confirmation": seen.confirmation,
            "test": seen.attributes.get("test"),
            "test_use": used.as_dict(),
            "inference": record.kept(paths, seen.best.number) if seen.best is not None else None,
            "ties": [trial.number for trial in seen.ties(config.objective.metric_name)],
            "cheaper": cheaper.number if (cheaper := cheaper_tie(seen, config.objective.metric_name)) else None,
            "shortfall": problem,
            "next": steps,
        }
        found = trial_json(seen.best, cost) if seen.best is not None else {"number": None, "cost": None}
        click.echo(json.dumps({"study": study, **found, **extra}, indent=2))
    else:
        console = terminal()
        console.print(answer(seen, config, used, cost))
        say_next(console, steps)
    return 1 if problem is not None and not force else 0


@click.command()
@click.argument("study", shell_complete=study_names)
@click.option("--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write every line there.")
@click.option("--all", "shows_all", is_flag=True, help="Every trial; otherwise the dearest.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def cost(study: str, file: Path | None, shows_all: bool, as_json: bool) -> None:
    """Show where a study's dollars went: by label, activity, trial and session.

    It only reads, and may be asked while the study runs.
    """
    from sweeper.cli.cost import show
    from sweeper.launching.tables import SHOWN
    from sweeper.report.reading import cost_of, studied

    home = Home.from_environment()
    seen, config = studied(home, study)
    show(cost_of(home, seen, config), file, as_json, None if shows_all else SHOWN)


@click.command()
@click.argument("study", shell_complete=study_names)
@click.option("--trial", "number", type=int, help="Another trial than the winner.")
@click.option("--base", "is_base", is_flag=True, help="The untuned base.")
@click.option("--split", type=click.Choice(("validation", "test")), default="validation", show_default=True)
@click.option(
    "--by", type=click.Choice(("confusion", "length", "confidence")), help="This alone, and rows in its order."
)
@click.option("--limit", type=click.IntRange(min=1), help="Rows and pairs of labels that are shown; 10, in JSON all.")
@click.option("--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write all wrong rows there.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def errors(
    study: str,
    number: int | None,
    is_base: bool,
    split: str,
    by: str | None,
    limit: int | None,
    file: Path | None,
    as_json: bool,
) -> None:
    """Show what a trial gets wrong, with the text of the rows.

    The predictions of the trial's best evaluation, kept in the study's folder without text, are joined to the rows
    where the study's data lies. Nothing of it leaves this machine.
    """
    from sweeper.cli.mistakes import Asked, show

    if is_base and number is not None:
        raise click.UsageError("--base and --trial exclude each other")
    show(Home.from_environment(), study, Asked(number, is_base, split, by, limit, file, as_json))


@click.command()
@click.argument("a", metavar="A", shell_complete=studies_or_folders)
@click.argument("b", metavar="B", shell_complete=studies_or_folders)
@click.option("--split", type=click.Choice(("test", "validation")), default="test", show_default=True)
@click.option("--metric", help="Of those that both have; otherwise the one that the search went by.")
@click.option("--common", "is_common", is_flag=True, help="On the rows that both have, where they are not the same.")
@click.option("--rows", "limit", type=click.IntRange(min=0), help="Changed rows that are shown; 10, in JSON all.")
@click.option("--text", "with_text", is_flag=True, help="Also show texts: of rows, and answers that were written.")
@click.option(
    "--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write all changed rows there."
)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def compare(
    a: str,
    b: str,
    split: str,
    metric: str | None,
    is_common: bool,
    limit: int | None,
    with_text: bool,
    file: Path | None,
    as_json: bool,
) -> None:
    """Compare two adapters on the same rows: is B better than A?

    A and B are each a study (its winner), STUDY:N (trial N), STUDY:base (the untuned base) or a folder that `export`
    wrote. Says the difference with its interval, which rows changed, and what both cost. No model is loaded. Each pair
    that is compared on the test split is counted as a use of it. The exit code is 0 also where B is worse.
    """
    from sweeper.cli.compare import Shown, show
    from sweeper.comparison.compared import Asked

    asked = Asked(a, b, split, metric, is_common, every_metric=as_json, with_text=with_text)
    show(Home.from_environment(), asked, Shown(limit, with_text, file, as_json))


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True, shell_complete=study_names)
@click.option("--x", default="learning_rate", show_default=True, help="A searched parameter: the columns.")
@click.option("--y", default="rank", show_default=True, help="Another one, of few values: the rows, and the lines.")
@click.option("--to", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also draw it there, as PNG.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def interaction(studies: tuple[str, ...], x: str, y: str, file: Path | None, as_json: bool) -> None:
    """Show what two searched parameters do together.

    Several studies of the same metric, such as those of several seeds, are taken together.
    """
    from sweeper.cli.interaction import show

    show(Home.from_environment(), studies, x, y, file, as_json)
