"""Optuna, MLflow and the disk say the same of a trial, in every way that one can end, wait or run.

The table is what is promised; each way is brought about in a real study, with real stores.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from mlflow import MlflowClient

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot, Tick
from sweeper.errors import OutOfRoomError
from sweeper.paths import Home, StudyPaths
from sweeper.search.ended import Ended
from sweeper.search.views import TOLD, view
from sweeper.tasks.classification import Scores
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import RunState
from sweeper.trial import Prediction, Reason, TrialParams
from sweeper.worker import session
from sweeper.worker.recorder import RUN_STATES
from sweeper.worker.session import Session
from sweeper.worker.spending import Spending
from sweeper.worker.trials import Trials
from sweeper.worker.workbench import Scored, Split, Workbench, set_up
from tests.conftest import SHORT
from tests.worker.conftest import Prepare

CONFIG, CHECKPOINT, ADAPTER = "config.yaml", "checkpoint.safetensors", "adapter"
PREDICTIONS, TESTED, READINGS = "predictions.jsonl", "predictions-test.jsonl", "memory.json"


@dataclass(frozen=True)
class Way:
    """What is promised of a trial that ends in one way.

    Attributes:
        run: the state of its run in MLflow; None: it has none.
        files: in its folder.
    """

    optuna: str
    run: str | None
    reason: str | None
    files: tuple[str, ...]


PRUNED = "PRUNED", "KILLED"
WAYS = {
    "complete": Way("COMPLETE", "FINISHED", None, (ADAPTER, CONFIG, PREDICTIONS, TESTED)),
    "pruned by the pruner": Way(*PRUNED, "pruner", (CONFIG, PREDICTIONS)),
    "infeasible by its forecast": Way(*PRUNED, "infeasible", (CONFIG,)),
    "infeasible once it trained": Way(*PRUNED, "infeasible", (CONFIG, READINGS)),
    "diverged": Way(*PRUNED, "diverged", (CONFIG,)),
    "wrecked the base": Way(*PRUNED, "wrecked", (CONFIG, PREDICTIONS)),
    "the same as another": Way("COMPLETE", "FINISHED", None, (CONFIG,)),
    "evicted, then resumed": Way("COMPLETE", "FINISHED", None, (ADAPTER, CONFIG, PREDICTIONS, TESTED)),
    "interrupted": Way("WAITING", "SCHEDULED", None, (CHECKPOINT, CONFIG)),
    "killed": Way("RUNNING", "RUNNING", None, (CHECKPOINT, CONFIG)),
    "killed, then reconciled": Way("WAITING", "SCHEDULED", None, (CHECKPOINT, CONFIG)),
    "killed, then resumed": Way("COMPLETE", "FINISHED", None, (ADAPTER, CONFIG, PREDICTIONS, TESTED)),
    "its run deleted in MLflow": Way("COMPLETE", None, None, (ADAPTER, CONFIG, PREDICTIONS, TESTED)),
    "a defect": Way("FAIL", "FAILED", "defect", (CONFIG,)),
    "too dear to begin": Way("WAITING", "SCHEDULED", None, (CONFIG,)),
}
SEEN: set[str] = set()  # the ways that the tests of this module have brought about
SIZE = ("train.examples=32", "train.batch_size=8", "evaluation.count=2", "evaluation.rows=12", "engine.slots=1")
FIXED = ("~search.space.alpha_ratio", "search.space.rank=[2,4,8]")
RATE = "search.space.learning_rate={low:1.0e-3,high:3.0e-1,log:true}"


@pytest.fixture(scope="module")
def bench(few_tickets: Path, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    configs: list[Config] = []
    compose.main([*SHORT, f"data.path={few_tickets}", *SIZE, *FIXED, RATE], configs.append)
    return set_up(configs[0], Home(tmp_path_factory.mktemp("home")))


def worse_and_worse(bench: Workbench, split: Split, slots: list[int]) -> list[Scored]:
    """The later a trial, the lower its score."""
    found = []
    for slot in (bench.pack.slots[index] for index in slots):
        predictions = [Prediction(bench.task.labels[0])] * len(split.rows)
        found.append(Scored(Scores(0.9 - 0.1 * max(slot.number, 0), 0.0, 0.02, 0.02), predictions))
    return found


@pytest.fixture
def study(
    prepare: Prepare, bench: Workbench, home: Home, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., StudyPaths]:
    """Prepares a study that queues configurations of these ranks and learning rates."""
    shutil.copy(migrated, home.root)

    def as_in_a_new_process(*_: Any) -> Workbench:
        bench.pack.slots = []
        bench.pack.stack.clear()
        return bench

    monkeypatch.setattr(session, "set_up", as_in_a_new_process)
    monkeypatch.setattr(Workbench, "score", worse_and_worse)

    def write(starts: list[tuple[int, float]], *overrides: str) -> StudyPaths:
        queue = ",".join(f"{{rank:{rank},learning_rate:{rate}}}" for rank, rate in starts)
        return prepare(*SIZE, *FIXED, RATE, f"search.enqueue=[{queue}]", f"search.trials={len(starts)}", *overrides)

    return write


def agrees(way: str, paths: StudyPaths, number: int) -> None:
    """Holds what the three say of a trial to what is promised of its way."""
    promised = WAYS[way]
    stored = optuna.load_study(study_name="demo", storage=paths.home.optuna_url).trials[number]
    seen = view(paths.home, "demo").trials[number]
    client = MlflowClient(tracking_uri=paths.home.mlflow_url)
    experiment = client.get_experiment_by_name("demo").experiment_id
    runs = client.search_runs([experiment], f"tags.`sweeper.trial` = '{number}'")
    assert (stored.state.name, seen.reason, stored.user_attrs.get("reason")) == (
        promised.optuna,
        promised.reason,
        promised.reason,
    )
    assert sorted(file.name for file in paths.trial(number).iterdir()) == sorted(promised.files), way
    if promised.run is None:
        assert runs == []
    else:
        [run] = runs
        assert run.info.status == promised.run
        assert run.data.tags["sweeper.state"] == promised.optuna
        assert run.data.tags.get("sweeper.reason") == promised.reason
        assert (run.info.end_time is not None) == seen.is_told
        assert (run.data.metrics.get("best_value")) == seen.value
        assert run.data.params == {name: str(value) for name, value in seen.params.items()}  # the searched ones
        assert run.data.tags.get("sweeper.detail", "")[:30] == (seen.detail or "")[:30]
        folder = paths.home.artifacts / "demo" / run.info.run_id / "artifacts" / ADAPTER
        assert folder.is_dir() == (ADAPTER in promised.files)
    SEEN.add(way)


class Picky:
    """A forecast that lets no trial of rank 4 in."""

    keys = ("vram",)

    def __call__(self, params: TrialParams) -> dict[str, float]:
        return {"vram": 0.5 if params.rank == 4 else -0.5}


def run(paths: StudyPaths, is_stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    return Session(paths, MlflowTracker(paths.home, "demo"), is_stopping, Picky()).run()


def stops_after(ticks: int) -> Callable[[], bool]:
    """Asked between ticks."""
    asked = [0]

    def is_stopping() -> bool:
        asked[0] += 1
        return asked[0] > ticks

    return is_stopping


def test_the_ways_of_one_search(study: Callable[..., StudyPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    admit, tick = Pack.admit, Pack.tick

    def admit_broken(pack: Pack, slot: Slot, state: Any) -> None:
        if slot.number == 3:
            state.tensors["weight"] = {k: torch.full_like(v, float("inf")) for k, v in state.tensors["weight"].items()}
        admit(pack, slot, state)

    def tick_that_may_not_fit(pack: Pack) -> list[Tick]:
        if any(slot.number == 6 for slot in pack.slots):
            raise OutOfRoomError("one row must fit")
        return tick(pack)

    monkeypatch.setattr(Pack, "admit", admit_broken)
    monkeypatch.setattr(Pack, "tick", tick_that_may_not_fit)
    monkeypatch.setattr(Trials, "_why_wrecked", lambda _, slot: "it lost it all" if slot.number == 4 else None)
    starts = [(8, 1e-2), (8, 2e-2), (4, 1e-2), (8, 4e-2), (2, 1e-2), (8, 1e-2), (2, 2e-2)]
    paths = study(starts, "pruner.warmup_evaluations=0", "pruner.startup_trials=1")
    numbers = {
        "complete": 0,
        "pruned by the pruner": 1,
        "infeasible by its forecast": 2,
        "diverged": 3,
        "wrecked the base": 4,
        "the same as another": 5,
        "infeasible once it trained": 6,
    }
    with monkeypatch.context() as patched:  # the pruner would be first
        report = session.Search.report
        patched.setattr(
            session.Search,
            "report",
            lambda self, number, curve, may_prune: report(self, number, curve, may_prune and number != 4),
        )
        assert run(paths) == {"status": "finished"}
    for way, number in numbers.items():
        agrees(way, paths, number)


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def test_the_ways_of_an_interruption(study: Callable[..., StudyPaths], home: Home) -> None:
    paths = study([(8, 1e-2), (8, 1.1e-2)], "checkpoint.every_s=0.001", "pruner=none", "evaluation.count=1")
    assert run(paths, stops_after(6)) == {"status": "stopped"}
    agrees("interrupted", paths, 0)

    def kills() -> Callable[[], bool]:
        is_stopping = stops_after(6)

        def kill() -> bool:
            if is_stopping():
                raise Killed
            return False

        return kill

    with pytest.raises(Killed):
        run(paths, kills())
    agrees("killed", paths, 0)
    assert run(paths, lambda: True) == {"status": "stopped"}
    agrees("killed, then reconciled", paths, 0)
    assert run(paths, stops_after(18)) in ({"status": "stopped"}, {"status": "finished"})

    client = MlflowClient(tracking_uri=home.mlflow_url)
    experiment = client.get_experiment_by_name("demo").experiment_id
    [second] = client.search_runs([experiment], "tags.`sweeper.trial` = '1'")
    client.delete_run(second.info.run_id)
    assert run(paths) == {"status": "finished"}
    agrees("killed, then resumed", paths, 0)
    agrees("its run deleted in MLflow", paths, 1)


def test_the_way_of_an_eviction(study: Callable[..., StudyPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, tick = [0], Pack.tick

    def fail_together(pack: Pack) -> list[Tick]:
        ticks[0] += 1
        if len(pack.slots) == 2 and ticks[0] >= 3:
            raise OutOfRoomError("one row must fit")
        return tick(pack)

    monkeypatch.setattr(Pack, "tick", fail_together)
    paths = study([(8, 1e-2), (8, 1.1e-2)], "engine.slots=2", "pruner=none")
    assert run(paths) == {"status": "finished"}
    assert view(paths.home, "demo").attributes["memory"]["evictions"] == 1
    agrees("evicted, then resumed", paths, 1)


def test_the_way_of_a_defect(study: Callable[..., StudyPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = study([(8, 1e-2)])
    with monkeypatch.context() as patched:
        patched.setattr(Pack, "tick", lambda _: 1 / 0)
        for _ in range(3):
            assert run(paths)["kind"] == "ZeroDivisionError"
    assert run(paths) == {"status": "finished"}
    agrees("a defect", paths, 0)


def test_the_way_of_what_is_too_dear(study: Callable[..., StudyPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = study([(8, 1e-2), (8, 1.1e-2)])

    def refusal(_: Spending, asked: Any, *__: Any) -> Ended | None:
        return Ended("budget.usd", "it is too dear") if asked is not None and asked.number == 1 else None

    monkeypatch.setattr(Spending, "refusal", refusal)
    monkeypatch.setattr(Spending, "end", lambda *_: None)
    assert run(paths)["status"] == "finished"
    agrees("too dear to begin", paths, 1)


def test_the_table_has_every_way(request: pytest.FixtureRequest) -> None:
    """After the tests above: each row was brought about, and no state or reason is missing."""
    assert {way.optuna for way in WAYS.values()} == {state.name for state in TOLD} | {"RUNNING", "WAITING"}
    assert {way.optuna: way.run for way in WAYS.values() if way.run} == {
        name: state.value for name, state in RUN_STATES.items()
    }
    assert {way.run for way in WAYS.values()} - {None} == {state.value for state in RunState}
    assert {way.reason for way in WAYS.values()} - {None} == {reason.value for reason in Reason}
    collected = {item.name for item in request.session.items if item.path == Path(__file__)}
    if {name for name in globals() if name.startswith("test_")} <= collected:  # all of them have run
        assert set(WAYS) - SEEN == set()
