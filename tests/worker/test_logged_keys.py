"""The table of metrics in `sweeper.tracking.tracker` is true: what it names is logged, and what is logged it names."""

from __future__ import annotations

import re

import pytest

from sweeper.config.teaching import METRICS
from sweeper.exporting.formats import FORMATS
from sweeper.money.bill import Label
from sweeper.paths import Home
from sweeper.search.views import StudyView, examples_of, view
from sweeper.tracking import tracker as table
from sweeper.tracking.tracker import BASELINE, STUDY
from sweeper.trial import RunKind
from sweeper.worker.recorder import trial_key
from sweeper.worker.session import Session
from tests.memory_tracker import MemoryTracker
from tests.worker.conftest import Prepare

# What a study as short as the one below does not log; the tests of what it is about do.
ELSEWHERE = {
    *("throughput/packing_gain", "throughput/packing_gain_predicted"),  # of engine.slots=auto
    *("train/loss_scale", "cost/usd_energy", "cost/device_s_LABEL", "cost/one_process_each_factor", "system/NAME"),
    *(f"learning_curve/twice_{name}" for name in ("gain", "low", "high")),
    *(f"retention/{name}" for name in ("accuracy", "perplexity", "drop", "drop_se", "noise_floor")),
    *(f"retention/full_{name}" for name in ("accuracy", "perplexity", "drop", "drop_se")),
    *(f"inference/{name}" for name in ("best_batch", "requests_per_s", "requests_per_s_batch1", "tokens_per_s")),
    *(f"inference/{name}" for name in ("latency_ms_batch1", "usd_per_1000", "usd_per_month_rented")),
    "inference/usd_per_month_busy",
    *(f"export/FORMAT/{name}" for name in ("METRIC", "difference", "moved", "retention_drop")),
}
METRIC = "|".join({name for names in METRICS.values() for name in names})
FORMATS_OF_EXPORTS = "|".join(FORMATS)
LABELS = "|".join(label.value.replace("-", "_") for label in Label)


def documented() -> dict[str, re.Pattern[str]]:
    """The keys of the table, and what each stands for."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \|$", table.__doc__ or "", re.MULTILINE)
    keys = [key for row in rows[1:] for key in row.split(", ")]
    patterns = {}
    for key in keys:
        text = re.escape(key).replace("METRIC", f"(?:{METRIC})").replace("LABEL", f"(?:{LABELS})")
        text = text.replace("FORMAT", f"(?:{FORMATS_OF_EXPORTS})")
        patterns[key] = re.compile(text.replace("NAME", r"[a-z_]+"))
    return patterns


@pytest.fixture
def logged(prepare: Prepare, home: Home) -> MemoryTracker:
    tracker = MemoryTracker()
    few = ("search.trials=2", "confirmation.top=1", "confirmation.seeds=2", "confirmation.share=0.5")
    paths = prepare(*few, "evaluation.rows=18", "gpu=rtx-4090")
    assert Session(paths, tracker, lambda: False).run() == {"status": "finished"}
    return tracker


def test_the_table_is_what_is_logged_and_all_of_it_on_one_axis(logged: MemoryTracker, home: Home) -> None:
    keys = {name for run in logged.runs.values() for name in run.metrics}
    patterns = documented()
    assert {key for key in keys if not any(pattern.fullmatch(key) for pattern in patterns.values())} == set()
    silent = {name for name, pattern in patterns.items() if not any(pattern.fullmatch(key) for key in keys)}
    assert silent <= ELSEWHERE <= set(patterns)

    seen = view(home, "demo")
    examples = {trial_key(trial.number): trial.examples_seen for trial in seen.trials}
    ends = {**examples, BASELINE: 0, STUDY: examples_of(seen.trials)}
    assert ends[STUDY] == 64
    for key, run in logged.runs.items():
        steps = [step for points in run.metrics.values() for step, _ in points]
        assert steps, key
        assert max(steps) == ends.get(key, 32), key
        if key.kind is RunKind.TRIAL:
            assert {step for step, _ in run.metrics["train/loss"]} == {8, 16, 24, 32}
            assert {step for step, _ in run.metrics["throughput/tokens_per_s"]} == {8, 16, 24, 32}

    says_the_rest(logged, seen)


def says_the_rest(logged: MemoryTracker, seen: StudyView) -> None:
    """What runs have beside their series: summaries, tags, rows."""
    for trial in seen.trials:
        run = logged.runs[trial_key(trial.number)]
        assert run.params == trial.params
        last = {name: points[-1][1] for name, points in run.metrics.items()}
        assert last["best_value"] == trial.value
        assert last["last_value"] == trial.evaluations[-1]
        assert last["evaluations"] == 2
        assert last["vram/peak_gib_max"] == max(value for _, value in run.metrics["vram/peak_gib"])
        seconds = sum(value for _, value in run.metrics["throughput/step_s"])
        assert last["throughput/tokens_per_s_mean"] == pytest.approx(last["train/tokens"] / seconds, rel=0.01)
        assert last["throughput/pack_tokens_per_s"] > last["throughput/tokens_per_s"] > 0
        assert last["throughput/pack_size_mean"] == last["throughput/pack_size"] == 2
        assert run.tags["sweeper.pack_size"] == "2, at most 2"
        assert run.tags["sweeper.seed"] == "0"
        for name in ("device", "device_gib", "threads", "versions", "data_sha256", "sampler", "pruner", "worker"):
            assert run.tags[f"sweeper.{name}"], name
        assert [used.context for used in run.datasets] == ["training", "validation"]
        assert "mlflow.user" not in run.tags
    used = {used.context: used.rows for used in logged.runs[STUDY].datasets}
    assert used == {"training": 96, "validation": 18, "confirmation": 18, "test": 36}
    assert [used.context for used in logged.runs[BASELINE].datasets] == ["validation", "confirmation", "test"]
    assert len({used.sha256 for used in logged.runs[STUDY].datasets}) == 4
