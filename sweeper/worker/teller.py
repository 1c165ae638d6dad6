"""Opens and closes a study, and tells the storage how trials ended: the storage first, then runs, files, events."""

from __future__ import annotations

import json
from typing import Any

from sweeper import versions
from sweeper.config.schema import Config
from sweeper.engine import adapter
from sweeper.engine.slot import Slot
from sweeper.errors import StoreError
from sweeper.events import EventLog
from sweeper.memory.oom import patiently
from sweeper.mistakes.joined import joined
from sweeper.mistakes.table import write_csv
from sweeper.models import origin
from sweeper.money.booking import Activity
from sweeper.paths import TEST, VALIDATION, StudyPaths, write_atomically
from sweeper.retention.measure import CONSTRAINT, FULL
from sweeper.search.asking import Asked
from sweeper.search.ended import ENDED
from sweeper.search.looks import scored_so_far
from sweeper.search.study import Search
from sweeper.search.views import CONFIRMATION, HELD_BACK, TrialView, examples_of
from sweeper.tasks.resampled import difference
from sweeper.tracking.tracker import BASELINE, STUDY, RunState
from sweeper.trial import Reason, TrialParams
from sweeper.worker import confirmation, costs, learning_curve, steps, surroundings
from sweeper.worker.forgetting import base_metrics, is_finalist, measure_base
from sweeper.worker.recorder import Recorder, curve, trial_key
from sweeper.worker.reports import Reports
from sweeper.worker.spending import Spending
from sweeper.worker.workbench import Scored, Split, Workbench


def finished(attributes: dict[str, Any]) -> dict[str, Any]:
    """The tags of the run of a study that has come to its end, with why that was before its total."""
    ended = attributes.get(ENDED)
    return {"sweeper.state": "finished", "sweeper.ended": ended["message"] if ended else ""}  # an earlier one is gone


class Teller:
    """The beginning and the end of one study and of its trials.

    Attributes:
        constraints: of each trial in flight, as they were foretold.
    """

    def __init__(
        self,
        paths: StudyPaths,
        config: Config,
        search: Search,
        recorder: Recorder,
        events: EventLog,
        spending: Spending,
        reports: Reports,
    ) -> None:
        self.reports = reports
        self.spending = spending
        self.paths = paths
        self.config = config
        self.search = search
        self.recorder = recorder
        self.events = events
        self.constraints: dict[int, dict[str, float]] = {}
        self._bench: Workbench  # from when the study is open

    def open(self, bench: Workbench) -> None:
        """Opens the parent run, scores the untuned base and queues the starts, once in a study's life."""
        self._bench = bench
        self.search.remember("data_sha256", bench.data_sha256)
        is_begun = "baseline" in self.search.attributes  # what measured nothing binds nobody
        if bench.replay is not None:
            bench.replay.hold_to(self.search.attributes.get("replay_sha256") if is_begun else None)
            self.search.remember("replay_sha256", bench.replay.sha256)
        self.search.remember("long_rows", bench.long_rows)
        self.search.remember("train_rows", len(bench.pack.examples))
        if not is_begun:
            self.search.remember(HELD_BACK, len(bench.confirmation.rows) if bench.confirmation is not None else 0)
        self.search.remember("labels", bench.task.labels)
        self.search.remember("code_sha256", bench.own.sha256)
        if (known := origin.kept(self.paths)) is not None:
            self.search.remember("model", known.as_dict())
        attributes = self.search.attributes
        was = attributes.get("dtype", bench.dtype) if "baseline" in attributes else bench.dtype
        if was != bench.dtype:  # model.dtype=auto, on another device
            message = (
                f"the study has computed in {was}, and here does in {bench.dtype}: results may differ from those before"
            )
            self.events.write("note", message=message)
        self.search.remember("dtype", was)
        if "baseline" not in attributes or "versions" not in attributes:  # what measured nothing does not count
            self.search.remember("versions", versions.installed())
        around = surroundings.tags(bench, self.config, self.search.attributes)
        self.recorder.open(self.search.attributes["versions"], bench.own.sha256, around, bench.datasets)
        self._follow_the_tracker()
        self.reports.describe()
        self.keep_best_adapters()
        self.spending.book(Activity.OVERHEAD)
        self._measure_retention(bench)
        if "baseline" not in self.search.attributes:
            self.events.write("baseline_started")
            base = bench.score_base(bench.validation)
            self.spending.scored(Activity.BASELINE, len(bench.validation.rows))
            bench.keep(self.paths.predictions(None), bench.validation, base.predictions)
            scores = base.scores
            self.recorder.baseline({**scores.as_dict(), **base_metrics(self.search.attributes)})
            self.search.remember("baseline", scores.as_dict())
            self.events.write("baseline", **scores.as_dict())
        if "is_started" not in self.search.attributes:
            for line in self.search.enqueue_starts():
                self.events.write("note", message=f"search.warm_start: {line}")
            self.search.remember("is_started", True)

    def join(self, bench: Workbench) -> None:
        """Works on a study that another worker has opened."""
        self._bench = bench
        if bench.replay is not None:
            bench.replay.hold_to(self.search.attributes.get("replay_sha256"))
        around = surroundings.tags(bench, self.config, self.search.attributes)
        self.recorder.join(self.search.attributes["versions"], bench.own.sha256, around, bench.datasets)
        self.spending.book(Activity.OVERHEAD)
        self._measure_retention(bench)

    def _measure_retention(self, bench: Workbench) -> None:
        if bench.retention is not None:
            is_scored = measure_base(bench, self.paths, self.search, self.events)
            self.spending.scored_suite(Activity.BASELINE, bench.retention.full.items if is_scored else 0)

    def _follow_the_tracker(self) -> None:
        """Where the runs go to another place than before, that place gets the whole study."""
        place, attributes = self.recorder.tracker.place, self.search.attributes
        if attributes.get("tracked_in", "store") != place:
            with self.search.in_turn:
                self.search.remember("adapters", [])  # that are there
            known = attributes.get("baseline")
            baseline = {**known, **base_metrics(attributes)} if known is not None else None
            self.recorder.catch_up(self.search.views(), baseline)
            if test := attributes.get("test"):
                self._log_test(test)
            if outcome := attributes.get(CONFIRMATION):
                confirmation.log(self.recorder.tracker, outcome, self.search.views())
            if curve_kept := attributes.get(learning_curve.ATTRIBUTE):
                learning_curve.log(self.recorder.tracker, self.paths, curve_kept, self.search.views())
            costs.log_all(self.recorder.tracker, self.paths, self.spending.account(), self.search.views())
        self.search.remember("tracked_in", place)

    def is_finalist(self, slot: Slot) -> bool:
        """Whether a trial that has come to its end is to be held to the whole retention suite."""
        if self._bench.retention is None or any(value > 0 for value in self._constraints(slot.number, slot).values()):
            return False
        assert slot.best_evaluation is not None
        value = slot.evaluations[slot.best_evaluation][self.config.objective.metric_name]
        merit = -value if self.config.objective.is_minimized else value
        return is_finalist(self.search.seen(), self.config, merit)

    def complete(self, bench: Workbench, slot: Slot, in_full: dict[str, float]) -> None:
        """Tells a trial that ran to its planned end.

        Args:
            in_full: what it keeps of the base's abilities by the whole retention suite, if that was measured.
        """
        assert slot.best_evaluation is not None  # a trial is complete after its last evaluation
        assert slot.best_adapter is not None
        self.search.confirm(slot.number)  # or the folder is another worker's
        folder = self.paths.adapter(slot.number)
        best = slot.best_adapter
        base = bench.base_name, bench.linears, bench.base_revision
        patiently(lambda: adapter.write(folder, best, slot.params, *base))
        self._keep_predictions(slot)
        value = slot.evaluations[slot.best_evaluation][self.config.objective.metric_name]
        record, constraints = self._record(slot), self._constraints(slot.number, slot)
        if in_full:
            assert bench.retention is not None
            record["metrics"] = {**record["metrics"], **in_full}
            constraints[CONSTRAINT] = bench.retention.whole.excess(in_full, FULL)
        self.recorder.settle()
        self.search.complete(slot.number, value, record, constraints)
        self._end(slot.number)
        self.keep_best_adapters()

    def prune(self, slot: Slot, reason: Reason, detail: str | None = None, readings: list[Any] | None = None) -> None:
        """Ends a trial before its planned end.

        Args:
            detail: what happened, in words.
            readings: of the memory, around it.
        """
        self.search.confirm(slot.number)
        self._keep_predictions(slot)
        record = self._record(slot) | ({"detail": detail} if detail else {})
        constraints = self._constraints(slot.number, slot, is_last=reason is Reason.WRECKED)
        self.recorder.settle()
        self.search.prune(slot.number, reason, record, constraints)
        if readings:
            file = self.paths.readings(slot.number)
            write_atomically(file, json.dumps(readings, indent=1))
            self.recorder.attach(slot.number, file)
        self._end(slot.number)

    def reject(self, number: int) -> None:
        """Tells a trial that the forecast knows to be infeasible, untrained."""
        constraints = self.constraints[number]
        broken = [f"{name} is {value:+.3g} above its limit" for name, value in constraints.items() if value > 0]
        record = {"duration_s": 0.0, "examples_seen": 0, "detail": f"not trained: {', '.join(broken)}"}
        record |= self.spending.record()
        self.recorder.settle()
        self.search.prune(number, Reason.INFEASIBLE, record, self._constraints(number))
        self._end(number)

    def repeat(self, number: int, earlier: TrialView) -> None:
        """Gives a trial the result of the earlier one that it equals, untrained."""
        own = {name: value for name, value in earlier.constraints.items() if name == CONSTRAINT}
        self.recorder.settle()
        self.search.repeat(number, earlier, {**self.constraints[number], **own})
        self._end(number)

    def fail(self, asked: Asked) -> None:
        log = self.paths.logs.relative_to(self.paths.root)
        detail = f"in flight at {asked.crashes} crashes of the worker; their traces are in {log}"
        self.recorder.settle()
        self.search.fail(asked.number, detail, self._constraints(asked.number))
        self._end(asked.number)

    def _constraints(self, number: int, slot: Slot | None = None, is_last: bool = False) -> dict[str, float]:
        """What was foretold of a trial, and what it has lost of the base's abilities.

        That is of the adapter that is kept, or of the last evaluation. One that was not evaluated has lost nothing that
        is known: zero, which holds.
        """
        known = self.constraints[number]
        if self._bench.retention is None:
            return known
        best = slot.best_evaluation if slot is not None else None
        excess = 0.0
        if slot is not None and best is not None:
            excess = self._bench.retention.sampled.excess(slot.evaluations[-1 if is_last else best])
        return {**known, CONSTRAINT: excess}

    def _end(self, number: int) -> None:
        """Ends the run of a trial that has been told, with what it cost."""
        seen = self.search.seen()
        trial = seen.trials[number]
        costs.log_trial(self.recorder.tracker, self.spending.trial_cost(trial), trial)
        self.recorder.end(trial)
        self.reports.trial_ended(seen)

    def _record(self, slot: Slot) -> dict[str, Any]:
        """What the storage keeps of a trial beside its value."""
        best = slot.evaluations[slot.best_evaluation] if slot.best_evaluation is not None else {}
        return {
            "metrics": best,
            "curve": curve(slot),
            "duration_s": round(slot.duration_s, 3),
            "examples_seen": slot.examples_seen,
            "company": [company.model_dump() for company in slot.company],
            "took": steps.taken(slot),
            **self.spending.record(slot),
        }

    def _keep_predictions(self, slot: Slot) -> None:
        """Before the trial is told: whoever is killed in between does it again, from the checkpoint."""
        if slot.best_predictions is not None:
            self._bench.keep(self.paths.predictions(slot.number), self._bench.validation, slot.best_predictions)

    def keep_best_adapters(self) -> None:
        with self.search.in_turn:
            kept = self.recorder.keep_best_adapters(self.search.seen(), self.search.attributes.get("adapters", []))
            self.search.remember("adapters", kept)

    def finish(self, bench: Workbench) -> None:
        """Scores winner, runner-up and base on the test split, once for each winner, and closes the study."""
        tracker = self.recorder.tracker
        seen = self.search.seen()
        best, test = seen.best, None
        if best is not None and seen.attributes.get("test", {}).get("trial") != best.number:
            test = self._test(bench, best, seen.runner_up)
        if best is not None and self.config.tracking.log_text:
            self._log_wrong_rows(best)
        tracker.end(STUDY, RunState.FINISHED, finished(self.search.attributes))
        tracker.settle()
        if test is not None:  # last: it is what makes the study finished for the launcher
            self.search.remember("test", test)
            self.keep_best_adapters()

    def _test(self, bench: Workbench, best: TrialView, second: TrialView | None) -> dict[str, Any]:
        self.events.write("testing", number=best.number)
        winner = self.score_trial(bench, best, bench.test)
        base = bench.score_base(bench.test)
        self.spending.scored(Activity.TEST, len(bench.test.rows))
        scored = {best.number: winner, None: base}
        if second is not None and self.paths.adapter(second.number).is_dir():
            scored[second.number] = self.score_trial(bench, second, bench.test)
        for number, one in scored.items():
            bench.keep(self.paths.predictions(number, TEST), bench.test, one.predictions)
        before = self.search.attributes.get("test", {})
        numbers = {number for number in scored if number is not None}
        resampler = bench.resampler(bench.test, self.config)
        of_winner, of_base = (resampler.score(one.texts) for one in (winner, base))
        differences = difference(of_winner.draws, of_base.draws)
        gain = best.value - of_winner.value if best.value is not None else 0.0
        test: dict[str, Any] = {
            "trial": best.number,
            "rows": len(bench.test.rows),
            "looks": int(before.get("looks", 0)) + 1,  # each may have chosen something
            "scored": sorted(numbers | set(scored_so_far(before))),
            "winner": winner.scores.as_dict(),
            "base": base.scores.as_dict(),
            "majority": bench.score_majority(bench.test).as_dict(),
            "runner_up": None,
            # The rows are the same for both, which an error of each by itself does not know.
            "against_base": {
                "difference": of_winner.value - of_base.value,
                "standard_error": float(differences.std()) if len(differences) else None,
            },
            # How much better the search made the winner look: above zero where it did.
            "optimism": -gain if self.config.objective.is_minimized else gain,
        }
        if second is not None and second.number in scored:
            test["runner_up"] = {"trial": second.number, "scores": scored[second.number].scores.as_dict()}
        self._log_test(test)
        return test

    def score_trial(self, bench: Workbench, trial: TrialView, split: Split) -> Scored:
        """Scores the adapter of a trial that is kept."""
        params: TrialParams = self.config.trial_params(trial.params)
        weights = adapter.read(self.paths.adapter(trial.number), params)
        self.spending.book(Activity.OVERHEAD)
        scored = bench.score_adapter(params, weights, split)
        self.spending.scored(Activity.TEST, len(split.rows))
        return scored

    def _log_test(self, test: dict[str, Any]) -> None:
        tracker, winner = self.recorder.tracker, self.search.trial(test["trial"])
        scores, base = ({f"test/{name}": value for name, value in test[who].items()} for who in ("winner", "base"))
        tracker.log(trial_key(winner.number), scores, winner.examples_seen or 0)
        tracker.log(BASELINE, base, step=0)
        if runner_up := test.get("runner_up"):
            own = {f"test/{name}": value for name, value in runner_up["scores"].items()}
            tracker.log(trial_key(runner_up["trial"]), own, self.search.trial(runner_up["trial"]).examples_seen or 0)
        summary = {**scores, "best_value": winner.value or 0.0}
        if "optimism" in test:
            summary["test/optimism"] = test["optimism"]
        tracker.log(STUDY, summary, examples_of(self.search.views()))

    def _log_wrong_rows(self, best: TrialView) -> None:
        """The wrong rows of winner and base with their text, on their runs."""
        seen = self.search.seen()
        for number, key in ((best.number, trial_key(best.number)), (None, BASELINE)):
            for split in (VALIDATION, TEST):
                if self.paths.predictions(number, split).is_file():
                    file = self.paths.wrong_rows(number, split)
                    try:
                        write_csv(joined(seen, self.paths, number, split), file)
                    except StoreError as error:  # a damaged file must not keep the study from its end
                        self.events.write("note", message=f"wrong rows of {split} are not logged: {error}")
                        continue
                    self.recorder.tracker.log_file(key, file)
