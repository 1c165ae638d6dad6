"""The whole story in real processes: launch, look, export, use; then interruptions and kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeper.launching.question import INTERRUPTED
from sweeper.paths import Home
from sweeper.search.views import view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import RunState
from sweeper.worker.recorder import RUN_STATES
from tests.conftest import SHORT

PLAIN = Path(__file__).parents[1] / "plain_score.py"


def start(home: Home, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sweeper", *arguments],
        env={**os.environ, "SWEEPER_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sweeper(home: Home, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments],
        env={**os.environ, "SWEEPER_HOME": str(home.root)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=200,
    )


def json_of(home: Home, *arguments: str) -> Any:
    done = sweeper(home, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def has_event(home: Home, pattern: str) -> Callable[[], bool]:
    file = home.study("demo").events
    return lambda: file.is_file() and re.search(pattern, file.read_text(encoding="utf-8")) is not None


def test_launch_look_export_use(home: Home, few_tickets: Path, tmp_path: Path) -> None:
    path = f"data.path={few_tickets}"
    # Long enough to learn something, or the export would be compared at chance level.
    done = sweeper(home, "launch", *SHORT, path, "train.examples=480", "search.space.rank=[32]",
                   "search.space.learning_rate={low:0.003,high:0.004,log:true}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "untuned base: validation accuracy" in done.stdout
    assert "look at the runs: " in done.stdout
    is_of_use = sweeper(home, "best", "demo").returncode == 0  # or an export would be refused
    assert ("sweeper export demo --to DIR" in done.stdout) == is_of_use

    status = json_of(home, "status", "demo")
    assert (status["study"], status["direction"], status["total"]) == ("demo", "maximize", 3)
    assert sum(status["counts"].values()) == 3
    for trial in status["trials"]:
        assert {"number", "state", "params", "value", "metrics", "duration_s", "reason"} <= set(trial)
        assert trial["state"] in ("COMPLETE", "PRUNED")
        assert trial["duration_s"] > 0
    best = json_of(home, "best", "demo", "--force")
    assert best["number"] == status["best"]
    winner = ("--trial", str(best["number"]))  # asked for by its number, whatever it is worth
    assert best["value"] == max(trial["value"] for trial in status["trials"] if trial["value"] is not None)
    assert best["test"]["winner"]["accuracy"] > 0.2  # chance is 0.08
    assert "Test accuracy over 36 rows: winner" in sweeper(home, "best", "demo").stdout
    assert "complete" in sweeper(home, "status", "demo").stdout

    # MLflow says the same.
    states = MlflowTracker(home, "demo").states()
    assert {t["number"]: RUN_STATES[t["state"]] for t in status["trials"]} == {
        key.number: state for key, state in states.items() if key.number is not None
    }

    folder = tmp_path / "exported"
    done = sweeper(home, "export", "demo", "--to", str(folder), *winner)
    assert done.returncode == 0, done.stderr
    again = sweeper(home, "export", "demo", "--to", str(folder), *winner)
    assert again.returncode == 2
    assert "--force replaces it" in again.stderr
    assert sweeper(home, "export", "demo", "--to", str(folder), "--force").returncode == 0
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []

    # What its user would run: transformers, peft and bitsandbytes alone.
    test = few_tickets / "test.jsonl"
    plain = subprocess.run([sys.executable, str(PLAIN), str(folder), str(test)], capture_output=True, text=True)
    assert plain.returncode == 0, plain.stderr
    assert float(plain.stdout) == pytest.approx(best["test"]["winner"]["accuracy"], abs=1e-9)

    # `predict` gives the same again, from JSONL.
    done = sweeper(home, "predict", str(folder), stdin=test.read_text())
    predicted = [json.loads(line) for line in done.stdout.splitlines()]
    right = sum(row["prediction"] == row["label"] for row in predicted) / len(predicted)
    assert right == pytest.approx(best["test"]["winner"]["accuracy"], abs=1e-9)
    labels = {row["label"] for row in predicted}
    assert sweeper(home, "predict", str(folder), predicted[0]["text"]).stdout.strip() == predicted[0]["prediction"]
    assert len(labels) > 2

    # An export that has changed since is refused.
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    changed = sweeper(home, "predict", str(folder), "text")
    assert (changed.returncode, "changed: adapter_model.safetensors" in changed.stderr) == (2, True)
    nowhere = sweeper(home, "export", "demo", "--to", "/proc/x", *winner)
    assert (nowhere.returncode, "must be one that can be written" in nowhere.stderr) == (2, True)

    # A finished study is finished: the same command says so at once, another setting is refused.
    finished = sweeper(home, "launch", *SHORT, path, "train.examples=480", "search.space.rank=[32]",
                       "search.space.learning_rate={low:0.003,high:0.004,log:true}")  # fmt: skip
    assert finished.returncode == 0
    assert "started" not in finished.stdout
    assert "demo is complete already: 3 complete" in finished.stdout
    other = sweeper(home, "launch", *SHORT, path)
    assert other.returncode == 2
    assert "train.examples: was 480, is 32" in other.stderr
    assert "study.name=NEW starts another" in other.stderr


def test_a_launch_that_measured_nothing_binds_nobody(home: Home, few_tickets: Path) -> None:
    launch = ["launch", *SHORT, f"data.path={few_tickets}", "search.trials=1"]
    failed = sweeper(home, *launch, "train.examples=null", "train.epochs=0.01", "on_finish='echo $SWEEPER_OUTCOME'")
    assert failed.returncode == 2
    assert "evaluation.count: at most as many evaluations fit" in failed.stderr
    assert home.study("demo").on_finish_log.read_text().endswith("error\n")
    assert "no trials yet" in sweeper(home, "status", "demo").stdout
    assert sweeper(home, *launch).returncode == 0


def test_what_may_change_when_a_study_goes_on(home: Home, few_tickets: Path) -> None:
    launch = ["launch", *SHORT, f"data.path={few_tickets}"]
    assert sweeper(home, *launch, "search.trials=1").returncode == 0
    refused = sweeper(home, *launch, "search.trials=2", "lora.dropout=0.1", "search.seed=5", "memory.budget_gib=3")
    assert refused.returncode == 2
    for line in ("lora.dropout: was 0.0, is 0.1", "search.seed: was 0, is 5", "memory.budget_gib: was None, is 3"):
        assert f"  - {line}" in refused.stderr
    assert "search.trials" not in refused.stderr
    assert len(view(home, "demo").trials) == 1

    live = ["search.trials=2", "store.keep_adapters=1", "optimizer.state=host", "gpu.price_usd_per_hour=0.4"]
    done = sweeper(home, *launch, *live)
    assert done.returncode == 0, done.stderr
    assert "note: search.trials: was 1, is 2" in done.stdout
    assert "note: optimizer.state: was 'device', is 'host'" in done.stdout
    paths = home.study("demo")
    kept = [number for number in (0, 1) if paths.adapter(number).is_dir()]
    assert (len(view(home, "demo").trials), len(kept)) == (2, 1)  # the edits hold

    # Who browses MLflow sees what was changed, and under what each trial ran.
    client = MlflowClient(tracking_uri=home.mlflow_url)
    experiment = client.get_experiment_by_name("demo")
    runs = {run.data.tags["mlflow.runName"]: run for run in client.search_runs([experiment.experiment_id])}
    changes = runs["demo"].data.tags["sweeper.changes"]
    assert "after 1 trials: " in changes
    assert "search.trials 1 → 2" in changes
    assert "gpu.price_usd_per_hour None → 0.4" in changes
    artifacts = home.artifacts / "demo" / runs["demo"].info.run_id / "artifacts"
    assert (artifacts / "changes.yaml").read_text() == paths.changes.read_text()
    for name, run in runs.items():
        if name.startswith("t0"):
            assert re.search(r"sweeper [\d.]+, torch \S+, .*optuna", run.data.tags["sweeper.versions"])
            assert "sweeper.versions_changed" not in run.data.tags


def test_interruptions_and_kills_lose_nothing(home: Home, few_tickets: Path) -> None:
    launch = ["launch", *SHORT, f"data.path={few_tickets}", "train.examples=480", "checkpoint.every_s=0.2"]
    # Ctrl-C: the trials in flight are checkpointed and wait.
    first = start(home, *launch)
    wait_for(has_event(home, '"event": "tick".*"step": 3'))
    second = sweeper(home, *launch)
    assert second.returncode == 2
    assert f"held by process {first.pid}" in second.stderr
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == INTERRUPTED, err
    assert "stopping: the trials in flight are checkpointed" in err
    assert "the same command again" in out
    assert view(home, "demo").counts() == {"WAITING": 2}
    assert home.study("demo").checkpoint(0).is_file()

    # The launcher is killed: its worker notices, checkpoints and ends.
    first = start(home, *launch)
    events = home.study("demo").events
    seen = events.stat().st_size
    wait_for(lambda: '"event": "tick"' in events.read_text(encoding="utf-8")[seen:])
    first.kill()
    first.communicate(timeout=60)
    wait_for(lambda: view(home, "demo").counts() == {"WAITING": 2})

    # The worker is killed, and not to be started again: the launcher says so.
    first = start(home, *launch, "cluster.restarts=0")
    seen = events.stat().st_size
    wait_for(lambda: '"event": "tick"' in events.read_text(encoding="utf-8")[seen:])
    worker = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(worker[0]), signal.SIGKILL)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 2
    assert "worker 0 died and left none" in err
    assert view(home, "demo").counts() == {"RUNNING": 2}

    tracked = {key.number: state for key, state in MlflowTracker(home, "demo").states().items()}
    assert [tracked[number] for number in (0, 1)] == [RunState.RUNNING] * 2  # as Optuna has it

    # The same command again brings the study to its end, each trial under its own number, killed once more or not.
    first = start(home, *launch)
    seen = events.stat().st_size
    wait_for(lambda: '"event": "tick"' in events.read_text(encoding="utf-8")[seen:])
    worker = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(worker[0]), signal.SIGKILL)
    out, err = first.communicate(timeout=200)
    assert first.returncode == 0, err
    assert f"note: worker 0 (process {worker[0]}) ended with code -9, and is started again (1 of 3)" in out
    status = json_of(home, "status", "demo")
    assert [trial["number"] for trial in status["trials"]] == [0, 1, 2]
    tracked = {key.number: state for key, state in MlflowTracker(home, "demo").states().items()}
    assert all(tracked[trial["number"]] is RUN_STATES[trial["state"]] for trial in status["trials"])
    assert set(status["counts"]) <= {"COMPLETE", "PRUNED"}
    started = re.findall(r'"number": (\d), "name": "[^"]*", "step": (\d+)', events.read_text(encoding="utf-8"))
    steps = [int(step) for number, step in started if number == "0"]
    assert steps[0] == 0
    assert steps[-1] > 0  # went on, did not begin again


def test_a_second_interruption_ends_at_once(home: Home, few_tickets: Path) -> None:
    first = start(home, "launch", *SHORT, f"data.path={few_tickets}", "train.examples=20000")
    wait_for(has_event(home, '"event": "tick"'))
    worker = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
    assert "--early" in Path(f"/proc/{worker[0]}/cmdline").read_text()  # it was started while the rows were looked at
    os.kill(int(worker[0]), signal.SIGSTOP)  # a worker that does not react
    first.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=10)
    assert first.returncode == INTERRUPTED
    assert not Path(f"/proc/{worker[0]}").exists()


def test_a_moved_store_opens_whole(home: Home, few_tickets: Path, tmp_path: Path) -> None:
    done = sweeper(home, "launch", *SHORT, f"data.path={few_tickets}", "search.trials=1")
    assert done.returncode == 0, done.stderr
    moved = Home(tmp_path / "elsewhere" / "store")
    moved.root.parent.mkdir()
    home.root.rename(moved.root)
    assert json_of(moved, "best", "demo", "--force")["number"] == 0  # it has learned next to nothing
    rerun = json_of(moved, "rerun", "demo", "--trial", "0")
    assert rerun["again"] == rerun["recorded"]
    assert len(rerun["again"]) == 2
    assert sweeper(moved, "export", "demo", "--to", str(tmp_path / "out"), "--force").returncode == 0
    assert sweeper(moved, "predict", str(tmp_path / "out"), "my parcel is late").returncode == 0
    assert len(MlflowTracker(moved, "demo").states()) == 3
