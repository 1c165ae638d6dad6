"""How long it takes to look at a study of 1,000 trials, which is made up here as a run would have left it.

    SWEEPER_HOME=/tmp/big python tests/benchmarks/many_trials.py            # builds the study `many`; times commands
    SWEEPER_HOME=/tmp/big python tests/benchmarks/many_trials.py --measure  # times them alone
    SWEEPER_HOME=/tmp/little python tests/benchmarks/many_trials.py --trials 12 --build

Nothing is trained: scores come from a formula over rank and learning rate, and everything else of a run is written by
the classes that write it in one: storage, MLflow runs with their series, ledger, events, predictions. No adapters.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from sweeper import versions
from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.data import tickets
from sweeper.data.row import Row
from sweeper.events import EventLog
from sweeper.mistakes import kept
from sweeper.money.account import statement
from sweeper.money.booking import STUDY as WHOLE_STUDY
from sweeper.money.booking import Activity, Booking, Whose
from sweeper.money.ledger import Ledger
from sweeper.money.pace import Pace
from sweeper.money.price import Price
from sweeper.paths import TEST, VALIDATION, Home, write_atomically
from sweeper.retention.measure import CONSTRAINT, FULL
from sweeper.search.asking import Asked
from sweeper.search.study import Search
from sweeper.search.views import CONFIRMATION, HELD_BACK, TrialView
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import identify
from sweeper.tracking.tracker import BASELINE, STUDY, RunState
from sweeper.trial import Company, Reason, RunKind
from sweeper.uncertainty import share_error
from sweeper.worker import costs
from sweeper.worker.recorder import Recorder, trial_key
from sweeper.worker.side_records import SideRecords, SideRun
from sweeper.worker.teller import finished

NAME = "many"
PACK = 8  # trials at once
# What becomes of a thousand of them.
ENDS = {None: 600, Reason.PRUNER: 250, Reason.DIVERGED: 50, Reason.INFEASIBLE: 90, Reason.DEFECT: 10}
BASE_ACCURACY, BASE_PERPLEXITY = 0.13, 377.0
ROW_TOKENS, STEP_S, SCORING_S, BUDGET_GIB = 42, 0.05, 2.5, 23.0
COMMANDS = (
    ["status", NAME],
    ["status", NAME, "--json"],
    ["list"],
    ["best", NAME],
    ["cost", NAME],
    ["report", NAME, "--to", "FOLDER"],
)


def shares(trials: int) -> list[Reason | None]:
    """How each trial ends, shuffled; of every end there is at least one, and the last one is complete.

    A study has come to its total with that, whatever was rejected before.
    """
    counts = {end: max(1, round(count * trials / 1000)) for end, count in ENDS.items()}
    counts[None] = trials - sum(count for end, count in counts.items() if end is not None)
    ends = [end for end, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(ends)
    ends.remove(None)
    return [*ends, None]


def composed(trials: int, rejections: int) -> Config:
    found: list[Config] = []
    overrides = [
        "study=demo",
        f"study.name={NAME}",
        "study.description=Made up by tests/benchmarks/many_trials.py",
        "gpu=rtx-4090",
        "sampler=random",
        "search.duplicates=train",  # configurations of the demo's space are so few that some are drawn twice
        f"search.trials={trials - rejections}",
        f"search.max_rejections={rejections}",
        f"engine.slots={PACK}",
    ]
    compose.main(overrides, found.append)
    return found[0]


@dataclass(frozen=True)
class MadeUp:
    """How a trial would have gone.

    Attributes:
        curve: its evaluations.
        steps: optimizer steps that it made.
    """

    curve: list[dict[str, float]]
    steps: int
    constraints: dict[str, float]

    @classmethod
    def of(cls, config: Config, asked: Asked, end: Reason | None) -> MadeUp:
        chance = random.Random(asked.number)
        rank, rate = int(asked.params["rank"]), float(asked.params["learning_rate"])
        height = 0.62 + 0.04 * math.log2(rank / 4)
        reach = height * math.exp(-0.5 * (math.log10(rate / 4e-3) / 0.6) ** 2) + chance.gauss(0, 0.015)
        count = {None: config.evaluation.count, Reason.PRUNER: 2, Reason.DIVERGED: 1}.get(end, 0)
        rhythm = config.rhythm(config.trial_params(asked.params), 2400)
        lost = 1 / (1 + math.exp(-2.5 * math.log10(rate / 2e-2)))
        curve = []
        for place in range(1, count + 1):
            accuracy = min(0.99, max(0.02, BASE_ACCURACY + reach * (1 - 0.5**place)))
            drop = lost * place / config.evaluation.count
            curve.append(
                {
                    "examples": rhythm.interval_examples * place,
                    **scores(accuracy, config.evaluation.rows or 240),
                    "retention/accuracy": 0.34,
                    "retention/perplexity": BASE_PERPLEXITY / (1 - min(drop, 0.99)),
                    "retention/drop": drop,
                    "retention/drop_se": 0.03,
                }
            )
        vram = 0.4 if end is Reason.INFEASIBLE else rank / 64 * 0.2 - 0.9
        excess = curve[-1]["retention/drop"] - 0.5 if curve else 0.0
        return cls(curve, rhythm.steps_per_interval * count, {CONSTRAINT: excess, "vram": vram})


def scores(accuracy: float, rows: int) -> dict[str, float]:
    error = share_error(accuracy, rows)
    return {"accuracy": accuracy, "accuracy_se": error, "macro_f1": 0.97 * accuracy, "macro_f1_se": error}


class Writer:
    """Writes a study trial by trial, with the classes of a worker."""

    def __init__(self, home: Home, trials: int) -> None:
        self._ends = shares(trials)
        self._config = composed(trials, self._ends.count(Reason.INFEASIBLE))
        self._paths = home.study(NAME)
        self._rows = tickets.splits()
        home.create()
        self._paths.create()
        write_atomically(self._paths.config, check.dump(self._config))
        self._events = EventLog(self._paths.events)
        self._tracker = MlflowTracker(home, NAME, identify(self._paths))
        self._recorder = Recorder(self._paths, self._config, self._tracker, self._events)
        self._search = Search(home, self._config, [CONSTRAINT, "vram"])
        self._price = Price.of(self._config.gpu)
        self._ledger = Ledger(self._search.engine)
        self._us = 0
        self._session = self._ledger.open(
            NAME, "NVIDIA GeForce RTX 4090", time.time() - STEP_S * 100 * trials, self._price
        )

    def write(self) -> None:
        self._open()
        for place, end in enumerate(self._ends, start=1):
            self._trial(end)
            if place % 100 == 0:
                print(f"{place} trials written", file=sys.stderr)
        self._confirm()
        self._test()
        self._ledger.book(self._session, [], self._us, is_last=True)
        seen = self._search.seen()
        costs.log_all(self._tracker, self._paths, statement(self._search.engine, seen, self._price), seen.trials)
        self._tracker.end(STUDY, RunState.FINISHED, finished(self._search.attributes))
        self._tracker.flush()
        self._events.close()

    def _open(self) -> None:
        pace, suite = Pace(setup_s=30.0), {"questions": 150, "passages": 81, "noise_floor": 0.03, "tolerance": 0.5}
        base = {"accuracy": 0.35, "perplexity": BASE_PERPLEXITY}
        values = {
            "data_sha256": hashlib.sha256(b"made up").hexdigest(),
            "train_rows": 2400,
            HELD_BACK: 359,
            "labels": sorted({row["label"] for row in self._rows[TEST]}),
            "dtype": "bfloat16",
            "versions": versions.installed(),
            "budget_bytes": int(BUDGET_GIB * 2**30),
            "retention": {**base, **suite, "constrains": "perplexity", "sample": {**base, **suite}},
            "is_started": True,
            "starts": {},
            "tracked_in": "store",
            "adapters": [],
            "pace": pace.as_dict(),
        }
        for name, value in values.items():
            self._search.remember(name, value)
        tags = {"mlflow.note.content": self._config.study.description, **costs.tags(self._config)}
        self._tracker.start(STUDY, NAME, {}, tags)
        self._tracker.log_file(STUDY, self._paths.config)
        self._book(WHOLE_STUDY, {Activity.LOAD: (30.0, 8), Activity.BASELINE: (SCORING_S, 240)})
        self._keep(None, VALIDATION, BASE_ACCURACY, 240)
        self._recorder.baseline(scores(BASE_ACCURACY, 240))
        self._search.remember("baseline", scores(BASE_ACCURACY, 240))

    def _trial(self, end: Reason | None) -> None:
        asked = self._search.ask()
        assert asked is not None  # there are as many as the study has
        made_up = MadeUp.of(self._config, asked, end)
        self._recorder.begin(asked)
        if made_up.steps:
            self._train(asked, made_up)
        tokens, scorings = made_up.steps * 16 * ROW_TOKENS, len(made_up.curve)
        train_s = made_up.steps * STEP_S
        if made_up.steps:
            whose = Whose(RunKind.TRIAL, asked.number)
            activities = {Activity.TRAIN: (train_s, tokens), Activity.EVALUATE: (scorings * SCORING_S, scorings * 240)}
            self._book(whose, activities)
        seconds = self._us / 1e6
        record: dict[str, Any] = {
            "metrics": made_up.curve[-1] if made_up.curve else {},
            "curve": made_up.curve,
            "duration_s": train_s * 3,
            "examples_seen": made_up.curve[-1]["examples"] if made_up.curve else 0,
            "company": [Company(step=0, slots=((asked.number, 0),)).model_dump()],
            "spent_s": seconds,
            "spent_usd": self._price.usd(seconds) if self._price is not None else None,
            "steps": made_up.steps,
            "train_tokens": tokens,
            "solo_s": train_s * 1.4 + scorings * SCORING_S,
        }
        self._tell(asked.number, end, made_up, record)
        self._recorder.end(self._told(asked.number))

    def _tell(self, number: int, end: Reason | None, made_up: MadeUp, record: dict[str, Any]) -> None:
        match end:
            case None:
                best = max(made_up.curve, key=lambda point: point["accuracy"])
                in_full = {f"{FULL}accuracy": 0.34, f"{FULL}drop": best["retention/drop"], f"{FULL}drop_se": 0.02}
                record |= {"metrics": {**best, **in_full}}
                self._search.complete(number, best["accuracy"], record, made_up.constraints)
            case Reason.DEFECT:
                self._search.fail(number, "in flight at 2 crashes of the worker", made_up.constraints)
            case Reason.INFEASIBLE:
                record |= {"duration_s": 0.0, "detail": "not trained: vram is +0.4 above its limit"}
                self._search.prune(number, end, record, made_up.constraints)
            case _:
                self._search.prune(number, end, record, made_up.constraints)

    def _train(self, asked: Asked, made_up: MadeUp) -> None:
        """The series of a trial, and its events."""
        params = self._config.trial_params(asked.params)
        rhythm = self._config.rhythm(params, 2400)
        chance = random.Random(asked.number)
        key, left = trial_key(asked.number), list(enumerate(made_up.curve, start=1))
        self._events.write(
            "trial_started",
            number=asked.number,
            name=f"t{asked.number:02d}",
            step=0,
            steps=rhythm.total_steps,
            is_informed=asked.is_informed,
        )
        for step in range(1, made_up.steps + 1):
            loss = 0.4 + 2.5 * math.exp(-step / 20) + chance.gauss(0, 0.05)
            peak = 8 + params.rank / 16 + chance.random()
            metrics = {
                "train/loss": loss,
                "train/grad_norm": abs(chance.gauss(0.8, 0.2)),
                "train/learning_rate": params.learning_rate * (1 - step / (rhythm.total_steps + 1)),
                "train/tokens": float(step * 16 * ROW_TOKENS),
                "train/supervised_tokens": float(step * 16 * 3),
                "vram/peak_gib": peak,
                "vram/predicted_gib": peak * 1.06,
                "vram/headroom_gib": BUDGET_GIB - peak,
                "vram/chunks": 1.0,
            }
            self._tracker.log(key, metrics, rhythm.examples_at(step))
            self._events.write("tick", slots=[{"number": asked.number, "step": step, "loss": loss}])
            if rhythm.is_evaluation(step):
                index, point = left.pop(0)
                values = {name: value for name, value in point.items() if name != "examples"}
                self._tracker.log(key, values, int(point["examples"]))
                self._events.write("evaluation", number=asked.number, index=index, **point)
                self._search.report(asked.number, made_up.curve[:index], may_prune=False)

    def _confirm(self) -> None:
        finalists = self._search.seen().finalists(self._config.confirmation.top)
        side, seeds, records = SideRecords(RunKind.CONFIRMATION, self._tracker, self._events), [11, 12], []
        for trial in finalists:
            assert trial.value is not None
            values = [trial.value - 0.02, trial.value - 0.03]
            params = self._config.trial_params(trial.params)
            for place, (seed, value) in enumerate(zip(seeds, values, strict=True), start=1):
                number, tags = trial.number * 100 + place, {"sweeper.confirms": str(trial.number)}
                name = f"confirm t{trial.number:02d} seed {place}"
                run = SideRun(
                    number, name, params, self._config.rhythm(params, 2400), seed, tags=tags, searched=trial.params
                )
                side.names[number] = name
                side.begin(run)
                side.evaluation(number, 1, {"examples": 1200, **scores(value, 240)})
                found = {f"confirmation/{metric}": score for metric, score in scores(value, 359).items()}
                known = {"metrics": found, "examples": 1200, "tags": {"sweeper.state": "COMPLETE", **tags}}
                side.end(run, known, scores(value, 359), None)
                self._book(Whose(RunKind.CONFIRMATION, number), {Activity.TRAIN: (76 * STEP_S, 76 * 16 * ROW_TOKENS)})
            records.append(
                {
                    "trial": trial.number,
                    "values": values,
                    "mean": trial.value - 0.025,
                    "spread": 0.007,
                    "failures": [],
                    "original": scores(trial.value - 0.01, 359),
                    "parameters": 13_568 * params.rank,
                    "solo_s": trial.solo_s,
                }
            )
        outcome = {
            "top": self._config.confirmation.top,
            "finalists": [trial.number for trial in finalists],
            "seeds": seeds,
            "rows": 359,
            "metric": "accuracy",
            "candidates": records,
            "leader": finalists[0].number,
            "chosen": finalists[0].number,
            "tied": [trial.number for trial in finalists[1:]],
            "versus": [
                {
                    "trial": t.number,
                    "difference": -0.01,
                    "low": -0.03,
                    "high": 0.01,
                    "probability": 0.3,
                    "is_tied": True,
                }
                for t in finalists[1:]
            ],
        }
        for one in records:
            found = {f"confirmation/accuracy_{name}": one[name] for name in ("mean", "spread")}
            self._tracker.log(trial_key(one["trial"]), found, step=1200)
        self._search.remember(CONFIRMATION, outcome)

    def _test(self) -> None:
        seen = self._search.seen()
        best, second = seen.best, seen.runner_up
        assert best is not None
        assert best.value is not None
        winner, base = scores(best.value - 0.03, 1000), scores(0.09, 1000)
        for number, split, accuracy, rows in (
            (best.number, VALIDATION, best.value, 240),
            (best.number, TEST, best.value - 0.03, 1000),
            (None, TEST, 0.09, 1000),
        ):
            self._keep(number, split, accuracy, rows)
        test = {
            "trial": best.number,
            "rows": 1000,
            "looks": 1,
            "winner": winner,
            "base": base,
            "majority": scores(0.08, 1000),
            "runner_up": {"trial": second.number, "scores": winner} if second is not None else None,
            "against_base": {"difference": winner["accuracy"] - 0.09, "standard_error": 0.015},
            "optimism": 0.03,
        }
        self._book(WHOLE_STUDY, {Activity.TEST: (12.0, 3000)})
        self._tracker.log(trial_key(best.number), {f"test/{name}": value for name, value in winner.items()}, step=0)
        self._tracker.log(BASELINE, {f"test/{name}": value for name, value in base.items()}, step=0)
        self._tracker.log(STUDY, {"best_value": best.value, "test/accuracy": winner["accuracy"]}, step=best.number)
        self._search.remember("test", test)

    def _keep(self, number: int | None, split: str, accuracy: float, rows: int) -> None:
        """Predictions of which so many are right."""
        chance, labels, found = random.Random(number), self._search.attributes["labels"], []
        for place, values in enumerate(self._rows[split][:rows], start=1):
            row = Row(values["text"], values["label"], f"tickets {split}:{place}")
            others = [one for one in labels if one != row.label]
            guess = row.label if chance.random() < accuracy else chance.choice(others)
            found.append(
                kept.Kept(
                    row=row.place,
                    sha256=row.sha256,
                    tokens=ROW_TOKENS,
                    prediction=guess,
                    confidence=chance.random(),
                    is_correct=guess == row.label,
                    truth=row.label,
                )
            )
        kept.write(self._paths.predictions(number, split), found)

    def _book(self, whose: Whose, activities: dict[Activity, tuple[float, int]]) -> None:
        bookings = [
            Booking(self._session, whose, activity, int(seconds * 1e6), units=units)
            for activity, (seconds, units) in activities.items()
        ]
        self._us += sum(one.us for one in bookings)
        self._ledger.book(self._session, bookings, self._us)

    def _told(self, number: int) -> TrialView:
        return next(trial for trial in self._search.views() if trial.number == number)


def build(home: Home, trials: int) -> None:
    """Writes the study; the store must not have one of its name.

    Raises:
        SystemExit: if it has.
    """
    if home.study(NAME).root.exists():
        raise SystemExit(f"the study is built where there is none, but {home.study(NAME).root} is there; delete it")
    Writer(home, trials).write()


def measure(home: Home) -> dict[str, dict[str, float]]:
    """Wall and processor seconds of each command, as a person runs it: with the start of Python."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            before, started = _children_cpu_s(), time.monotonic()
            ended = subprocess.run(
                [sys.executable, "-m", "sweeper", *(folder if word == "FOLDER" else word for word in command)],
                env={**os.environ, "SWEEPER_HOME": str(home.root)},
                capture_output=True,
                text=True,
            )
            wall_s, cpu_s = time.monotonic() - started, _children_cpu_s() - before
            if ended.returncode == 0:
                found[" ".join(command)] = {"wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2)}
            else:
                print(f"sweeper {' '.join(command)}: {ended.stderr.strip()}", file=sys.stderr)
    return found


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="how many the study has")
    parser.add_argument("--build", action="store_true", help="build the study, and time nothing")
    parser.add_argument("--measure", action="store_true", help="time the commands on a study that is there")
    arguments = parser.parse_args()
    home = Home.from_environment()
    if not arguments.measure:
        started = time.monotonic()
        build(home, arguments.trials)
        print(f"built at {home.root} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    if not arguments.build:
        print(json.dumps(measure(home), indent=1))


if __name__ == "__main__":
    main()
