"""A launch to its very end: the study, what came of it in words, and the command of `on_finish`."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import psutil

from sweeper.cli.plainly import USAGE_ERROR
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.disk import full, is_full
from sweeper.errors import HeldError, SweeperError
from sweeper.launching.launcher import launch
from sweeper.launching.on_finish import End, ended_by, on_finish
from sweeper.launching.question import Answer
from sweeper.launching.screen import say_next, terminal
from sweeper.launching.tables import SHOWN, study_json, study_table
from sweeper.paths import Home, StudyPaths
from sweeper.redaction import redacted
from sweeper.report.reading import cost_of, studied
from sweeper.report.sentences import cost_line
from sweeper.report.verdict import advice
from sweeper.search.advice import shortfall
from sweeper.search.ended import ENDED, holds
from sweeper.search.looks import looks
from sweeper.search.views import StudyView, begun, view
from sweeper.search.views import is_finished as is_at_end
from sweeper.tracking.spool import waiting


def launch_to_the_end(config: Config, as_json: bool = False) -> int:
    """Launches a study; everything has been said before `on_finish` runs, which may stop the machine.

    It does not run where a person is there, who stopped the launch or said no; nor where another process runs the
    study, which needs the machine.

    Args:
        as_json: standard output has a line in JSON for each event and one for the result, and nothing else.

    Returns:
        The exit code.
    """
    home = Home.named(config.store.home, config.store.optuna)
    name = config.study.name
    outcome: End | None = None
    error: str | None = None
    kind: str | None = None
    try:
        announce = partial(click.echo, err=as_json)
        code = launch(config, announce, psutil.Process().create_time(), as_json)
        if isinstance(code, Answer):  # given before anything began
            outcome = End.UNANSWERED if code is Answer.NONE else None
        else:
            if code == 0:
                _send_what_waits(home.study(name), announce)
            is_finished = code == 0 and _has_ended(home, config, announce)
            if not as_json:
                _print_result(home, name, is_finished)
            outcome = _end(view(home, name), config) if is_finished else None
    except Exception as problem:  # a defect leaves the machine as idle as anything else does
        outcome = None if isinstance(problem, HeldError) else End.ERROR
        known = full(problem, home.study(name).root) if is_full(problem) else problem
        if isinstance(known, SweeperError):
            error, code, kind = redacted(str(known)), USAGE_ERROR, type(known).__name__
            click.echo(f"error: {error}", err=True)
        else:
            error, code, kind = type(problem).__name__, 1, type(problem).__name__
            click.echo(redacted(traceback.format_exc()), err=True, nl=False)
    command = config.on_finish if outcome is not None else None
    try:
        if as_json:
            print_json_result(name, code, outcome, error, kind, home)
        if command is not None:
            sys.stdout.flush()
    finally:  # a machine that is rented is stopped where nobody reads the result, too
        if command is not None and outcome is not None:
            on_finish(command, home.study(name), outcome, lambda line: click.echo(redacted(line), err=True))
    return code


def _has_ended(home: Home, config: Config, announce: Callable[[str], None]) -> bool:
    """Whether the study has come to its end; where a worker that has joined it leads, that one ends it."""
    name = config.study.name
    if is_at_end(view(home, name), config):
        return True
    announce(f"note: a worker that has joined {name} brings it to its end; `sweeper status {name} --follow` shows it")
    return False


def _send_what_waits(paths: StudyPaths, announce: Callable[[str], None]) -> None:
    """Sends what is left of several workers, each of which has waited for the store of the runs by itself."""
    if not waiting(paths.spool):
        return
    from sweeper.worker.sync import sync  # takes seconds to import, and is seldom needed

    try:
        words = sync(paths, announce).in_words(paths)
    except SweeperError as error:  # the study has come to its end all the same
        words = redacted(str(error))
    announce(f"note: {words}")


def print_json_result(
    name: str | None,
    code: int,
    outcome: End | None,
    error: str | None,
    kind: str | None,
    home: Home | None = None,
) -> None:
    """Prints the last line of `launch --json`: how the launch ended, and how the study stands."""
    stands: dict[str, Any] = {}
    if home is not None and name is not None and error is None and (seen := begun(home, name)) is not None:
        own, used = check.load(home.study(name)), looks(seen.attributes, home.study(name))
        stands = study_json(seen, own, cost_of(home, seen, own), used)
        del stands["trials"]  # the events have them
    ended = outcome.value if outcome is not None else "error" if error is not None else "stopped"
    result = {"event": "result", "study": name, "outcome": ended, "exit_code": code, "error": error, "kind": kind}
    click.echo(json.dumps({**stands, **result}))


def _print_result(home: Home, name: str, is_finished: bool) -> None:
    console = terminal()
    if is_finished:
        seen, config = studied(home, name)
        used = looks(seen.attributes, home.study(name))
        console.print(study_table(seen, config, cost_of(home, seen, config), SHOWN, used))
        say_next(console, advice(seen, config, home.study(name)))
    elif (so_far := begun(home, name)) is not None:
        line = cost_line(cost_of(home, so_far, check.load(home.study(name))))
        if line is not None:
            console.print(line, highlight=False)
    variable = "" if home == Home.from_environment() else f"SWEEPER_HOME={home.root} "
    is_of_use = is_finished and shortfall(seen, config) is None  # or an export would refuse it
    export = [("export the winner", f"sweeper export {name} --to DIR")] if is_of_use else []
    then = (
        [("look at the runs", "sweeper ui"), *export]
        if is_finished
        else [("go on", "the same command again"), ("look", f"sweeper status {name}")]
    )
    for purpose, command in then:
        console.print(f"{purpose}: {variable if command.startswith('sweeper') else ''}{command}", highlight=False)


def _end(study: StudyView, config: Config) -> End:
    """How a study came to its end: a limit that has been raised since did not bring it."""
    ended = study.attributes.get(ENDED)
    return ended_by(ended if holds(ended, config) else None)
