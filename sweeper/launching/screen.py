"""How a study that runs is shown: a live view on a terminal, plain lines elsewhere, or JSON lines for scripts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import IO, Any, Protocol

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeper.clock import now_s
from sweeper.launching.progress import Event, InFlight, Progress
from sweeper.launching.remaining import about
from sweeper.report.sentences import score
from sweeper.units import usd_text

_WIDE, _MEDIUM = 100, 80  # columns from which on there is room for a slot's speed, and for its count of steps
_GAP = 2  # columns between two of a table
_SLOT = len("slot")
_BESIDE = ("warning: ", "note: ")  # lines that stay above the live view


class Output(Enum):
    """Where a study that runs is shown."""

    PERSON = "standard output"
    BESIDE = "standard error, since a script reads the other"
    JSON = "standard output, event by event"


def terminal(is_stderr: bool = False) -> Console:
    """Standard output, or error; without colour and emphasis where `NO_COLOR` says so."""
    return Console(color_system=None if os.environ.get("NO_COLOR") else "auto", stderr=is_stderr)


def say_next(console: Console, steps: list[str]) -> None:
    """Prints what to try next, where there is anything."""
    if steps:
        console.print("What to try next:", *(f"- {step}" for step in steps), sep="\n", highlight=False, markup=False)


class View:
    """A study at this moment, as wide as the terminal is and with the characters that it has."""

    def __init__(self, progress: Progress, now_s: float) -> None:
        """Shows `progress` as of `now_s`, in seconds since 1970."""
        self._progress, self._now_s = progress, now_s

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        is_ascii, width = options.ascii_only, options.max_width
        parts: list[RenderableType] = [Text(self._head(), style="bold"), Text(self._counts()), Text(self._scores())]
        if means := self._means():
            parts.append(Text(means))
        if self._progress.memory:
            parts.append(self._memory(width, is_ascii))
        if self._progress.in_flight:
            parts += [Text(), self._slots(width, is_ascii)]
        yield Group(*parts)

    def _head(self) -> str:
        elapsed_s = max(int(self._now_s - self._progress.began_s), 0)
        hours, minutes = divmod(elapsed_s // 60, 60)
        clock = f"{hours}:{minutes:02d}:{elapsed_s % 60:02d}" if hours else f"{minutes}:{elapsed_s % 60:02d}"
        return f"{self._progress.study}  {clock}  {self._progress.phase}"

    def _counts(self) -> str:
        progress = self._progress
        counts = ", ".join(f"{count} {state}" for state, count in progress.counts.items())
        return f"ended: {progress.done} of {progress.total}" + (f" ({counts})" if counts else "")

    def _scores(self) -> str:
        progress = self._progress
        best = f"{score(progress.best[0])} (trial {progress.best[1]})" if progress.best is not None else "none yet"
        base = f"   untuned base: {score(progress.baseline)}" if progress.baseline is not None else ""
        return f"best {progress.metric}: {best}{base}"

    def _means(self) -> str:
        """What is spent, and how long it takes still."""
        words = []
        progress = self._progress
        if progress.spent is not None:
            then = progress.spent.at(self._now_s)
            used, limit_s = _time(then.device_s), progress.limit_s
            if then.usd is not None:
                used = usd_text(then.usd)
                used += f" of ${progress.limit_usd:g}" if progress.limit_usd is not None else ""
                used += f", {_time(then.device_s)}" if limit_s is not None else ""
            words.append(f"spent: {used}" + (f" of {limit_s / 3600:g} h" if limit_s is not None else ""))
        to_total_s, to_limit_s = progress.left_s(self._now_s)
        if to_limit_s is not None and to_total_s is None:
            words.append(f"search ends within {about(to_limit_s)}, with its budget")
        elif to_limit_s is not None and to_total_s is not None and to_limit_s < to_total_s:
            words.append(f"search ends in {about(to_limit_s)}, with its budget")
        elif to_total_s is not None:
            words.append(f"search ends in {about(to_total_s)}")
        return "   ".join(words)

    def _memory(self, width: int, is_ascii: bool) -> RenderableType:
        lines = Table.grid(padding=(0, 1, 0, 0))
        for worker, memory in sorted(self._progress.memory.items()):
            bar = _bar(memory.now_gib / memory.budget_gib, width, is_ascii)
            words = f"{memory.now_gib:.3g} of {memory.budget_gib:.3g} GiB, highest {memory.highest_gib:.3g}"
            lines.add_row("memory" if len(self._progress.memory) == 1 else f"memory {worker}", bar, words)
        return lines

    def _slots(self, width: int, is_ascii: bool) -> RenderableType:
        """The trainings in flight by slot; what waits comes last. The names get what room the figures leave."""
        metric = self._progress.metric if width < _MEDIUM else f"last {self._progress.metric}"
        figures = ["step"] if width >= _MEDIUM else []
        figures += ["loss", metric]
        figures += ["tokens/s"] if width >= _WIDE else []
        none = "-" if is_ascii else "–"
        ordered = sorted(self._progress.in_flight.values(), key=lambda one: (one.slot is None, one.slot or 0))
        cells = [_cells(one, width, none) for one in ordered]
        taken = [max(map(len, column)) for column in zip(figures, *cells, strict=True)]
        room = width - sum(size + _GAP for size in (_SLOT, _bar_size(width), *taken)) - _GAP
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
        table.add_column("slot", justify="right")
        table.add_column("trial", no_wrap=True, overflow="crop" if is_ascii else "ellipsis", max_width=max(room, 1))
        table.add_column("")
        for figure in figures:
            table.add_column(figure, justify="right", no_wrap=True)
        for one, own in zip(ordered, cells, strict=True):
            slot = str(one.slot + 1) if one.slot is not None else none
            table.add_row(slot, one.name, _bar(one.share, width, is_ascii), *own)
        return table


def _bar_size(width: int) -> int:
    return 20 if width >= _WIDE else 12 if width >= _MEDIUM else 8


def _bar(share: float, width: int, is_ascii: bool) -> Text:
    """How much of something there is, readable without colour too.

    Args:
        width: of the terminal, in columns.
    """
    size = _bar_size(width)
    full = min(max(round(share * size), 0), size)
    done, rest = ("#", "-") if is_ascii else ("━", "─")
    return Text.assemble((done * full, "bar.complete"), (rest * (size - full), "bar.back"))


def _cells(one: InFlight, width: int, none: str) -> list[str]:
    cells = [f"{one.step}/{one.steps}"] if width >= _MEDIUM else []
    cells.append(f"{one.loss:.3f}" if one.loss is not None else none)
    cells.append(score(one.score) if one.score is not None else none)
    if width >= _WIDE:
        cells.append(f"{one.tokens_per_s:,.0f}" if one.tokens_per_s is not None and one.slot is not None else none)
    return cells


def _time(seconds: float) -> str:
    """Device time in words."""
    return f"{seconds:,.0f} device s" if seconds < 3600 else f"{seconds / 3600:.2f} device h"


class Screen(Protocol):
    """Shows events as they come."""

    def update(self, events: Iterable[Event]) -> None:
        """Takes events in and shows what changed."""


class _Plain:
    def __init__(self, progress: Progress, file: IO[str]) -> None:
        self._progress, self._file = progress, file

    def update(self, events: Iterable[Event]) -> None:
        for event in events:
            line = self._progress.apply(event)
            if line:
                print(line, file=self._file, flush=True)


class _Json:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def update(self, events: Iterable[Event]) -> None:
        for event in events:
            print(json.dumps(_finite(event)), flush=True)
            self._progress.apply(event)  # a supervisor goes by it, whatever is shown


def _finite(value: Any) -> Any:
    """A value as JSON has it: the loss of what diverged, and the like, are null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Live:
    def __init__(self, progress: Progress, live: Live) -> None:
        self._progress, self._live = progress, live

    def update(self, events: Iterable[Event]) -> None:
        for event in events:
            line = self._progress.apply(event)
            if line and line.startswith(_BESIDE):
                self._live.console.print(line, highlight=False, markup=False)
        self._live.update(View(self._progress, now_s()), refresh=True)


@contextmanager
def show(progress: Progress, output: Output = Output.PERSON) -> Iterator[Screen]:
    """A live view where the output is a terminal that can move its cursor, plain lines where it is not."""
    console = terminal(is_stderr=output is Output.BESIDE)
    if output is Output.JSON:
        yield _Json(progress)
    elif not console.is_terminal or console.is_dumb_terminal:
        yield _Plain(progress, console.file)
    else:  # refreshed by its updates alone: a thread would read what is being changed
        with Live(View(progress, now_s()), console=console, auto_refresh=False) as live:
            yield _Live(progress, live)
