"""A worker's session in this process: the real base, real data, a real Optuna store, runs in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest
import sqlalchemy
import torch
import yaml
from safetensors.torch import load_file

from sweeper.config import check
from sweeper.engine import checkpoint
from sweeper.engine.pack import Pack
from sweeper.engine.stack import AdapterStack
from sweeper.errors import DataError, TrackingError
from sweeper.models import base
from sweeper.money.account import account
from sweeper.money.booking import Whose
from sweeper.money.ledger import Ledger
from sweeper.paths import Home, StudyPaths
from sweeper.preflight.forecast import VRAM
from sweeper.search.leases import Holder
from sweeper.search.storage import open_storage
from sweeper.search.study import Search
from sweeper.search.views import StudyView, view
from sweeper.tracking.tracker import BASELINE, STUDY, RunKey, RunState
from sweeper.trial import RunKind, TrialParams
from sweeper.units import GIB
from sweeper.worker import trials as in_flight
from sweeper.worker.recorder import RUN_STATES, trial_key
from sweeper.worker.session import Session
from tests.engine.test_architectures import Coupled
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare


class StopAfter:
    """Asks to stop from the n-th question on."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def run(paths: StudyPaths, tracker: MemoryTracker, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    return Session(paths, tracker, stop).run()


def assert_stores_agree(seen: StudyView, tracker: MemoryTracker) -> None:
    states = tracker.states()
    for trial in seen.trials:
        assert states[trial_key(trial.number)] is RUN_STATES[trial.state]
        assert tracker.runs[trial_key(trial.number)].tags["sweeper.state"] == trial.state


def test_a_study_from_start_to_end(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("search.trials=5", "store.keep_adapters=2", "pruner.startup_trials=2"), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert len(seen.trials) == 5
    assert set(seen.counts()) <= {"COMPLETE", "PRUNED"}
    assert_stores_agree(seen, tracker)
    assert tracker.states()[STUDY] is RunState.FINISHED
    assert tracker.states()[BASELINE] is RunState.FINISHED

    complete = sorted((t for t in seen.trials if t.value is not None), key=lambda t: (-(t.value or 0), t.number))
    for trial in complete:
        evaluations = [value for _, value in tracker.runs[trial_key(trial.number)].metrics["accuracy"]]
        assert trial.value == max(evaluations)
        steps = [step for step, _ in tracker.runs[trial_key(trial.number)].metrics["accuracy"]]
        assert steps == [16, 32]
    # The disk keeps the best two adapters, and so do the runs; no checkpoint is left.
    kept = {trial.number for trial in complete[:2]}
    assert {t.number for t in seen.trials if paths.adapter(t.number).is_dir()} == kept
    assert {t.number for t in seen.trials if "adapter" in tracker.runs[trial_key(t.number)].files} == kept
    assert list(paths.root.glob("trials/*/checkpoint*")) == []
    test = seen.attributes["test"]
    assert test["trial"] == complete[0].number
    assert test["rows"] == 36
    assert test["looks"] == 1
    assert test["scored"] == sorted({test["trial"], *([test["runner_up"]["trial"]] if test["runner_up"] else [])})
    params = tracker.runs[trial_key(0)].params
    assert set(params) == {"rank", "alpha_ratio", "learning_rate"}
    assert tracker.runs[trial_key(0)].files[""] == ["config.yaml"]
    composed = yaml.safe_load(paths.trial_config(0).read_text())
    assert composed["lora"]["rank"] == params["rank"]
    assert composed["lora"]["alpha"] == seen.trials[0].params["rank"] * seen.trials[0].params["alpha_ratio"]
    assert composed["train"]["learning_rate"] == params["learning_rate"]
    assert composed["search"]["space"] == {name: [value] for name, value in params.items()}
    # What each trial took is on its run; on the study's all until the session's end, but for logging that itself.
    bill = account(Ledger(open_storage(home).engine), seen)
    for trial in seen.trials:
        own = bill.of_run(Whose(RunKind.TRIAL, trial.number)).seconds
        assert tracker.runs[trial_key(trial.number)].metrics["cost/device_s"][-1][1] == pytest.approx(own)
    assert 0.8 * bill.seconds < tracker.runs[STUDY].metrics["cost/device_s"][-1][1] <= bill.seconds
    assert {"cost.json", "cost.csv", "cost.png"} <= set(tracker.runs[STUDY].files[""])
    assert tracker.runs[trial_key(0)].tags["sweeper.price"].startswith("none (gpu.billing=on-demand needs")


def test_an_interrupted_study_gives_what_an_uninterrupted_one_gives(prepare: Prepare, home: Home) -> None:
    whole, tracker = prepare("study.name=whole", "train.examples=64"), MemoryTracker()
    run(whole, tracker)
    parts, tracker = prepare("study.name=parts", "train.examples=64"), MemoryTracker()
    assert run(parts, tracker, StopAfter(7)) == {"status": "stopped"}
    seen = view(home, "parts")
    assert seen.counts()["WAITING"] == 2
    assert_stores_agree(seen, tracker)
    assert tracker.states()[STUDY] is RunState.KILLED
    slot, _ = checkpoint.load(parts.checkpoint(0))
    assert 0 < slot.step < slot.rhythm.total_steps
    assert run(parts, tracker) == {"status": "finished"}

    def results(name: str) -> list[Any]:
        return [(t.number, t.state, t.params, t.value, t.evaluations) for t in view(home, name).trials[:2]]

    assert results("parts") == results("whole")
    assert_stores_agree(view(home, "parts"), tracker)


def test_a_trial_that_diverges_is_pruned_with_its_reason(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit = Pack.admit

    def admit_broken(pack: Pack, slot: Any, state: Any) -> None:
        if slot.number == 1 and slot.step == 0:
            state.tensors["weight"] = {k: torch.full_like(v, float("inf")) for k, v in state.tensors["weight"].items()}
        admit(pack, slot, state)

    monkeypatch.setattr(Pack, "admit", admit_broken)
    paths, tracker = prepare(), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert [(t.state, t.reason) for t in seen.trials] == [
        ("COMPLETE", None),
        ("PRUNED", "diverged"),
        ("COMPLETE", None),
    ]
    assert tracker.runs[trial_key(1)].tags["sweeper.reason"] == "diverged"
    assert_stores_agree(seen, tracker)


def test_a_defect_loses_nothing_and_cannot_loop_for_ever(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, tracker = prepare("search.trials=2"), MemoryTracker()
    with monkeypatch.context() as patched:
        patched.setattr(Pack, "tick", lambda _: 1 / 0)
        for _ in range(3):
            outcome = run(paths, tracker)
            assert (outcome["status"], outcome["kind"]) == ("error", "ZeroDivisionError")
            assert "ZeroDivisionError" in outcome["trace"]
            assert view(home, "demo").counts() == {"WAITING": 2}
            assert_stores_agree(view(home, "demo"), tracker)
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    # The second trial was in flight at the first crash alone: after it, each goes on by itself.
    assert [(trial.state, trial.reason) for trial in seen.trials] == [("FAIL", "defect"), ("COMPLETE", None)]
    assert "in flight at 3 crashes of the worker" in (seen.trials[0].detail or "")
    assert_stores_agree(seen, tracker)


def test_runs_catch_up_with_trials_that_were_told_before_a_kill(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("search.trials=2"), MemoryTracker()
    run(paths, tracker)
    ended = tracker.runs[trial_key(1)]
    ended.state = RunState.RUNNING  # as if killed between Optuna and MLflow
    logged = {name: ended.metrics.pop(name) for name in ("best_value", "duration_s")}
    took = ended.metrics.pop("cost/device_s")[-1]
    paths.checkpoint(1).write_bytes(b"left over")
    assert run(paths, tracker) == {"status": "finished"}
    assert_stores_agree(view(home, "demo"), tracker)
    assert not paths.checkpoint(1).exists()
    assert {name: ended.metrics[name] for name in logged} == logged
    assert ended.metrics["cost/device_s"] == [took]


def test_orphans_of_a_kill_agree_even_if_the_next_session_ends_while_loading(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare(), MemoryTracker()

    class Killed(BaseException):
        """Nothing catches it, as nothing catches a kill."""

    questions = StopAfter(5)

    def kill() -> bool:
        if questions():
            raise Killed
        return False

    with pytest.raises(Killed):
        run(paths, tracker, kill)
    assert view(home, "demo").counts() == {"RUNNING": 2}
    assert run(paths, tracker, lambda: True) == {"status": "stopped"}
    assert view(home, "demo").counts() == {"WAITING": 2}
    assert_stores_agree(view(home, "demo"), tracker)
    assert tracker.states()[STUDY] is RunState.KILLED
    assert run(paths, tracker) == {"status": "finished"}
    assert len(view(home, "demo").trials) == 3


def test_an_unknown_module_is_found_before_any_weights_are_loaded(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "load_base", None)
    outcome = run(prepare("+search.space.target_modules=[attention,bogus]"), MemoryTracker())
    assert outcome["kind"] == "ModelError"
    assert "unknown module `bogus`. Known: all-linear, attention, down_proj" in outcome["message"]
    assert "baseline" not in view(home, "demo").attributes


def test_a_damaged_checkpoint_costs_the_trial_its_progress_and_no_more(prepare: Prepare, home: Home) -> None:
    whole = prepare("study.name=whole", "search.trials=2")
    run(whole, MemoryTracker())
    paths, tracker = prepare("search.trials=2"), MemoryTracker()
    run(paths, tracker, StopAfter(7))
    file = paths.checkpoint(0)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert run(paths, tracker) == {"status": "finished"}
    events = [json.loads(line) for line in paths.events.read_text().splitlines()]
    assert [event["number"] for event in events if event["event"] == "checkpoint_damaged"] == [0]
    assert [event["step"] for event in events if event["event"] == "trial_started" and event["number"] == 0] == [0, 0]
    assert [t.evaluations for t in view(home, "demo").trials] == [t.evaluations for t in view(home, "whole").trials]


def test_checkpoints_keep_to_their_place_on_the_disk(prepare: Prepare, home: Home) -> None:
    """Room for one of two: the other trial goes on without, and that is said."""
    paths, tracker = prepare("search.trials=2", "search.space.rank=[8]", "checkpoint.max_gib=0.003"), MemoryTracker()
    assert run(paths, tracker, StopAfter(7)) == {"status": "stopped"}
    assert 0 < paths.checkpoints_bytes() < 0.003 * GIB
    events = [json.loads(line) for line in paths.events.read_text().splitlines()]
    skipped = [event for event in events if event["event"] == "checkpoint_skipped"]
    assert len({event["number"] for event in skipped}) == 1
    assert "must fit into checkpoint.max_gib" in skipped[0]["message"]
    assert run(paths, tracker) == {"status": "finished"}
    assert view(home, "demo").counts() == {"COMPLETE": 2}


def test_longer_trials_are_evaluated_at_the_same_examples_and_more_often(prepare: Prepare, home: Home) -> None:
    lengths = ("train.examples=null", "train.epochs=0.5", "+search.space.epochs=[0.25,0.5]", "pruner=none")
    paths, tracker = prepare("search.trials=4", *lengths), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    trials = view(home, "demo").trials
    assert {trial.params["epochs"] for trial in trials} == {0.25, 0.5}
    for trial in trials:
        steps = [step for step, _ in tracker.runs[trial_key(trial.number)].metrics["accuracy"]]
        assert steps == ([24] if trial.params["epochs"] == 0.25 else [24, 48])
        composed = yaml.safe_load(paths.trial_config(trial.number).read_text())
        assert composed["evaluation"]["count"] == len(steps)
        assert composed["train"]["epochs"] == trial.params["epochs"]


def test_checkpointed_layers_change_nothing(prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    recomputed: list[str] = []
    run_layer = AdapterStack._run

    def counted(stack: AdapterStack, *arguments: Any) -> Any:
        recomputed.append(name)
        return run_layer(stack, *arguments)

    monkeypatch.setattr(AdapterStack, "_run", counted)
    for name in ("false", "true"):
        run(prepare(f"study.name=is-{name}", f"engine.gradient_checkpointing={name}"), MemoryTracker())
    one, other = (view(home, f"is-{name}").trials for name in ("false", "true"))
    assert [trial.evaluations for trial in one] == [trial.evaluations for trial in other]
    assert set(recomputed) == {"true"}


def test_a_sweep_learns_on_this_device(prepare: Prepare, home: Home, device: torch.device) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not in the bundle of make gpu-bundle: it is too large")
    size = ("train.examples=320", "evaluation.rows=120", "data=tickets", "search.trials=4", "search.space.rank=[16,32]")
    rates = "search.space.learning_rate={low:1.0e-3,high:4.0e-3,log:true}"
    run(prepare(*size, rates, "engine.slots=4", f"engine.device={device.type}"), MemoryTracker())
    seen = view(home, "demo")
    assert sum(seen.counts().values()) == 4
    assert seen.best is not None
    assert (seen.best.value or 0) > seen.attributes["baseline"]["accuracy"] + 0.1


def test_more_evaluations_than_examples_are_refused(prepare: Prepare, home: Home) -> None:
    outcome = run(prepare("train.examples=null", "train.epochs=0.1", "evaluation.count=11"), MemoryTracker())
    assert outcome["kind"] == "ConfigError"
    assert "got 11 for train.epochs=0.1 of 96 rows" in outcome["message"]


def test_a_base_that_cannot_be_packed_is_refused_before_anything_is_measured(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_base = base.load_base

    def coupled(*arguments: Any) -> Any:
        model = load_base(*arguments)
        model.model.layers[0].mlp = Coupled(model.model.layers[0].mlp)
        return model

    monkeypatch.setattr(base, "load_base", coupled)
    outcome = run(prepare(), MemoryTracker())
    assert outcome["kind"] == "ModelError"
    assert "a row must not depend on its neighbours" in outcome["message"]
    assert "baseline" not in view(home, "demo").attributes


def test_what_a_killed_writer_left_is_deleted(prepare: Prepare, home: Home) -> None:
    paths = prepare("search.trials=1")
    half = paths.checkpoint(0).with_name(".checkpoint.safetensors.tmp")
    half.mkdir(parents=True)
    (half / ".tmpXYZ").write_bytes(b"half")
    assert paths.checkpoints_bytes() == 4
    assert run(paths, MemoryTracker()) == {"status": "finished"}
    assert not half.exists()


def test_only_layers_that_a_trial_may_target_are_wrapped(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    tick = Pack.tick

    def looked_at(pack: Pack) -> Any:
        seen.append({name.rpartition(".")[2] for name in pack.stack.modules})
        return tick(pack)

    monkeypatch.setattr(Pack, "tick", looked_at)
    run(prepare("search.trials=1", "+search.space.target_modules=[attention,down_proj]"), MemoryTracker())
    assert seen[0] == {"q_proj", "k_proj", "v_proj", "o_proj", "down_proj"}


def test_a_set_of_modules_is_searched_by_its_name(prepare: Prepare, home: Home) -> None:
    sets = "+lora.module_sets={late:'.*[.]1[.].*_proj',qv:[q_proj,v_proj]}"
    run(
        paths := prepare(
            "search.trials=2",
            sets,
            "sampler=grid",
            "~search.space.alpha_ratio",
            "search.space.rank=[8]",
            "~search.space.learning_rate",
            "+search.space.target_modules=[late,qv]",
        ),
        MemoryTracker(),
    )
    trained = {}
    for trial in view(home, "demo").trials:
        tensors = load_file(paths.adapter(trial.number) / "adapter_model.safetensors")
        trained[trial.params["target_modules"]] = {name.split(".lora_")[0].split("layers.")[1] for name in tensors}
    assert {name.split(".")[0] for name in trained["late"]} == {"1"}
    assert {name.rpartition(".")[2] for name in trained["qv"]} == {"q_proj", "v_proj"}
    assert len(trained["late"]) == 7


def test_more_adapters_may_be_kept_later(prepare: Prepare, home: Home) -> None:
    tracker = MemoryTracker()
    run(prepare("store.keep_adapters=1", "pruner=none"), tracker)
    paths = prepare("store.keep_adapters=3", "search.trials=5", "pruner=none")
    assert run(paths, tracker) == {"status": "finished"}
    assert 2 <= sum(paths.adapter(number).is_dir() for number in range(5)) <= 3


def test_a_suspect_goes_on_alone(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, tracker = prepare("search.trials=2"), MemoryTracker()
    with monkeypatch.context() as patched:
        patched.setattr(Pack, "tick", lambda _: 1 / 0)
        run(paths, tracker)
    sizes = []
    tick = Pack.tick

    def counted(pack: Pack) -> Any:
        sizes.append(len(pack.slots))
        return tick(pack)

    monkeypatch.setattr(Pack, "tick", counted)
    assert run(paths, tracker) == {"status": "finished"}
    assert set(sizes) == {1}


def test_more_trials_score_the_test_split_again_only_for_a_new_winner(prepare: Prepare, home: Home) -> None:
    tracker = MemoryTracker()
    assert run(prepare("search.trials=1"), tracker) == {"status": "finished"}
    before = view(home, "demo")
    assert run(prepare("search.trials=2"), tracker) == {"status": "finished"}
    after = view(home, "demo")
    assert after.trials[0] == before.trials[0]
    assert after.best is not None
    assert after.attributes["test"]["looks"] == (1 if after.best.number == 0 else 2)


def test_the_last_value_can_be_the_objective(prepare: Prepare, home: Home) -> None:
    run(prepare("search.trials=2", "objective.value=last", "objective.metric=macro_f1"), MemoryTracker())
    for trial in view(home, "demo").trials:
        assert trial.value == trial.evaluations[-1] == trial.metrics["macro_f1"]


def test_an_error_in_the_data_is_ours_and_has_no_trace(prepare: Prepare, tmp_path: Any) -> None:
    paths = prepare(f"data.path={tmp_path / 'nowhere'}")
    outcome = run(paths, MemoryTracker())
    assert outcome["kind"] == DataError.__name__
    assert outcome["trace"] is None
    json.dumps(outcome)


def test_a_configuration_that_comes_again_is_answered_without_training(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: set[int] = set()
    tick = Pack.tick

    def counted(pack: Pack) -> Any:
        trained.update(slot.number for slot in pack.slots)
        return tick(pack)

    monkeypatch.setattr(Pack, "tick", counted)
    few = ("search.space.rank=[4,8]", "search.space.alpha_ratio=[1.0]", "~search.space.learning_rate")
    paths, tracker = prepare("search.trials=8", "engine.slots=1", *few), MemoryTracker()
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert len(seen.trials) == 8
    assert len(trained) == 2  # one of each rank
    for trial in seen.trials:
        assert (trial.same_as is None) == (trial.number in trained)
        if trial.same_as is None:
            continue
        assert trial.same_as in trained
        earlier = seen.trials[trial.same_as]
        assert (trial.value, trial.curve, trial.duration_s) == (earlier.value, earlier.curve, 0.0)
        run_of = tracker.runs[trial_key(trial.number)]
        assert run_of.tags["sweeper.same_as"] == str(trial.same_as)
        assert run_of.metrics["accuracy"] == tracker.runs[trial_key(trial.same_as)].metrics["accuracy"]
    assert_stores_agree(seen, tracker)
    assert seen.best is not None
    assert seen.best.number in trained

    trained.clear()
    run(prepare("study.name=again", "search.trials=4", "search.duplicates=train", *few), MemoryTracker())
    assert len(trained) == 4


def test_starts_are_trained_first(prepare: Prepare, home: Home) -> None:
    tracker = MemoryTracker()
    starts, ranks = (
        "search.enqueue=[{rank:32,alpha_ratio:1.0,learning_rate:0.003},{rank:4}]",
        "search.space.rank=[4,32]",
    )
    assert run(prepare("search.trials=4", starts, ranks), tracker) == {"status": "finished"}
    trials = view(home, "demo").trials
    assert trials[0].params == {"rank": 32, "alpha_ratio": 1.0, "learning_rate": 0.003}
    assert trials[1].params["rank"] == 4
    assert [trial.start for trial in trials] == ["enqueue[0]", "enqueue[1]", None, None]
    assert tracker.runs[trial_key(0)].tags["sweeper.start"] == "enqueue[0]"

    few = ("search.trials=3", "search.warm_start=demo", "search.warm_start_trials=2", ranks)
    assert run(prepare("study.name=warm", *few), MemoryTracker()) == {"status": "finished"}
    best = view(home, "demo").best
    assert best is not None
    first = view(home, "warm").trials[0]
    assert first.params == best.params
    assert first.start is not None
    assert first.start.startswith("demo, trial ")


def test_a_trial_that_another_worker_has_taken_is_let_go_and_its_end_awaited(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a pause of the whole process: the lease has expired, another worker has it and tells the trial."""
    monkeypatch.setattr(in_flight, "POLL_S", 0.01)
    paths, tracker = prepare("search.trials=2", "search.lease_s=600"), MemoryTracker()
    other = Search(home, check.load(paths), (VRAM,), holder=replace(Holder.this_process(), host="elsewhere"))
    questions = 0

    def steal() -> bool:
        nonlocal questions
        questions += 1
        if questions == 5:  # both are in flight
            with sqlalchemy.create_engine(home.optuna_url).begin() as connection:
                connection.execute(sqlalchemy.text("DELETE FROM sweeper_leases WHERE trial_id = 1"))
            asked = other.ask()
            assert asked is not None
            assert asked.number == 0
        if questions == 40:
            other.complete(0, 0.99, {"metrics": {"accuracy": 0.99, "accuracy_se": 0.0}}, {VRAM: -0.5})
        return False

    session_of = Session(paths, tracker, steal)
    monkeypatch.setattr(session_of.teller, "finish", lambda _: None)  # the winner's adapter is with the other worker
    assert session_of.run() == {"status": "finished"}
    trials = view(home, "demo").trials
    assert [(trial.state, trial.value == 0.99) for trial in trials] == [("COMPLETE", True), ("COMPLETE", False)]
    events = [json.loads(line) for line in paths.events.read_text().splitlines()]
    assert [event["number"] for event in events if event["event"] == "lease_lost"] == [0]
    assert questions > 40
    notes = [event["message"] for event in events if event["event"] == "note"]
    assert len(notes) == 1
    assert "silent for search.lease_s=600 s go on here" in notes[0]


def test_something_that_goes_wrong_after_a_trial_was_told_does_not_ask_it_again(
    prepare: Prepare, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, tracker = prepare("search.trials=2"), MemoryTracker()
    with monkeypatch.context() as patched:
        patched.setattr(optuna.samplers.TPESampler, "after_trial", lambda *_: 1 / 0)  # Optuna tells it all the same
        assert run(paths, tracker)["kind"] == "ZeroDivisionError"
    before = view(home, "demo").trials
    assert [trial.state for trial in before] == ["COMPLETE", "WAITING"]
    assert run(paths, tracker) == {"status": "finished"}
    assert view(home, "demo").trials[0] == before[0]
    assert_stores_agree(view(home, "demo"), tracker)


def test_a_study_whose_space_does_not_fit_says_so(prepare: Prepare, home: Home) -> None:
    class NothingFits:
        keys = ("vram",)

        def __call__(self, params: TrialParams) -> dict[str, float]:
            return {"vram": 0.5}

    paths = prepare("search.max_rejections=5")
    outcome = Session(paths, MemoryTracker(), lambda: False, NothingFits()).run()
    assert outcome["kind"] == "ConfigError"
    assert "at most 5 asks may be infeasible, but 6 were, and 0 trials trained" in outcome["message"]
    seen = view(home, "demo")
    assert (seen.counts(), seen.rejections) == ({"PRUNED": 6}, 6)
    assert seen.trials[0].detail == "not trained: vram is +0.5 above its limit"


class Elsewhere(MemoryTracker):
    """Another place for runs."""

    @property
    def place(self) -> str:
        return "elsewhere"


def test_a_study_that_goes_on_elsewhere_has_all_its_runs_there(prepare: Prepare, home: Home) -> None:
    before = MemoryTracker()
    assert run(prepare("search.trials=2"), before) == {"status": "finished"}
    tracker = Elsewhere()
    assert run(prepare("search.trials=3"), tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert_stores_agree(seen, tracker)
    assert set(tracker.runs) == {STUDY, BASELINE, *(trial_key(number) for number in range(3))}
    for number in (0, 1):
        old, new = before.runs[trial_key(number)], tracker.runs[trial_key(number)]
        assert (new.name, new.params) == (old.name, old.params)
        for name in ("accuracy", "macro_f1_se", "constraint/vram", "best_value", "duration_s"):
            assert new.metrics.get(name) == old.metrics.get(name), name
        assert "train/loss" not in new.metrics
        assert new.metrics["cost/device_s"][-1] == old.metrics["cost/device_s"][-1]
    assert tracker.runs[BASELINE].metrics["accuracy"] == before.runs[BASELINE].metrics["accuracy"]
    best = seen.best
    assert best is not None
    assert "test/accuracy" in tracker.runs[trial_key(best.number)].metrics
    kept = [number for number in range(3) if "adapter" in tracker.runs[trial_key(number)].files]
    assert kept == [number for number in range(3) if home.study("demo").adapter(number).is_dir()]


class HalfThere(Elsewhere):
    """A server that fails while the study is moved to it, just after it got the run of trial 0."""

    has_failed = False

    def end(self, key: RunKey, state: RunState, tags: dict[str, str]) -> None:
        if key == trial_key(0) and not self.has_failed:
            self.has_failed = True
            raise TrackingError("a tracking server must be reachable, but it is not")
        super().end(key, state, tags)


def test_a_move_that_was_interrupted_is_made_whole(prepare: Prepare, home: Home) -> None:
    before, tracker = MemoryTracker(), HalfThere()
    paths = prepare("search.trials=2")
    assert run(paths, before, StopAfter(9)) == {"status": "stopped"}
    evaluated = [trial.number for trial in view(home, "demo").trials if trial.curve]
    assert run(paths, before) == {"status": "finished"}
    assert evaluated == [0, 1]
    assert run(prepare("search.trials=3"), tracker)["kind"] == "TrackingError"
    assert run(prepare("search.trials=3"), tracker) == {"status": "finished"}
    assert_stores_agree(view(home, "demo"), tracker)
    assert tracker.states()[BASELINE] is RunState.FINISHED
    for number in (0, 1):
        old, new = (one.runs[trial_key(number)].metrics["accuracy"] for one in (before, tracker))
        assert sorted(set(new)) == old


class Failing(MemoryTracker):
    """A server that does not answer from the n-th flush on."""

    left = 3

    def flush(self) -> bool:
        self._answer(1)
        return True

    def states(self) -> dict[RunKey, RunState]:
        self._answer(0)
        return super().states()

    def _answer(self, counts: int) -> None:
        self.left -= counts
        if self.left < 0:
            raise TrackingError("a tracking server must be reachable, but it is not")


def test_a_tracking_server_that_fails_costs_no_trial(prepare: Prepare, home: Home) -> None:
    paths, tracker = prepare("checkpoint.every_s=0.01"), Failing()
    outcome = run(paths, tracker)
    assert (outcome["status"], outcome["kind"], outcome["trace"]) == ("error", "TrackingError", None)
    trials = view(home, "demo").trials
    assert {trial.state for trial in trials} == {"WAITING"}
    tracker.left = 1000
    assert run(paths, tracker) == {"status": "finished"}
    seen = view(home, "demo")
    assert seen.counts() == {"COMPLETE": 3}
    assert_stores_agree(seen, tracker)
    assert all("crashes" not in trial.user_attrs for trial in optuna.load_study(
        study_name="demo", storage=home.optuna_url).trials)  # fmt: skip
