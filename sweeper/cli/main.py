"""The command line. Each command imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper import __version__
from sweeper.cli.adapters import export, predict, price_inference
from sweeper.cli.plainly import plainly as _plainly
from sweeper.cli.plainly import print_trace
from sweeper.paths import Home

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.config.schema import Config
    from sweeper.money.statement import Statement
    from sweeper.search.views import StudyView


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sweeper")
def main() -> None:
    """Finds the best QLoRA adapter for a task, on the GPU you have.

    The store is the folder SWEEPER_HOME (default ./sweeps).
    """
    sys.excepthook = print_trace


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_plainly
def launch(arguments: tuple[str, ...]) -> int:
    """Launch a search: sweeper launch study=demo search.trials=40

    A Hydra application: GROUP=OPTION and KEY=VALUE overrides, --cfg job, --info, --config-dir, --help.
    """
    from sweeper.config import compose

    codes: list[int] = []

    def run(config: Config) -> None:
        from sweeper.cli.launch import launch_to_the_end

        codes.append(launch_to_the_end(config, _print_result))

    compose.main(list(arguments), run)
    return codes[0] if codes else 0


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_plainly
def plan(arguments: tuple[str, ...]) -> None:
    """Say what a search will take: sweeper plan study=demo gpu=rtx-4090

    The same overrides as launch; no weights and no GPU are needed. --json is for scripts.
    """
    from sweeper.config import compose

    as_json = "--json" in arguments

    def run(config: Config) -> None:
        from rich.console import Console

        from sweeper.cli.plan import plan_table
        from sweeper.preflight.plan import plan as plan_study

        home = Home(Path(config.store.home).expanduser().absolute())
        home.create()  # what is learned of the model's memory is kept there
        planned = plan_study(config, home)
        if as_json:
            click.echo(json.dumps(planned.as_dict(), indent=2))
        else:
            Console().print(plan_table(planned))

    compose.main([argument for argument in arguments if argument != "--json"], run)


def _print_result(home: Home, name: str, is_finished: bool) -> None:
    from rich.console import Console

    from sweeper.config import check
    from sweeper.launch.tables import cost_line, study_table
    from sweeper.launch.verdict import advice
    from sweeper.search.views import begun, view

    console = Console()
    if is_finished:
        seen, config = view(home, name), check.load(home.study(name))
        console.print(study_table(seen, config, _cost(home, seen, config)))
        _print_steps(console, advice(seen, config, home.study(name)))
    else:
        so_far = begun(home, name)
        line = cost_line(_cost(home, so_far, check.load(home.study(name)))) if so_far is not None else None
        if line is not None:
            console.print(line, highlight=False)
    variable = "" if home == Home.from_environment() else f"SWEEPER_HOME={home.root} "
    export = [("export the winner", f"sweeper export {name} --to DIR")] if is_finished and seen.best is not None else []
    then = (
        [("look at the runs", "sweeper ui"), *export]
        if is_finished
        else [("go on", "the same command again"), ("look", f"sweeper status {name}")]
    )
    for purpose, command in then:
        console.print(f"{purpose}: {variable if command.startswith('sweeper') else ''}{command}", highlight=False)


def _print_steps(console: Console, steps: list[str]) -> None:
    if steps:
        console.print("What to try next:", *(f"- {step}" for step in steps), sep="\n", highlight=False, markup=False)


def _cost(home: Home, seen: StudyView, config: Config) -> Statement:
    """What a study has cost so far."""
    from sweeper.money.account import statement
    from sweeper.money.price import Price
    from sweeper.search.views import open_storage

    return statement(open_storage(home).engine, seen, Price.of(config.gpu))


def _read(study: str) -> tuple[StudyView, Config]:
    """A study of the store and its settings."""
    from sweeper.config import check
    from sweeper.search.views import view

    home = Home.from_environment()
    return view(home, study), check.load(home.study(study))


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
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
    from rich.console import Console

    from sweeper.cli.housekeeping import details, list_table

    Console().print(list_table(lines))
    for line in details(lines):
        click.echo(line)


@main.command()
@click.argument("study")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def status(study: str, as_json: bool) -> None:
    """Show a study's trials and their states."""
    from rich.console import Console

    from sweeper.launch.tables import study_json, study_table

    seen, config = _read(study)
    cost = _cost(Home.from_environment(), seen, config)
    if as_json:
        click.echo(json.dumps(study_json(seen, config, cost), indent=2))
    else:
        Console().print(study_table(seen, config, cost))


@main.command()
@click.argument("study")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--force", is_flag=True, help="Exit with 0 even if the winner is nothing to use.")
@_plainly
def best(study: str, as_json: bool, force: bool) -> int:
    """Show a study's best trial and what it scored.

    The exit code is 1 where there is nothing to use: no trial keeps to the constraints, or the winner cannot be told
    from the untuned base.
    """
    from rich.console import Console

    from sweeper.launch.pareto import cheaper_tie
    from sweeper.launch.tables import answer, trial_json
    from sweeper.launch.verdict import advice
    from sweeper.search.advice import shortfall
    from sweeper.serving import record

    seen, config = _read(study)
    paths = Home.from_environment().study(study)
    problem = shortfall(seen, config)
    steps = advice(seen, config, paths)
    if as_json:
        extra = {
            "baseline": seen.attributes.get("baseline"),
            "confirmation": seen.confirmation,
            "test": seen.attributes.get("test"),
            "inference": record.kept(paths, seen.best.number) if seen.best is not None else None,
            "ties": [trial.number for trial in seen.ties(config.objective.metric_name)],
            "cheaper": cheaper.number if (cheaper := cheaper_tie(seen, config.objective.metric_name)) else None,
            "shortfall": problem,
            "next": steps,
        }
        cost = _cost(Home.from_environment(), seen, config)
        found = trial_json(seen.best, cost) if seen.best is not None else {"number": None, "cost": None}
        click.echo(json.dumps({"study": study, **found, **extra}, indent=2))
    else:
        console = Console()
        console.print(answer(seen, config))
        _print_steps(console, steps)
    return 1 if problem is not None and not force else 0


@main.command()
@click.argument("study")
@click.option("--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write every line there.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def cost(study: str, file: Path | None, as_json: bool) -> None:
    """Show where a study's dollars went: by label, activity, trial and session.

    It only reads, and may be asked while the study runs.
    """
    from sweeper.cli.cost import show

    seen, config = _read(study)
    show(_cost(Home.from_environment(), seen, config), file, as_json)


@main.command()
@click.argument("study")
@click.option("--trial", "number", type=int, help="Another trial than the winner.")
@click.option("--base", "is_base", is_flag=True, help="The untuned base.")
@click.option("--split", type=click.Choice(("validation", "test")), default="validation", show_default=True)
@click.option(
    "--by", type=click.Choice(("confusion", "length", "confidence")), help="This alone, and rows in its order."
)
@click.option("--limit", type=click.IntRange(min=1), help="Rows and pairs of labels that are shown; 10, in JSON all.")
@click.option("--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write all wrong rows there.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
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


@main.command()
@click.argument("study")
@click.option("--trial", "number", type=int, required=True, help="The trial's number.")
@click.option("--alone", "is_alone", is_flag=True, help="In a pack of one: quicker, and equal but for rounding.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def rerun(study: str, number: int, is_alone: bool, as_json: bool) -> int:
    """Train one trial of a study again and compare.

    It goes as far as the trial went, beside stand-ins for the trials that it trained beside, so that even the
    rounding is the same; or alone. A complete trial's adapter that was deleted is brought back for
    `sweeper export`, until the study is launched again. The exit code is 1 where the trial is not the same: an
    evaluation differs by more than one row (in a metric of your own, at all), or one of the two diverged.
    """
    from sweeper.worker.rerun import rerun as rerun_trial

    home = Home.from_environment()
    result = rerun_trial(home, study, number, is_alone, announce=lambda line: click.echo(line, err=as_json))
    click.echo(json.dumps(result.as_dict(), indent=2) if as_json else result.summary())
    return 0 if result.is_same else 1


@main.command("learning-curve")
@click.argument("study")
@click.option("--fractions", help="Of the training rows, between commas; 0.12,0.25,0.5,1 without it.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    help="Trainings of each fraction; 1, or 3 where the metric has no standard error.",
)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def learning_curve(study: str, fractions: str | None, seeds: int | None, as_json: bool) -> int:
    """Say what twice the training rows would buy.

    The winner's configuration is trained on parts of the rows, packed, each for as many examples as the winner was, and
    scored on the validation split. What was measured before is shown without training. Ctrl-C checkpoints, and the same
    command goes on.
    """
    from sweeper.cli.learning_curve import show

    return show(Home.from_environment(), study, fractions, seeds, as_json)


@main.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.option("--x", default="learning_rate", show_default=True, help="A searched parameter: the columns.")
@click.option("--y", default="rank", show_default=True, help="Another one, of few values: the rows, and the lines.")
@click.option("--to", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also draw it there, as PNG.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def interaction(studies: tuple[str, ...], x: str, y: str, file: Path | None, as_json: bool) -> None:
    """Show what two searched parameters do together.

    Several studies of the same metric, such as those of several seeds, are taken together.
    """
    from sweeper.cli.interaction import show

    show(Home.from_environment(), studies, x, y, file, as_json)


main.add_command(export)
main.add_command(predict)
main.add_command(price_inference)


@main.command()
@click.argument("study")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=120, show_default=True, help="Seconds.")
@_plainly
def stop(study: str, timeout_s: float) -> int:
    """Stop a study that runs, as Ctrl-C does.

    The trials in flight are checkpointed, and the same launch command goes on with them. The exit code is 0 where
    nothing of the study runs any more, or nothing did; 1 where it still runs after the timeout; 2 where what runs is
    not to be stopped from here, being on another machine, or no launcher or worker.
    """
    from sweeper.housekeeping.stop import stop as stop_study

    stopped = stop_study(Home.from_environment(), study, timeout_s, announce=click.echo)
    click.echo(stopped.words)
    return 0 if stopped.has_ended else 1


@main.command()
@click.argument("studies", metavar="[STUDY]...", nargs=-1)
@click.option("--adapters", is_flag=True, help="Adapters beyond the best store.keep_adapters, and of no trial.")
@click.option("--checkpoints", is_flag=True, help="Checkpoints of trials that have ended.")
@click.option("--temporary", is_flag=True, help="What was half written, or half deleted.")
@click.option("--deleted", is_flag=True, help="What MLflow keeps of studies, experiments and runs that were deleted.")
@click.option("--caches", is_flag=True, help="Converted models and memory formulas; they are made again when needed.")
@click.option("--whole", is_flag=True, help="The STUDY itself: its runs in MLflow, its trials, its folder.")
@click.option("--yes", "deletes", is_flag=True, help="Delete. Without it, what would be deleted is listed.")
@_plainly
def clean(studies: tuple[str, ...], whole: bool, deletes: bool, **chosen: bool) -> None:
    """Give disk space back; only says what would go, until --yes.

    Without options: adapters, checkpoints, temporary and deleted, of all studies or of those named. A study that runs
    is left alone, and so is whatever is not sweeper's.
    """
    from sweeper.cli.housekeeping import clean as clean_store
    from sweeper.cli.housekeeping import clean_whole

    kinds = [kind for kind, is_chosen in chosen.items() if is_chosen]
    if whole and (kinds or not studies):
        raise click.UsageError("--whole needs the names of studies, and no other option than --yes")
    if studies and "caches" in kinds:
        raise click.UsageError("--caches belong to no study: leave the names out")
    home = Home.from_environment()
    if whole:
        clean_whole(home, studies, deletes)
    else:
        clean_store(home, studies, kinds, deletes)


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--task", type=click.Choice(["classification", "generation", "comments"]), help="Otherwise told by the columns."
)
@click.option("--column", "columns", metavar="KEY=COLUMN", multiple=True, help="Such as text=Body; may be repeated.")
@click.option("--model", default="tiny", show_default=True, help="An option of conf/model, a folder or a Hub id.")
@click.option("--name", help="Of the study; otherwise that of the file or folder.")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="The study's folder; otherwise studies/NAME.")
@click.option("--force", is_flag=True, help="Write over a study that is there.")
@_plainly
def init(**chosen: Any) -> None:
    """Draft a study for your own rows: a file, or a folder with one for each split.

    Writes a commented config.yaml and a README with columns, task, prompt and search space, all of them to be changed.
    """
    from sweeper.cli.data import init as init_study

    init_study(**chosen)


@main.group()
def data() -> None:
    """Look at rows before anything is spent on them."""


@data.command(
    "check",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["-h", "--help"]},
)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.argument("arguments", metavar="FILE|study=STUDY [KEY=VALUE]...", nargs=-1, type=click.UNPROCESSED, required=True)
@_plainly
def data_check(as_json: bool, arguments: tuple[str, ...]) -> int:
    """Check the rows of a study as its launch will read them, or of a file as `sweeper init` would.

    Says lengths and labels, everything that is wrong or doubtful, and shows the first row with its loss mask. The exit
    code is 1 where something would stop a launch, unless data.allow=[CODE] names it.
    """
    from sweeper.cli.data import data_check as check

    return check(list(arguments), as_json)


@main.command()
@click.argument("study", required=False)
@click.option("--port", type=click.IntRange(1, 65535), help="Default: 5000, with --optuna 8080.")
@click.option("--open", "is_opening", is_flag=True, help="Open it in a browser.")
@click.option("--optuna", "is_optuna", is_flag=True, help="Open optuna-dashboard instead.")
@_plainly
def ui(study: str | None, port: int | None, is_opening: bool, is_optuna: bool) -> None:
    """Open the MLflow UI on the store, for this machine alone.

    A link is printed for each study, or for STUDY alone. Studies whose runs are on a tracking server are listed with
    their address.
    """
    from sweeper.cli import dashboard
    from sweeper.cli import ui as mlflow_ui

    home = Home.from_environment()
    if is_optuna:
        dashboard.serve(home, port or 8080, study, is_opening)
    else:
        mlflow_ui.serve(home, port or 5000, study, is_opening)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def doctor(as_json: bool) -> int:
    """Check this machine: versions, GPU, 4-bit training, the store."""
    from sweeper.cli.doctor import examine

    findings = examine(Home.from_environment())
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.is_ok else 'FAIL'} {finding.what}: {finding.detail}")
            if finding.cure:
                click.echo(f"     {finding.cure}")
    return 0 if all(finding.is_ok for finding in findings) else 1
