"""A launch to its very end: the study, what came of it in words, and the command of `on_finish`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import click
import psutil

from sweeper.config.schema import Config
from sweeper.errors import HeldError, SweeperError
from sweeper.launch.launcher import launch
from sweeper.launch.on_finish import Outcome, ended_by, on_finish
from sweeper.launch.question import Answer
from sweeper.paths import Home
from sweeper.redaction import redacted
from sweeper.search.ended import ENDED, holds
from sweeper.search.views import StudyView, view

USAGE_ERROR = 2


def launch_to_the_end(config: Config, print_result: Callable[[Home, str, bool], None]) -> int:
    """Launches a study; everything has been said before `on_finish` runs, which may stop the machine.

    It does not run where a person is there, who stopped the launch or said no; nor where another process runs the
    study, which needs the machine.

    Args:
        print_result: takes the store, the study's name, and whether the study has come to its end.

    Returns:
        The exit code.
    """
    home = Home(Path(config.store.home).expanduser().absolute())
    name = config.study.name
    outcome: Outcome | None = None
    try:
        code = launch(config, announce=click.echo, since_s=psutil.Process().create_time())
        if isinstance(code, Answer):  # given before anything began
            outcome = Outcome.UNANSWERED if code is Answer.NONE else None
        else:
            print_result(home, name, code == 0)
            outcome = _end(view(home, name), config) if code == 0 else None
    except SweeperError as error:
        click.echo(f"error: {redacted(str(error))}", err=True)
        code, outcome = USAGE_ERROR, None if isinstance(error, HeldError) else Outcome.ERROR
    except Exception:  # a defect leaves the machine as idle as anything else does
        click.echo(redacted(traceback.format_exc()), err=True, nl=False)
        code, outcome = 1, Outcome.ERROR
    if config.on_finish is not None and outcome is not None:
        sys.stdout.flush()
        on_finish(config.on_finish, home.study(name), outcome, lambda line: click.echo(redacted(line), err=True))
    return code


def _end(study: StudyView, config: Config) -> Outcome:
    """How a study came to its end: a limit that has been raised since did not bring it."""
    ended = study.attributes.get(ENDED)
    return ended_by(ended if holds(ended, config) else None)
