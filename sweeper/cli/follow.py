"""`sweeper status --follow`: what a study that runs elsewhere does, as its launch shows it. It only reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import click

from sweeper import outcome
from sweeper.config import check
from sweeper.events import EventReader
from sweeper.launching.progress import Progress
from sweeper.launching.question import INTERRUPTED
from sweeper.launching.screen import Output, show
from sweeper.paths import Home, StudyPaths
from sweeper.search.running import Running, running, working
from sweeper.search.views import begun, is_finished, view

_POLL_S = 0.5
_LOOK_S = 2.0  # between two looks at who runs the study


def follow(home: Home, name: str, as_json: bool) -> int:
    """Shows a study until nothing of it runs any more, and says how it ended.

    Returns:
        0 where it has come to its end; 1 where it was stopped, killed or ended with an error; `INTERRUPTED` where
        whoever looks has enough of it.
    """
    paths = home.study(name)
    say = partial(click.echo, err=as_json)
    found = running(paths)
    if found is None:
        seen = view(home, name)
        say(f"nothing of {name} runs; this is how it stands")
        return 0 if is_finished(seen, check.load(paths)) else 1
    say(f"{name} is run by {found}; Ctrl-C leaves it alone")
    began_s = found.note.holder.started_s if found.note is not None else time.time()
    try:
        _watch(paths, found, began_s, as_json, say)
    except KeyboardInterrupt:
        say(f"\n{name} is left alone, and goes on")
        return INTERRUPTED
    is_at_end, words = ending(paths, began_s)
    say(words)
    return 0 if is_at_end else 1


def _watch(paths: StudyPaths, found: Running, began_s: float, as_json: bool, say: Callable[[str], None]) -> None:
    """Shows what happens until nothing of the study runs."""
    now: Running | None = found
    while now is not None and not working(paths):  # the launch may still ask, or change the settings
        time.sleep(_POLL_S)
        now = running(paths)
    if now is None:
        return
    reader = EventReader.of_session(
        paths.events, "launched" if found.role == "launcher" else "loading", began_s
    )  # first, so that nothing falls in between
    progress = Progress.of(check.load(paths), begun(paths.home, paths.name), began_s)
    looked_s = time.monotonic()
    with show(progress, Output.JSON if as_json else Output.PERSON) as screen:
        while now is not None:
            screen.update(reader.new())
            time.sleep(_POLL_S)
            if time.monotonic() - looked_s >= _LOOK_S:
                looked_s, before, now = time.monotonic(), now, running(paths)
                if now is not None and now.role != before.role:
                    say(f"its launcher is gone; {now} checkpoints what it trains, and ends")
        screen.update(reader.new())


def ending(paths: StudyPaths, since_s: float) -> tuple[bool, str]:
    """Whether the study has come to its end, and how its worker says that it ended."""
    name, again = paths.name, "the same launch command goes on"
    found = outcome.last(paths, since_s)
    match found.status if found is not None else None:
        case outcome.FINISHED:
            return True, f"{name} has come to its end"
        case outcome.STOPPED:
            return False, f"{name} was stopped; {again}"
        case outcome.ERROR:
            assert found is not None
            return False, f"{name} ended with an error: {found.why()}; {again}"
    return False, f"{name} runs no more, and its workers said nothing of their end (see {paths.logs}); {again}"
