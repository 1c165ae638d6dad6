"""A study while it runs, as its storage and its events tell it: what `sweeper.launching.screen` shows."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sweeper.clock import now_s
from sweeper.config.schema import Config
from sweeper.events import WARNINGS
from sweeper.launching.remaining import Pace, Spent
from sweeper.report.sentences import plus_minus, score
from sweeper.retention.measure import PREFIX
from sweeper.search.views import StudyView
from sweeper.trial import RunKind

DROP = f"{PREFIX}drop"
_RECENT_TICKS = 50  # that a slot's speed is measured over
Event = dict[str, Any]
Key = tuple[str, int]  # of a training: its kind, and its number among those of its kind


@dataclass
class InFlight:
    """One training that has begun and not ended: a trial's, or a side run's.

    Attributes:
        slot: its place in the view while it trains; None while it waits, for memory or to be told.
        tokens_per_s: while it trained last, evaluations left out; None until two steps were seen.
    """

    name: str
    step: int
    steps: int
    slot: int | None
    is_trial: bool = True
    worker: int = 0
    loss: float | None = None
    score: float | None = None
    tokens_per_s: float | None = None
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_RECENT_TICKS))

    @property
    def share(self) -> float:
        """How much of its training is done."""
        return self.step / self.steps

    def move(self, time_s: float, tick: Event) -> None:
        """Takes in a step."""
        self.step, self.loss = tick["step"], tick["loss"]
        self.recent.append((time_s, tick["tokens"]))
        (first_s, first), (last_s, last) = self.recent[0], self.recent[-1]
        if last_s > first_s:
            self.tokens_per_s = (last - first) / (last_s - first_s)


@dataclass
class Memory:
    """What the device's memory has come to, GiB."""

    now_gib: float  # the peak of the latest step
    highest_gib: float  # of all steps since the worker began
    budget_gib: float


@dataclass
class Progress:
    """The state of a study: what earlier sessions left, and what the events since then say."""

    study: str
    metric: str
    total: int
    is_minimized: bool = False
    limit_usd: float | None = None
    limit_s: float | None = None  # of device seconds
    limit_trials: int | None = None  # that are trained
    began_s: float = field(default_factory=now_s)
    phases: dict[int, str] = field(default_factory=dict)  # of each worker
    baseline: float | None = None
    in_flight: dict[Key, InFlight] = field(default_factory=dict)  # the one begun last is the last
    states: dict[int, str] = field(default_factory=dict)  # of the trials that have ended, in whichever session
    ended_by: Counter[int] = field(default_factory=Counter)  # how many of this launch each worker has ended
    rejected: set[int] = field(default_factory=set)  # of these, those that a forecast ended: they come on top
    best: tuple[float, int] | None = None
    spent: Spent | None = None
    memory: dict[int, Memory] = field(default_factory=dict)  # of each worker's device
    pace: Pace = field(default_factory=Pace)

    @classmethod
    def of(cls, config: Config, before: StudyView | None, began_s: float | None = None) -> Progress:
        """That of a study.

        Args:
            before: the study as earlier sessions left it.
            began_s: when this session began, in seconds since 1970; None: now.
        """
        budget = config.budget
        made = cls(
            config.study.name,
            config.objective.metric_name,
            config.search.trials,
            config.objective.is_minimized,
            budget.usd,
            budget.hours * 3600 if budget.hours is not None else None,
            budget.trials,
            now_s() if began_s is None else began_s,
        )
        if before is not None:
            made._recall(config, before)
        return made

    def _recall(self, config: Config, before: StudyView) -> None:
        if "baseline" in before.attributes:
            self.baseline = before.attributes["baseline"][self.metric]
        if before.best is not None and before.best.value is not None:
            self.best = (before.best.value, before.best.number)
        for trial in before.trials:
            if trial.is_told:
                self.states[trial.number] = trial.state
            if trial.is_rejected:
                self.rejected.add(trial.number)
            if trial.is_trained and trial.curve:
                whole = config.evaluations(config.trial_params(trial.params))
                self.pace.shares[trial.number] = min(len(trial.curve) / whole, 1.0)

    @property
    def phase(self) -> str:
        """What the workers are at."""
        words = list(dict.fromkeys(self.phases.values()))
        if len(words) < 2:
            return words[0] if words else "starting"
        return ", ".join(f"{worker}: {phase}" for worker, phase in sorted(self.phases.items()))

    @property
    def counts(self) -> dict[str, int]:
        """The trials that have ended, by state; those that a forecast ended apart."""
        trained = Counter(state.lower() for number, state in self.states.items() if number not in self.rejected)
        rejected = {"infeasible": len(self.rejected)} if self.rejected else {}
        return {**dict(sorted(trained.items())), **rejected}

    @property
    def done(self) -> int:
        """The trials that count towards the total."""
        return len(self.states) - len(self.rejected)

    def left_s(self, now_s: float) -> tuple[float | None, float | None]:
        """Seconds until the search has its trials, and until its budget is spent; None where nothing tells.

        Args:
            now_s: in seconds since 1970.
        """
        trials = [one.share for one in self.in_flight.values() if one.is_trial]
        unbegun = self.total - self.done - len(trials)
        if self.limit_trials is not None:
            unbegun = min(unbegun, self.limit_trials - len(self.pace.shares) - len(trials))
        if unbegun <= 0 and not trials:
            return None, None  # what follows upon the search is under way
        to_total_s = self.pace.left_s(trials, max(unbegun, 0), now_s)
        if self.spent is None:
            return to_total_s, None
        return to_total_s, self.spent.left_s(self.limit_usd, self.limit_s, now_s)

    def apply(self, event: Event) -> str | None:
        """Takes one event in; returns a line worth printing where there is no live view."""
        handle = _HANDLERS.get(event["event"])
        return handle(self, event) if handle is not None else None

    def _enter(self, event: Event, phase: str) -> str:
        """A worker begins with something else."""
        self.phases[event["worker"]] = phase
        return phase

    def _launched(self, _event: Event) -> None:
        """Workers begin: whatever earlier ones had in flight waits now."""
        self.in_flight.clear()
        self.phases.clear()
        self.memory.clear()
        self.pace = Pace(self.pace.shares)

    def _loading(self, event: Event) -> str:
        """A worker begins: whatever one in its place had in flight waits now."""
        worker = event["worker"]
        self.in_flight = {key: one for key, one in self.in_flight.items() if one.worker != worker}
        self.memory.pop(worker, None)
        return self._enter(event, f"loading {event['model']}")

    def _baseline_started(self, event: Event) -> None:
        self._enter(event, "scoring the untuned base")

    def _baseline(self, event: Event) -> str:
        self.baseline = event[self.metric]
        return f"untuned base: validation {self.metric} {plus_minus(event, self.metric)}"

    def _retention_started(self, event: Event) -> None:
        self._enter(event, "scoring the untuned base on the retention suite")

    def _retention(self, event: Event) -> str:
        return f"untuned base, retention: {event['message']}"

    def _started(self, event: Event) -> str:
        number, is_trial = event["number"], event["event"] == "trial_started"
        key = (RunKind.TRIAL.value if is_trial else event["kind"], number)
        self.in_flight.pop(key, None)
        one = InFlight(event["name"], event["step"], event["steps"], self._free_slot(), is_trial, event["worker"])
        self.in_flight[key] = one
        if is_trial:
            self._enter(event, "training")
            self.pace.begin(event["time"])
        return f"{event['name']}: started" + (f" at step {event['step']}" if event["step"] else "")

    def _key(self, number: int, kind: str | None = None) -> Key | None:
        """The training in flight of a number; where no kind is told, the one begun last, since the others wait."""
        fits = (key for key in reversed(self.in_flight) if key[1] == number and kind in (None, key[0]))
        return next(fits, None)

    def _free_slot(self) -> int:
        taken = {one.slot for one in self.in_flight.values()}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def _tick(self, event: Event) -> None:
        ticks = {key: tick for tick in event["slots"] if (key := self._key(tick["number"])) is not None}
        worker = event["worker"]
        if any(self.in_flight[key].is_trial for key in ticks):
            self._enter(event, "training")
        for key, one in self.in_flight.items():
            if key not in ticks and one.worker == worker:
                one.slot = None
        for key, tick in ticks.items():
            one = self.in_flight[key]
            before = one.share
            one.worker = worker
            one.move(event["time"], tick)
            if one.slot is None:
                one.slot = self._free_slot()
            if one.is_trial:
                self.pace.work(one.share - before, event["time"])
        memory = event["memory"]
        if memory["budget_gib"]:
            known = self.memory.get(worker)
            highest = max(memory["peak_gib"], known.highest_gib if known is not None else 0.0)
            self.memory[worker] = Memory(memory["peak_gib"], highest, memory["budget_gib"])

    def _evaluating(self, event: Event) -> None:
        self._enter(event, "evaluating")
        for one in self.in_flight.values():
            if one.worker == event["worker"]:
                one.recent.clear()

    def _evaluation(self, event: Event) -> str | None:
        key = self._key(event["number"], event.get("kind"))
        if key is None:  # a late word of an earlier worker
            return None
        one = self.in_flight[key]
        one.score = event[self.metric]
        lost = f", retention drop {event[DROP]:+.3f}" if DROP in event else ""
        scores = plus_minus(event, self.metric)
        return f"{one.name}: validation {self.metric} {scores} after {event['examples']:g} examples{lost}"

    def _trial_ended(self, event: Event) -> str:
        number, state, value = event["number"], event["state"], event["value"]
        trial = self.in_flight.pop((RunKind.TRIAL.value, number), None)
        self.states[number] = state
        self.ended_by[event["worker"]] += 1
        if event["is_rejected"]:
            self.rejected.add(number)
        if trial is not None:
            self.pace.shares[number] = trial.share
        may_be_best = state == "COMPLETE" and value is not None and not event["violates"]
        if may_be_best and (self.best is None or self._is_better(value, self.best[0])):
            self.best = (value, number)
        reason = f" ({event['reason']})" if event["reason"] else ""
        if state == "COMPLETE" and event["violates"]:
            reason = f" (violates {', '.join(event['violates'])})"
        if event["same_as"] is not None:
            reason = f" (the same as trial {event['same_as']}, not trained again)"
        at = f" at {self.metric} {score(value)}" if value is not None else ""
        return f"{event['name']}: {state.lower()}{reason}{at}; {self.done} of {self.total} ended"

    def _is_better(self, value: float, than: float) -> bool:
        return value < than if self.is_minimized else value > than

    def _confirming(self, event: Event) -> str:
        named = ", ".join(map(str, event["numbers"]))
        seeds = event["seeds"]
        return self._enter(event, f"confirming trials {named} on {seeds} fresh seed{'s' * (seeds != 1)}")

    def _confirmed(self, event: Event) -> str:
        ties = f", tied with {', '.join(map(str, event['tied']))}" if event["tied"] else ""
        return f"confirmed: trial {event['number']}{ties}"

    def _side_ended(self, event: Event) -> str:
        self.in_flight.pop((event["kind"], event["number"]), None)
        return f"{event['name']}: {event['failure'] or 'done'}"

    def _retention_full(self, event: Event) -> str:
        return self._enter(event, f"scoring trial {event['number']} on the whole retention suite")

    def _testing(self, event: Event) -> str:
        return self._enter(event, f"scoring the winner, trial {event['number']}, and the base on the test split")

    def _spent(self, event: Event) -> None:
        self.spent = Spent(event["time"], event["usd"], event["device_s"], event["usd_per_s"])

    def _note(self, event: Event) -> str:
        return f"note: {event['message']}"

    def _warning(self, event: Event) -> str:
        return f"warning: {event['message']}"

    def _ended(self, event: Event) -> str:
        self._enter(event, "ending before its total")
        return f"the search ends: {event['message']}"

    def _left(self, event: Event) -> None:
        """A worker has nothing more to do."""
        self.phases.pop(event["worker"], None)
        self.memory.pop(event["worker"], None)

    def _suspended(self, event: Event) -> str:
        self._enter(event, "interrupted")
        return "interrupted: run the same command again to go on"


_HANDLERS: dict[str, Callable[[Progress, Event], str | None]] = {
    "launched": Progress._launched,
    "loading": Progress._loading,
    "baseline_started": Progress._baseline_started,
    "baseline": Progress._baseline,
    "retention_started": Progress._retention_started,
    "retention": Progress._retention,
    "trial_started": Progress._started,
    "side_started": Progress._started,
    "tick": Progress._tick,
    "evaluating": Progress._evaluating,
    "evaluation": Progress._evaluation,
    "trial_ended": Progress._trial_ended,
    "side_ended": Progress._side_ended,
    "confirming": Progress._confirming,
    "confirmed": Progress._confirmed,
    "retention_full": Progress._retention_full,
    "testing": Progress._testing,
    "spent": Progress._spent,
    "note": Progress._note,
    **dict.fromkeys(WARNINGS, Progress._warning),
    "ended": Progress._ended,
    "left": Progress._left,
    "suspended": Progress._suspended,
}
