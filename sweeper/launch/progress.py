"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeper.report.sentences import plus_minus, score
from sweeper.retention.measure import PREFIX
from sweeper.units import usd_text

DROP = f"{PREFIX}drop"


@dataclass
class InFlight:
    """One trial that is training."""

    name: str
    step: int
    steps: int
    loss: float | None = None
    score: float | None = None


@dataclass
class Progress:
    """The state of a study as its events tell it."""

    study: str
    metric: str
    total: int
    is_minimized: bool = False
    started: float = field(default_factory=time.monotonic)
    phase: str = "starting the worker"
    baseline: float | None = None
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    spent: str | None = None  # so far, of how much

    def apply(self, event: dict[str, Any]) -> str | None:
        """Takes one event in; returns a line worth printing where there is no live table."""
        kind = event["event"]
        number = event.get("number", -1)
        match kind:
            case "loading":
                self.phase = f"loading {event['model']}"
                return self.phase
            case "baseline_started":
                self.phase = "scoring the untuned base"
            case "baseline":
                self.baseline = event[self.metric]
                return f"untuned base: validation {self.metric} {plus_minus(event, self.metric)}"
            case "retention_started":
                self.phase = "scoring the untuned base on the retention suite"
            case "retention":
                return f"untuned base, retention: {event['message']}"
            case "trial_started":
                self.in_flight[number] = InFlight(event["name"], event["step"], event["steps"])
                self.phase = "training"
                return f"{event['name']}: started" + (f" at step {event['step']}" if event["step"] else "")
            case "confirming":
                named = ", ".join(map(str, event["numbers"]))
                self.phase = f"confirming trials {named} on {event['seeds']} fresh seeds"
                return self.phase
            case "confirmed":
                ties = f", tied with {', '.join(map(str, event['tied']))}" if event["tied"] else ""
                return f"confirmed: trial {number}{ties}"
            case "side_started":
                self.in_flight[number] = InFlight(event["name"], event["step"], event["steps"])
                return f"{event['name']}: started" + (f" at step {event['step']}" if event["step"] else "")
            case "side_ended":
                self.in_flight.pop(number, None)
                return f"{event['name']}: {event['failure'] or 'done'}"
            case "tick":
                self.phase = "training"
                for slot in event["slots"]:
                    if slot["number"] in self.in_flight:
                        trial = self.in_flight[slot["number"]]
                        trial.step, trial.loss = slot["step"], slot["loss"]
            case "evaluating":
                self.phase = "evaluating"
            case "evaluation" if number in self.in_flight:  # not a late word of an earlier worker
                self.in_flight[number].score = event[self.metric]
                lost = f", retention drop {event[DROP]:+.3f}" if DROP in event else ""
                return (
                    f"{self.in_flight[number].name}: validation {self.metric} {plus_minus(event, self.metric)} "
                    f"after {event['examples']} examples{lost}"
                )
            case "trial_ended":
                return self._end(event)
            case "retention_full":
                self.phase = f"scoring trial {number} on the whole retention suite"
                return self.phase
            case "testing":
                self.phase = f"scoring the winner, trial {number}, and the base on the test split"
                return self.phase
            case "spent":
                usd, limit = event["usd"], event["limit"]
                so_far = usd_text(usd) if usd is not None else f"{event['device_s']:,.0f} device s"
                self.spent = so_far + (f" of {limit}" if limit is not None else "")
            case "note":
                return f"note: {event['message']}"
            case "checkpoint_skipped" | "checkpoint_damaged" | "lease_lost" | "evicted":
                return f"warning: {event['message']}"
            case "ended":
                self.phase = "ending before its total"
                return f"the search ends: {event['message']}"
            case "suspended":
                self.phase = "interrupted"
                return "interrupted: run the same command again to go on"
        return None

    def _end(self, event: dict[str, Any]) -> str:
        trial = self.in_flight.pop(event["number"], None)
        state = event["state"]
        self.ended[state] = self.ended.get(state, 0) + 1
        value = event["value"]
        may_be_best = state == "COMPLETE" and value is not None and not event["violates"]
        if may_be_best and (self.best is None or self._is_better(value, self.best[0])):
            self.best = (value, event["number"])
        name = trial.name if trial else event["name"]
        reason = f" ({event['reason']})" if event["reason"] else ""
        if state == "COMPLETE" and event["violates"]:
            reason = f" (violates {', '.join(event['violates'])})"
        if event["same_as"] is not None:
            reason = f" (the same as trial {event['same_as']}, not trained again)"
        at = f" at {self.metric} {score(value)}" if value is not None else ""
        return f"{name}: {state.lower()}{reason}{at}; {sum(self.ended.values())} ended in this session"

    def _is_better(self, value: float, than: float) -> bool:
        return value < than if self.is_minimized else value > than

    def table(self) -> RenderableType:
        """The live view."""
        elapsed_s = int(time.monotonic() - self.started)
        ended = ", ".join(f"{count} {state.lower()}" for state, count in sorted(self.ended.items())) or "none yet"
        best = f"{score(self.best[0])} (trial {self.best[1]})" if self.best else "–"
        base = score(self.baseline) if self.baseline is not None else "–"
        head = Text(f"{self.study}  {elapsed_s // 60}:{elapsed_s % 60:02d}  {self.phase}", style="bold")
        spent = f"   spent: {self.spent}" if self.spent is not None else ""
        line = Text(f"ended: {ended}   best {self.metric}: {best}   untuned base: {base}{spent}")
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("trial", "step", "loss", f"last {self.metric}"):
            table.add_column(column, justify="left" if column == "trial" else "right", style="none")
        for trial in self.in_flight.values():
            loss = f"{trial.loss:.3f}" if trial.loss is not None else "–"
            last = score(trial.score) if trial.score is not None else "–"
            table.add_row(trial.name, f"{trial.step}/{trial.steps}", loss, last)
        return Group(head, line, table)


class Screen(Protocol):
    """Shows events as they come."""

    def update(self, events: Iterable[dict[str, Any]]) -> None:
        """Takes events in and shows what changed."""


class _Plain:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def update(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            line = self._progress.apply(event)
            if line:
                print(line, flush=True)


class _Live:
    def __init__(self, progress: Progress, live: Live) -> None:
        self._progress, self._live = progress, live

    def update(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            line = self._progress.apply(event)
            if line and line.startswith(("warning: ", "note: ")):
                self._live.console.print(line, highlight=False)
        self._live.update(self._progress.table())


@contextmanager
def show(progress: Progress) -> Iterator[Screen]:
    """A live table where the output is a terminal, plain lines where it is not."""
    console = Console()
    if not console.is_terminal:
        yield _Plain(progress)
        return
    with Live(progress.table(), console=console, refresh_per_second=4) as live:
        yield _Live(progress, live)
