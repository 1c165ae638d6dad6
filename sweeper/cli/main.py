"""The command line. Each command imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import atexit
import gc
import io
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper import __version__
from sweeper.cli.adapters import export, predict, price_inference
from sweeper.cli.completion import (
    Overriding,
    completion,
    files_or_settings,
    options_of,
    settings,
    studies_or_settings,
    study_names,
)
from sweeper.cli.look import best, compare, cost, errors, interaction, list_studies, status
from sweeper.cli.pictures import pictures
from sweeper.cli.plainly import plainly as _plainly
from sweeper.cli.plainly import print_trace
from sweeper.cli.report import report
from sweeper.cli.serve import serve
from sweeper.paths import Home

if TYPE_CHECKING:
    from sweeper.config.schema import Config


# As one comes to them; a command that is not named here comes last.
_ORDER = (
    *("init", "data", "plan", "launch", "worker", "status", "list", "stop"),
    *("best", "report", "pictures", "cost", "errors", "compare", "interaction", "learning-curve", "rerun"),
    *("export", "predict", "serve", "price-inference", "ui", "sync", "clean", "doctor", "completion"),
)


_PLANS = "Says what a search will take, with the settings of a launch, and runs nothing."


class _InOrder(click.Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(self.commands, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sweeper")
def main() -> None:
    """Finds the best QLoRA adapter for a task, on the GPU you have.

    The store is the folder SWEEPER_HOME (default ./sweeps).
    """
    sys.excepthook = print_trace
    gc.set_threshold(1_000_000)  # to go through a study of 1,000 trials again and again took a quarter of the time
    atexit.register(gc.freeze)  # or a last collection, over what the libraries leave, takes a second or two
    for stream in (sys.stdout, sys.stderr):  # one that has no character for something shows another
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@main.command(
    cls=Overriding,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=settings)
@_plainly
def launch(arguments: tuple[str, ...]) -> int:
    """Launch a search: sweeper launch study=demo search.trials=40

    A Hydra application: GROUP=OPTION and KEY=VALUE overrides, --cfg job, --info, --config-dir, --help. With --json each
    event is a line in JSON, the last one is the result, nothing is asked, and the rest goes to standard error.
    """
    from sweeper.config import compose
    from sweeper.errors import SweeperError

    as_json = "--json" in arguments
    codes: list[int] = []

    def run(config: Config) -> None:
        from sweeper.cli.launch import launch_to_the_end

        codes.append(launch_to_the_end(config, as_json))

    try:
        compose.main([argument for argument in arguments if argument != "--json"], run)
    except SweeperError as error:
        if as_json:
            from sweeper.cli.launch import print_json_result
            from sweeper.cli.plainly import USAGE_ERROR
            from sweeper.redaction import redacted

            print_json_result(None, USAGE_ERROR, None, redacted(str(error)), type(error).__name__)
        raise
    return codes[0] if codes else 0


@main.command(
    cls=Overriding,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=settings)
@_plainly
def plan(arguments: tuple[str, ...]) -> None:
    """Say what a search will take: sweeper plan study=demo gpu=rtx-4090

    The same overrides as launch; no weights and no GPU are needed. --json is for scripts.
    """
    from sweeper.config import compose

    as_json = "--json" in arguments

    def run(config: Config) -> None:
        from sweeper.cli.plan import plan_table
        from sweeper.launching.screen import terminal
        from sweeper.preflight.plan import plan as plan_study

        home = Home.named(config.store.home, config.store.optuna)
        home.create()  # what is learned of the model's memory is kept there
        planned = plan_study(config, home)
        if as_json:
            click.echo(json.dumps(planned.as_dict(), indent=2))
        else:
            terminal().print(plan_table(planned))

    compose.main([argument for argument in arguments if argument != "--json"], run, "plan", _PLANS)


@main.command()
@click.argument("study", shell_complete=study_names)
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
@click.argument("study", shell_complete=study_names)
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
@click.argument("study", shell_complete=study_names)
@click.option("--workers", type=click.IntRange(1, 100), help="How many; otherwise one for each GPU, or one on the CPU.")
@click.option("--mirror", metavar="URL", help="The study's store.mirror, where its folder is not here.")
@click.option("--json", "as_json", is_flag=True, help="Events in JSON, a line each.")
@_plainly
def worker(study: str, workers: int | None, mirror: str | None, as_json: bool) -> int:
    """Add workers to a study that runs, here or elsewhere.

    They take trials like those that its launch has started, until none is left; whatever they had in flight goes on
    elsewhere when they are stopped. On another machine SWEEPER_HOME is a folder that both see; or its trials are
    in PostgreSQL (store.optuna), its runs on a tracking server, and its folder comes from --mirror.
    """
    from sweeper.launching.join import join
    from sweeper.launching.screen import Output

    output = Output.JSON if as_json else Output.PERSON
    return join(Home.from_environment(), study, workers, mirror, partial(click.echo, err=as_json), output)


@main.command()
@click.argument("study", shell_complete=study_names)
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=120, show_default=True, help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def stop(study: str, timeout_s: float, as_json: bool) -> int:
    """Stop a study that runs, as Ctrl-C does.

    The trials in flight are checkpointed, and the same launch command goes on with them. The exit code is 0 where
    nothing of the study runs any more, or nothing did; 1 where it still runs after the timeout; 2 where what runs is
    not to be stopped from here, being on another machine, or no launcher or worker.
    """
    from sweeper.housekeeping.stop import stop as stop_study

    stopped = stop_study(Home.from_environment(), study, timeout_s, announce=partial(click.echo, err=as_json))
    result = {"study": study, "has_ended": stopped.has_ended, "message": stopped.words}
    click.echo(json.dumps(result, indent=2) if as_json else stopped.words)
    return 0 if stopped.has_ended else 1


@main.command()
@click.argument("study", shell_complete=study_names)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def sync(study: str, as_json: bool) -> int:
    """Write to a study's runs what waits since their store was away.

    That is for a study that has ended, or was stopped, while its tracking server was away: one that runs does it
    itself, and so does its next launch. The exit code is 1 where the server is still away.
    """
    paths = Home.from_environment().study(study)
    from sweeper.config import check
    from sweeper.launching.launcher import held
    from sweeper.worker.sync import sync as sync_study

    check.load(paths)  # what is wrong with it is said before a lock is made
    with held(paths):
        synced = sync_study(paths, partial(click.echo, err=as_json))
    result = {"study": study, **asdict(synced)}
    click.echo(json.dumps(result, indent=2) if as_json else synced.in_words(paths))
    return 0 if synced.is_even else 1


@main.command()
@click.argument("studies", metavar="[STUDY]...", nargs=-1, shell_complete=study_names)
@click.option("--adapters", is_flag=True, help="Adapters beyond the best store.keep_adapters, and of no trial.")
@click.option("--checkpoints", is_flag=True, help="Checkpoints of trials that have ended.")
@click.option("--temporary", is_flag=True, help="What was half written, or half deleted.")
@click.option("--deleted", is_flag=True, help="What MLflow keeps of studies, experiments and runs that were deleted.")
@click.option("--caches", is_flag=True, help="Converted models and memory formulas; they are made again when needed.")
@click.option("--whole", is_flag=True, help="The STUDY itself: its runs in MLflow, its trials, its folder.")
@click.option("--yes", "deletes", is_flag=True, help="Delete. Without it, what would be deleted is listed.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def clean(studies: tuple[str, ...], whole: bool, deletes: bool, as_json: bool, **chosen: bool) -> None:
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
        clean_whole(home, studies, deletes, as_json)
    else:
        clean_store(home, studies, kinds, deletes, as_json)


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--task", type=click.Choice(["classification", "generation", "comments"]), help="Otherwise told by the columns."
)
@click.option("--column", "columns", metavar="KEY=COLUMN", multiple=True, help="Such as text=Body; may be repeated.")
@click.option(
    "--model",
    default="tiny",
    show_default=True,
    shell_complete=options_of("model"),
    help="An option of conf/model, a folder or a Hub id.",
)
@click.option("--name", help="Of the study; otherwise that of the file or folder.")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="The study's folder; otherwise studies/NAME.")
@click.option("--force", is_flag=True, help="Write over a study that is there.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
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
@click.option("--column", "columns", metavar="KEY=COLUMN", multiple=True, help="Of a file, as `sweeper init` has it.")
@click.argument(
    "arguments",
    metavar="FILE|study=STUDY [KEY=VALUE]...",
    nargs=-1,
    type=click.UNPROCESSED,
    required=True,
    shell_complete=files_or_settings,
)
@_plainly
def data_check(as_json: bool, columns: tuple[str, ...], arguments: tuple[str, ...]) -> int:
    """Check the rows of a study as its launch will read them, or of a file as `sweeper init` would.

    Says lengths and labels, everything that is wrong or doubtful, and shows the first row with its loss mask. The exit
    code is 1 where something would stop a launch, unless data.allow=[CODE] names it.
    """
    from sweeper.cli.data import data_check as check

    return check(list(arguments), columns, as_json)


@main.command()
@click.argument("study", required=False, shell_complete=study_names)
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
@click.argument("arguments", metavar="[STUDY|KEY=VALUE...]", nargs=-1, shell_complete=studies_or_settings)
@click.option("--optuna", metavar="URL", help="A database for studies, in place of the store's: postgresql+psycopg://…")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@_plainly
def doctor(arguments: tuple[str, ...], optuna: str | None, as_json: bool) -> int:
    """Say what this machine lacks, and each cure.

    Versions, GPU and driver, 4-bit training, the store and its disks, the Hub; then that the database of the studies
    and the tracking server can be reached and written, which is tried. With STUDY, or with model=OPTION and the
    like as for launch, also whether its base can be had. The exit code is 1 where sweeper could not work.
    """
    from sweeper.cli.checks.libraries import libraries, python
    from sweeper.cli.finding import Finding, State, show

    try:
        from sweeper.cli.doctor import examine
        from sweeper.cli.reachable import Named
    except ImportError as error:  # of a package that `libraries` names
        rest = Finding("the rest", State.MISSING, f"cannot be looked at: {error}")
        return show([python(), libraries(), rest], as_json)

    studies = [argument for argument in arguments if "=" not in argument]
    if studies and len(arguments) > 1:
        raise click.UsageError(
            f"give one study of the store, or settings as for a launch, but not {studies[0]!r} and more"
        )
    named = Named.of(
        Home.from_environment(), studies[0] if studies else None, optuna, [] if studies else list(arguments)
    )
    return show(examine(named), as_json)


for command in (list_studies, status, best, cost, errors, compare, interaction, report, pictures):
    main.add_command(command)
for command in (export, predict, serve, price_inference, completion):
    main.add_command(command)
