"""How the command line says what went wrong: our own errors in words, defects with a trace, nothing with a secret."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import ParamSpec

import click

from sweeper.disk import full, is_full
from sweeper.errors import SweeperError
from sweeper.paths import Home
from sweeper.redaction import redacted

Parameters = ParamSpec("Parameters")
USAGE_ERROR = 2


def plainly(command: Callable[Parameters, int | None]) -> Callable[Parameters, None]:
    """Prints our own errors without a traceback, and exits with the command's code."""

    @wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except SweeperError as error:
            click.echo(f"error: {redacted(str(error))}", err=True)
            sys.exit(USAGE_ERROR)
        except Exception as defect:  # of whatever was writing
            if not is_full(defect):
                raise
            click.echo(f"error: {redacted(str(full(defect, Home.from_environment().root)))}", err=True)
            sys.exit(USAGE_ERROR)
        sys.exit(code or 0)

    return wrapped


def print_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a defect's trace; for `sys.excepthook`."""
    click.echo(redacted("".join(traceback.format_exception(kind, error, trace))), err=True, nl=False)
