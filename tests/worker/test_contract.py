"""The search contract, over every sampler and every pruner that is offered: real training, real stores.

Scores are a function of the hyperparameters: trials this short all score the same otherwise.

`make test` runs each sampler with the median pruner and each pruner with TPE; `make test-all` every pair.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.events import EventLog
from sweeper.paths import Home
from sweeper.search.views import ranked, view
from sweeper.tasks.classification import Scores
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import RunState
from sweeper.trial import Prediction, TrialParams
from sweeper.worker import session
from sweeper.worker.recorder import RUN_STATES, Recorder, trial_key
from sweeper.worker.session import Session
from sweeper.worker.workbench import Scored, Split, Workbench, set_up
from tests.conftest import SHORT
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare

CONF = Path(__file__).parents[2] / "conf"
SAMPLERS = sorted(file.stem for file in (CONF / "sampler").glob("*.yaml"))
PRUNERS = sorted(file.stem for file in (CONF / "pruner").glob("*.yaml"))
PAIRS = [
    (sampler, pruner)
    for sampler in SAMPLERS
    for pruner in PRUNERS
    if os.environ.get("SWEEPER_TESTS") == "all" or sampler == "tpe" or pruner == "median"
]
ONLY_ALL = pytest.mark.skipif(
    os.environ.get("SWEEPER_TESTS") != "all", reason="SWEEPER_TESTS is not all: make test-all runs it"
)
TRIALS = 20
SPACE = (
    "~search.space.alpha_ratio",
    "search.space.rank=[2,4]",
    "search.space.learning_rate={low:1.0e-3,high:3.0e-1,log:true}",
    "+search.space.dropout={low:0.0,high:0.3}",
)
SIZE = ("train.examples=32", "train.batch_size=8", "evaluation.count=4", "evaluation.rows=12", "engine.slots=4")


class LittleDropout:
    """A forecast that knows a third of the space to be infeasible, and nothing that bears on the score."""

    keys = ("vram",)

    def __call__(self, params: TrialParams) -> dict[str, float]:
        return {"vram": params.dropout / 0.2 - 1}


@pytest.fixture(scope="module")
def bench(few_tickets: Path, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """The base and the data, set up once for all pairs."""
    configs: list[Config] = []
    compose.main([*SHORT, f"data.path={few_tickets}", *SIZE, *SPACE], configs.append)
    return set_up(configs[0], Home(tmp_path_factory.mktemp("home")))


def landscape(bench: Workbench, split: Split, slots: list[int]) -> list[Scored]:
    """Best at a learning rate of 0.01 and without dropout; better from step to step, small steps more slowly."""
    found = []
    for slot in (bench.pack.slots[index] for index in slots):
        distance = abs(math.log10(slot.params.learning_rate / 1e-2))
        progress = (slot.examples_seen or 32) / 32
        accuracy = 0.9 * math.exp(-distance) * progress ** (0.3 + distance) - slot.params.dropout
        predictions = [Prediction(bench.task.labels[0])] * len(split.rows)
        found.append(Scored(Scores(max(accuracy, 0.0), 0.0, 0.02, 0.02), predictions))
    return found


@pytest.fixture
def prepared(prepare: Prepare, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    monkeypatch.setattr(session, "set_up", lambda *_: bench)
    monkeypatch.setattr(Workbench, "score", landscape)
    return lambda *overrides: prepare(*SIZE, *SPACE, f"search.trials={TRIALS}", *overrides)


@pytest.mark.parametrize(("sampler", "pruner"), PAIRS)
def test_twenty_trials(prepared: Prepare, home: Home, sampler: str, pruner: str) -> None:
    population = ["sampler.population_size=4"] if sampler == "nsgaii" else []
    paths = prepared(f"sampler={sampler}", f"pruner={pruner}", *population)
    tracker = MlflowTracker(home, "demo")
    assert Session(paths, tracker, lambda: False, LittleDropout()).run() == {"status": "finished"}
    seen = view(home, "demo")
    trials = seen.trials

    # Exactly the total, apart from what the forecast rejected; a grid has those among its configurations.
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert all(trial.is_told for trial in trials)
    assert sum(trial.counts for trial in trials) == TRIALS
    assert seen.rejections > 0

    # States: what became of a trial, as Optuna, MLflow and the disk have it.
    stored = {trial.number: trial for trial in optuna.load_study(study_name="demo", storage=home.optuna_url).trials}
    runs = tracker.states()
    for trial in trials:
        assert trial.state in ("COMPLETE", "PRUNED")
        assert (trial.state == "PRUNED") == (trial.reason is not None)
        assert stored[trial.number].state.name == ("COMPLETE" if sampler == "gp" else trial.state)
        assert runs[trial_key(trial.number)] is RUN_STATES[trial.state]
        assert paths.trial_config(trial.number).is_file()
        assert not paths.checkpoint(trial.number).exists()
        assert set(stored[trial.number].constraints) == {"vram"}
        assert trial.is_rejected == (trial.constraints["vram"] > 0)
        steps = list(stored[trial.number].intermediate_values)
        assert steps == list(range(1, len(steps) + 1))
        assert [point["examples"] for point in trial.curve] == [8.0 * step for step in steps]
        if trial.is_rejected:
            assert (trial.reason, steps, trial.duration_s) == ("infeasible", [], 0.0)
        else:
            assert len(steps) == 4 if trial.state == "COMPLETE" else 0 < len(steps) < 4
    kept = [trial.number for trial in ranked(trials) if trial.same_as is None][:3]
    assert sorted(kept) == [trial.number for trial in trials if paths.adapter(trial.number).is_dir()]
    best = next(iter(ranked(trials)), None)
    assert best is not None
    assert best.is_feasible
    assert seen.attributes["test"]["trial"] == best.number
    with sqlalchemy.create_engine(home.optuna_url).connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM sweeper_leases")) == 0
    # What is meant to prune does; here no trial gets worse, so patience has no end.
    assert any(trial.reason == "pruner" for trial in trials) == (pruner not in ("none", "patient"))
    assert sum(trial.is_informed for trial in trials) > 0 or sampler in ("random", "grid", "qmc")


def test_trials_of_three_batch_sizes_are_pruned_at_equal_examples(prepared: Prepare, home: Home) -> None:
    paths = prepared("+search.space.batch_size=[2,4,8]", "search.trials=24")
    assert Session(paths, MlflowTracker(home, "demo"), lambda: False).run() == {"status": "finished"}
    trials = view(home, "demo").trials
    for trial in trials:
        assert [point["examples"] for point in trial.curve] == [8.0, 16.0, 24.0, 32.0][: len(trial.evaluations)]
    pruned = {trial.params["batch_size"] for trial in trials if trial.reason == "pruner"}
    assert pruned == {trial.params["batch_size"] for trial in trials} == {2, 4, 8}


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.mark.parametrize(
    ("deterministic", "sampler", "pruner"),
    [
        (True, "tpe", "median"),
        (True, "random", "successive-halving"),
        pytest.param(True, "random", "hyperband", marks=ONLY_ALL),
        pytest.param(True, "qmc", "patient", marks=ONLY_ALL),
        pytest.param(True, "cmaes", "percentile", marks=ONLY_ALL),
        (False, "tpe", "median"),
    ],
)
def test_a_deterministic_study_is_the_same_however_it_was_interrupted(
    prepared: Prepare, home: Home, bench: Workbench, deterministic: bool, sampler: str, pruner: str
) -> None:
    """Trials of different batch size and length are ready in another order after each interruption."""
    settings = (
        f"search.deterministic={str(deterministic).lower()}",
        "search.trials=14",
        "+search.space.batch_size=[2,4,8]",
        f"sampler={sampler}",
        f"pruner={pruner}",
        *(["sampler.startup_trials=3"] if sampler in ("tpe", "gp") else []),
        *(["pruner.startup_trials=2"] if pruner in ("median", "percentile") else []),
        "engine.slots=3",
        "checkpoint.every_s=0.2",
    )

    def results(stops: Callable[[], Callable[[], bool]]) -> list[object]:
        """In a store of its own, under one name: hyperband draws its brackets from that."""
        shutil.rmtree(home.root)
        home.create()
        paths, tracker = prepared(*settings), MemoryTracker()
        is_finished = False
        while not is_finished:
            with contextlib.suppress(Killed):
                is_finished = Session(paths, tracker, stops(), LittleDropout()).run() == {"status": "finished"}
            for slot in list(bench.pack.slots):  # as a new process begins
                bench.pack.remove(slot)
        return [(t.number, t.state, t.reason, t.params, t.evaluations, t.value) for t in view(home, "demo").trials]

    whole = results(lambda: lambda: False)
    assert results(lambda: lambda: False) == whole
    if not deterministic:
        return  # the same where nothing interrupts it
    lengths = itertools.cycle([5, 11, 2, 17, 7, 3, 23])
    is_kill = itertools.cycle([True, False, False, True, True])

    def interrupted() -> Callable[[], bool]:
        questions, kills = iter([False] * next(lengths)), next(is_kill)

        def is_stopping() -> bool:
            if not next(questions, True):
                return False
            if kills:
                raise Killed
            return True

        return is_stopping

    assert results(interrupted) == whole


def test_what_a_tracker_that_was_away_never_had_comes_later(prepared: Prepare, home: Home) -> None:
    paths = prepared("sampler=random", "pruner=none", "search.trials=3")
    tracker = MemoryTracker()
    assert Session(paths, tracker, lambda: False).run() == {"status": "finished"}
    trials = view(home, "demo").trials
    run, names = tracker.runs[trial_key(1)], set(trials[1].curve[0]) - {"examples"}
    whole = {name: list(run.metrics[name]) for name in names}
    run.state = RunState.RUNNING  # as a worker leaves it that was killed behind the storage
    for name in names:
        del run.metrics[name][1:]
    with contextlib.closing(EventLog(paths.events)) as events:
        Recorder(paths, check.load(paths), tracker, events).reconcile(trials)
    assert run.state is RunState.FINISHED
    assert {name: run.metrics[name] for name in names} == whole
    assert len(whole["accuracy"]) == len(trials[1].curve) > 1
