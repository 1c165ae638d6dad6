"""The search: one Optuna study, asked and told by hand.

What this keeps, beyond what Optuna does by itself:

- Optuna's step is the number of the evaluation, from 1, which every trial reaches at the same number of
  training examples, so that pruners compare like with like.
- A trial that a hyperparameter stopped is PRUNED with a reason; FAIL is for defects alone.
- Every trial has the study's constraints, all of them, set once, just before it is told.
- An interrupted trial goes back to WAITING and is asked again under its own number; who may do that
  is settled by leases.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine

from sweeper.config import combinations
from sweeper.config.sampling import GPSection
from sweeper.config.schema import Config
from sweeper.config.space import exists, in_order
from sweeper.errors import ConfigError, LeaseLostError
from sweeper.paths import Home
from sweeper.redaction import redacted
from sweeper.search.asking import Asked, AskedStudy, create, suggest
from sweeper.search.leases import Holder, Leases, renewing
from sweeper.search.patience import Patience
from sweeper.search.pruners import should_prune
from sweeper.search.samplers import distributions, sampler
from sweeper.search.storage import open_storage
from sweeper.search.views import TOLD, StudyView, TrialView, configurations, is_at_total, views_of
from sweeper.search.warm_start import starts
from sweeper.trial import Reason

optuna.logging.set_verbosity(optuna.logging.WARNING)
# Keys of leases that are no trial's id, less the study's: whose turn it is, and who leads its workers.
IN_TURN, LEADING = -(10**9), -(2 * 10**9)
_ANSWERS = (Reason.PRUNER, Reason.DIVERGED, Reason.WRECKED)  # a trial that ended so would end so again


class Search:
    """Asks and tells one study, which is created if it does not exist yet.

    Args:
        constraint_keys: the constraints that every trial of the study is told with.
        holder: who asks, if not this process.
        patience: with a database that is away; None: none.

    Raises:
        ConfigError: if the study was begun with other constraints.
        StoreError: if the database cannot be opened, or is away for too long, as for everything else.
    """

    def __init__(
        self,
        home: Home,
        config: Config,
        constraint_keys: Sequence[str] = (),
        holder: Holder | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._home, self._config = home, config
        name = config.study.name
        with FileLock(home.opening_lock):
            storage = open_storage(home, patience)
            create(storage, name, config.objective.direction)
        self._engine: Engine = storage.engine
        self._leases = Leases(storage.engine, config.search.lease_s, holder)
        self._study = AskedStudy(config, storage, self._leases)
        self._configurations = configurations(config)
        self._distributions = distributions(config)
        self._order = in_order(config.search.space)
        self._running: dict[int, optuna.Trial] = {}
        self._told: dict[int, TrialView] = {}  # as they were seen
        self._constraint_keys = sorted(constraint_keys)
        known = self.attributes.get("constraints")
        has_begun = "baseline" in self.attributes or bool(self._study.get_trials(deepcopy=False))
        if known is None or not has_begun:
            self.remember("constraints", self._constraint_keys)
        elif known != self._constraint_keys:
            raise ConfigError(
                f"a study keeps its constraints, but {name!r} was begun with {known} and now has "
                f"{self._constraint_keys}; study.name=NEW starts another"
            )

    @property
    def in_turn(self) -> AbstractContextManager[None]:
        """Of several workers one at a time is in such a block, to reserve budget or to change what all know."""
        return self._leases.exclusively(IN_TURN - self._study._study_id)

    def lead(self) -> bool:
        """Whether this worker is the one that opens and ends the study; it becomes that where no other one is."""
        return self._leases.acquire(self._leading)

    def resign(self) -> None:
        """Leaves the lead to another worker, where this one has it."""
        self._leases.release(self._leading)

    def leader(self) -> tuple[Holder, int] | None:
        """Who leads, and how often it has said that it still does."""
        return self._leases.seen(self._leading)

    @property
    def _leading(self) -> int:
        return LEADING - int(self._study._study_id)

    def renewing(self) -> AbstractContextManager[None]:
        """Keeps the leases of the trials in flight while the block runs."""
        return renewing(self._leases, self._config.search.lease_s)

    @property
    def engine(self) -> Engine:
        """Of the database that the study is in."""
        return self._engine

    @property
    def attributes(self) -> dict[str, Any]:
        """What the study remembers beside its trials."""
        return dict(self._study.user_attrs)

    def remember(self, key: str, value: Any) -> None:
        """Stores a JSON value with the study."""
        self._study.set_user_attr(key, value)

    @property
    def in_flight(self) -> list[int]:
        """The trials that this worker was given and has not told, in their order."""
        return sorted(self._running)

    @property
    def is_complete(self) -> bool:
        """Whether the study has all its trials."""
        return is_at_total(self.views(), self._config.search.trials, self._configurations)

    def views(self) -> list[TrialView]:
        """All trials, for display."""
        return views_of(self._study, self._told)

    def trial(self, number: int) -> TrialView:
        """One trial, for display."""
        return self.views()[number]

    def seen(self) -> StudyView:
        """The study as it stands."""
        return StudyView(self._config.study.name, self.views(), self.attributes)

    def enqueue_starts(self) -> list[str]:
        """Queues the configurations that are to be tried first; those that are queued already stay as they are.

        Returns:
            What was left out of past trials, and why, a line each.

        Raises:
            ConfigError: if past trials cannot be read.
        """
        left_out: list[str] = []
        chosen = self.attributes.get("starts")
        if chosen is None:  # at an interruption between them, those that were chosen are queued
            chosen, left_out = starts(self._home, self._config)
            self.remember("starts", chosen)
        queued = {trial.start for trial in self.views()}
        for label, params in chosen.items():
            if label not in queued:
                self._study.enqueue_trial(params, user_attrs={"start": label})
        return left_out

    def requeue_orphans(self) -> list[int]:
        """Sends trials back to the queue whose worker is gone or silent; returns their numbers."""
        orphans = []
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in self._running and self._leases.acquire(trial._trial_id):
                if self._study._storage.get_trial(trial._trial_id).state == TrialState.RUNNING:
                    self._set_waiting(trial)
                    orphans.append(trial.number)
                else:  # it has been told meanwhile
                    self._leases.release(trial._trial_id)
        return orphans

    def release_told(self) -> None:
        """Deletes the leases that a worker left which was killed just after it told their trials."""
        for trial in self._study.get_trials(deepcopy=False, states=TOLD):
            self._leases.forget(trial._trial_id)

    def ask(self) -> Asked | None:
        """The next configuration, interrupted ones first; None where the total is reached or in flight.

        Raises:
            ConfigError: if the forecast has rejected more asks than the search may make in vain.
        """
        self.requeue_orphans()
        with self._study.is_asking:
            if not self._may_ask():
                return None
            trial = self._study.ask()
        self._running[trial.number] = trial
        params: dict[str, Any] = {}
        relative = self._drawn_together(trial)
        for name in self._order:
            if exists(self._config.search.space[name], params):
                # Independent draws have a seed for each parameter: a worker may have died between two of them.
                self._study.sampler = sampler(self._config, trial.number, name)
                params[name] = suggest(trial, name, self._distributions[name])
        if "is_informed" not in trial.user_attrs:
            is_drawn = combinations.is_blind(self._config) or "start" in trial.user_attrs
            trial.set_user_attr("is_informed", not is_drawn and bool(relative))
        return Asked(
            number=trial.number,
            params=params,
            is_informed=bool(trial.user_attrs["is_informed"]),
            crashes=int(trial.user_attrs.get("crashes", 0)),
            start=trial.user_attrs.get("start"),
        )

    def _may_ask(self) -> bool:
        """Whether another trial is due: one that waits, or a new one."""
        views = self.views()
        states = [trial.state for trial in views]
        in_flight = states.count(TrialState.RUNNING.name)
        told = sum(trial.counts for trial in views)
        total = self._config.search.trials
        if is_at_total(views, total, self._configurations) or told + in_flight >= total:
            return False
        if TrialState.WAITING.name in states:
            return True
        if self._configurations is not None and len(views) >= self._configurations:
            return False
        rejections, limit = sum(trial.is_rejected for trial in views), self._config.search.max_rejections
        if rejections > limit and not in_flight:  # those in flight may come to their end first
            finish = f"; or finish with search.trials={told}" if told else ""
            raise ConfigError(
                f"search.max_rejections: at most {limit} asks may be infeasible, but {rejections} were, and {told} "
                f"trials trained; raise it, or narrow search.space under another study.name{finish}"
            )
        return rejections <= limit

    def _drawn_together(self, trial: optuna.Trial) -> dict[str, Any]:
        """The parameters that the sampler draws in relation to each other, or drew before its worker died."""
        drawn: dict[str, Any] | None = trial.user_attrs.get("drawn")
        if drawn is None:
            drawn = dict(trial.relative_params)
            trial.set_user_attr("drawn", drawn)
        else:  # Optuna would draw again, knowing more
            trial.relative_search_space = {name: self._distributions[name] for name in drawn}
            trial._relative_params = drawn
        return drawn

    def earlier(self, asked: Asked) -> TrialView | None:
        """The trial that has already answered the same question, where its answer is to be used."""
        if self._config.search.duplicates == "train":
            return None
        # With fixed order, only what is told before every such ask, however often the study is interrupted.
        known = asked.number
        if self._config.search.deterministic:
            known -= self._config.most_slots - 1
        for trial in self.views()[: max(0, known)]:
            is_answer = trial.state == TrialState.COMPLETE.name or trial.reason in _ANSWERS
            if trial.is_told and is_answer and trial.params == asked.params:
                return trial
        return None

    def repeat(self, number: int, earlier: TrialView, constraints: dict[str, float]) -> None:
        """Tells a trial what an earlier one of the same configuration was told."""
        trial = self._running[number]
        known = self._frozen(trial).intermediate_values
        for evaluation, value in enumerate(earlier.evaluations, start=1):
            if evaluation not in known:
                trial.report(value, step=evaluation)
        record = {
            "metrics": earlier.metrics,
            "curve": list(earlier.curve),
            "duration_s": 0.0,
            "examples_seen": earlier.examples_seen,
            "same_as": earlier.number if earlier.same_as is None else earlier.same_as,
            "company": earlier.company,
        }
        if earlier.value is not None:
            self.complete(number, earlier.value, record, constraints)
        else:
            self.prune(number, Reason(earlier.reason or Reason.PRUNER), record, constraints)

    def report(self, number: int, curve: Sequence[dict[str, float]], may_prune: bool) -> bool:
        """Reports a trial's latest evaluation; True if the pruner ends the trial. A repeated report is skipped.

        Args:
            curve: every evaluation of the trial so far.
        """
        trial = self._running[number]
        self._confirm(trial)
        evaluation = len(curve)
        if evaluation not in self._frozen(trial).intermediate_values:
            trial.report(curve[-1][self._config.objective.metric_name], step=evaluation)
            trial.set_user_attr("curve", list(curve))
        # With fixed order: the trials that had been told when this one was asked, whichever have been since.
        end = number - self._config.most_slots + 1 if self._config.search.deterministic else None
        return may_prune and should_prune(self._study, trial, evaluation, end)

    def complete(self, number: int, value: float, record: dict[str, Any], constraints: dict[str, float]) -> None:
        """Tells a trial that ran to its planned end.

        Raises:
            LeaseLostError: if another worker has taken the trial over, as for `prune` and `fail`.
        """
        self._tell(number, TrialState.COMPLETE, value, record, constraints)

    def prune(self, number: int, reason: Reason, record: dict[str, Any], constraints: dict[str, float]) -> None:
        """Tells a trial that its hyperparameters stopped."""
        record = {**record, "reason": reason.value}
        if isinstance(self._config.sampler, GPSection):
            # It reads complete trials alone, and would come back to where the others were stopped.
            self._tell(number, TrialState.COMPLETE, self._value_where_stopped(number, reason), record, constraints)
        else:
            self._tell(number, TrialState.PRUNED, None, record, constraints)

    def fail(self, number: int, detail: str, constraints: dict[str, float]) -> None:
        """Tells a trial that a defect ended."""
        self._tell(number, TrialState.FAIL, None, {"reason": Reason.DEFECT.value, "detail": detail}, constraints)

    def requeue(self, number: int, has_crashed: bool) -> bool:
        """Puts a trial that is in flight back: it will be asked again under the same number.

        Returns:
            False where it is another worker's, or told.
        """
        trial = self._running.pop(number)
        if not self._leases.renew(trial._trial_id):
            return False  # it is another worker's already
        if self._frozen(trial).state.is_finished():  # told, and then something went wrong
            self._leases.release(trial._trial_id)
            return False
        if has_crashed:
            trial.set_user_attr("crashes", int(trial.user_attrs.get("crashes", 0)) + 1)
        self._set_waiting(self._frozen(trial))
        return True

    def abandon(self, number: int) -> None:
        """Forgets a trial that another worker has taken over."""
        self._running.pop(number, None)

    def _value_where_stopped(self, number: int, reason: Reason) -> float:
        """What a trial that did not come to its end is worth: where the pruner stopped it, or the worst so far."""
        metric = self._config.objective.metric_name
        last = self._frozen(self._running[number]).last_step
        if reason is Reason.PRUNER and last is not None:
            return float(self._frozen(self._running[number]).intermediate_values[last])
        told = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        values = [trial.value for trial in told if trial.value is not None]
        worst = max if self._config.objective.is_minimized else min
        return worst(values) if values else float(self.attributes.get("baseline", {}).get(metric, 0.0))

    def _tell(
        self, number: int, state: TrialState, value: float | None, record: dict[str, Any], constraints: dict[str, float]
    ) -> None:
        if sorted(constraints) != self._constraint_keys:
            raise ValueError(f"constraints must be {self._constraint_keys}, but got {sorted(constraints)}")
        trial = self._running[number]
        self._confirm(trial)
        # What an earlier attempt may have left is overwritten: its worker was killed before it told.
        detail = {"detail": redacted(record["detail"])} if "detail" in record else {}
        for key, item in {"reason": None, "detail": None, "same_as": None, **record, **detail}.items():
            trial.set_user_attr(key, item)
        known = trial.constraints
        for key, item in constraints.items():
            if key not in known:  # it can be set once, and a worker may have died since
                trial.set_constraint(key, item)
        self._study.tell(trial, value, state)
        del self._running[number]
        self._leases.release(trial._trial_id)

    def confirm(self, number: int) -> None:
        """Makes sure that a trial is still this worker's.

        Raises:
            LeaseLostError: if it is not.
        """
        self._confirm(self._running[number])

    def _confirm(self, trial: optuna.Trial) -> None:
        if not self._leases.renew(trial._trial_id):
            raise LeaseLostError(
                f"a worker tells the trials that it holds, but the lease on trial {trial.number} was not renewed for "
                f"search.lease_s={self._config.search.lease_s:g} s and is another worker's"
            )

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self._study._storage.get_trial(trial._trial_id)

    def _set_waiting(self, trial: FrozenTrial) -> None:
        # Optuna's public interface has no way back from RUNNING; its storages allow it.
        self._study._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
        self._leases.release(trial._trial_id)
