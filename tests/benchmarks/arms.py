"""The processes that are timed: the peer's script, and `sweeper launch`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.report.reading import cost_of, studied
from tests.benchmarks.machine import ROOT, environment
from tests.benchmarks.prepared import Prepared

PEER = Path(__file__).with_name("peer.py")


@dataclass(frozen=True)
class Ran:
    """One process with all that it began."""

    wall_s: float
    cpu_s: float
    peak_rss_mib: float  # of the largest of them
    output: str

    @property
    def used(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if name != "output"}


def run(command: Sequence[str], log: Path, threads: int, **environ: str) -> Ran:
    """Runs a process to its end, and says what it took.

    Raises:
        RuntimeError: if it fails; the message has the end of what it said.
    """
    started = time.perf_counter()
    with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(threads, **environ)
        )
        _, status, usage = os.wait4(process.pid, 0)  # with those of its own children
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.with_suffix(".err").read_text(encoding="utf-8", errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    output = log.with_suffix(".out").read_text(encoding="utf-8")
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output)


def peer(task: Prepared, name: str, trials: int, threads: int, *flags: str, steps: int | None = None) -> dict[str, Any]:
    """A process of the peer's script; its Optuna study goes on over the processes of that name."""
    log = task.folder / f"peer-{name}"
    command = [
        *(sys.executable, str(PEER), "--model", task.base_folder, "--data", str(task.tokens)),
        *("--study", str(log.with_suffix(".db")), "--to", str(log), "--params", str(task.params)),
        *("--trials", str(trials), "--steps", str(steps or task.steps), "--batch-size", str(task.load.batch_size)),
        *("--pad", str(task.pad), "--dtype", task.dtype, "--threads", str(threads), *flags),
    ]
    ran = run(command, log, threads)
    # The Trainer prints a line of its own, in Python's quotes.
    found = [json.loads(line) for line in ran.output.splitlines() if line.startswith('{"number"')]
    return {**ran.used, "trials": found}


def launch(task: Prepared, name: str, threads: int, *overrides: str) -> dict[str, Any]:
    """A whole `sweeper launch`, of a study of that name."""
    log = task.folder / f"launch-{name}"
    sweeper = [sys.executable, "-m", "sweeper"]
    own = _last([*task.overrides, f"study.name={name}", f"engine.threads={threads}", *overrides])
    began = time.time()
    ran = run([*sweeper, "launch", *own], log, threads, SWEEPER_HOME=str(task.home.root))
    return {**ran.used, **parts(task, name, began)}


def parts(task: Prepared, name: str, began: float) -> dict[str, Any]:
    """Where the time of a launch went, by its ledger and its events.

    Args:
        began: when the command was given, in seconds since 1970.
    """
    seen, config = studied(task.home, name)
    cost = cost_of(task.home, seen, config)
    booked = {activity: bill.seconds for activity, bill in cost.by_activity().items()}
    lines = task.home.study(name).events.read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    at: dict[str, float] = {}
    for event in events:  # the first of each kind
        at.setdefault(event["event"], event["time"])
    search_s = max(event["time"] for event in events if event["event"] == "trial_ended") - at["baseline"]
    work_s = booked.get("train", 0.0) + booked.get("evaluate", 0.0)
    train_s = {one.number: one.train_s for one in cost.trials}
    trials = [
        {"number": one.number, "params": one.params, "state": one.state, "value": one.value}
        | {"train_s": train_s.get(one.number), "examples": one.examples_seen}
        for one in seen.trials
    ]
    return {
        "booked_s": booked,
        "setup_s": booked.get("preflight", 0.0) + booked.get("load", 0.0),
        "first_trial_s": at["trial_started"] - began,
        "search_s": search_s,  # from the untuned base's score to the end of the last trial
        "overhead_s": max(search_s - work_s, 0.0),  # what of that is neither training nor scoring
        "trained": sum(one.reason != "infeasible" for one in seen.trials),
        "best_value": max((one.value for one in seen.trials if one.value is not None), default=None),
        "trials": trials,
    }


def _last(overrides: Sequence[str]) -> list[str]:
    """Of several values for a key the last: Hydra refuses a group that is named twice."""
    return list({override.partition("=")[0]: override for override in overrides}.values())


def enqueued(configurations: Sequence[dict[str, Any]]) -> list[str]:
    """Overrides of a search that trains exactly these."""
    each = [
        "{" + ",".join(f"{name}:{value!r}" for name, value in configuration.items()) + "}"
        for configuration in configurations
    ]
    return [f"search.trials={len(each)}", f"search.enqueue=[{','.join(each)}]", "sampler=random"]
