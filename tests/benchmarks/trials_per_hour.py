"""Trials an hour, by sweeper and by the script that one would write without it, and where the difference comes from.

    make bench                                             # all of it, hours; the machine must have nothing else to do
    python -m tests.benchmarks.trials_per_hour --quick     # a minute, to see that it runs; the figures say nothing
    python -m tests.benchmarks.trials_per_hour --only steps,scoring --models tiny

Arms, in turn in each round, one thread each, the same rows, tokens and configurations:

    a     `peer.py`, a process for each trial
    b     `peer.py`, one process for several trials, the base loaded once; bg: with batches of like length
    k1    `sweeper launch` with one slot
    kN    `sweeper launch` with N slots

What is measured is written to a JSON file after each part; parts that are not run stay as they are in it.
`render.py` makes the table of `studies/benchmarks/README.md` from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sweeper.paths import Home, write_atomically
from tests.benchmarks import arms, factors, machine, prepared, render, starts
from tests.benchmarks.paired import mean_difference, ratio
from tests.benchmarks.prepared import Prepared

PARTS = ("trials", "factors", "steps", "scoring", "starts")
QUICK = {
    "models": ["tiny"],
    "slots": [1, 2],
    "rounds": 1,
    "other_rounds": 1,
    "trials": 2,
    "peer_trials": 1,
    "steps": 3,
    "rows": 12,
    "search_trials": 2,
    "search_seeds": 1,
    "quality_trials": 1,
    "quality_steps": 2,
    "repeats": 1,
}


def said(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure_arms(task: Prepared, options: argparse.Namespace, keep: Callable[[Any], None]) -> dict[str, Any]:
    """All arms, in turn, round by round; the order turns too. What is there is kept after each round."""
    configurations = prepared.configurations(options.trials)
    arms.peer(task, "warm-up", 1, options.threads, steps=2)
    arms.launch(task, "warm-up", options.threads, *arms.enqueued(configurations[:1]), "train.examples=8")
    found: dict[str, list[Any]] = {}
    so_far: dict[str, Any] = {}

    def of_slots(slots: int, index: int) -> Callable[[], Any]:
        own = [f"engine.slots={slots}", *arms.enqueued(configurations)]
        return lambda: arms.launch(task, f"k{slots}-{index}", options.threads, *own)

    for index in range(options.rounds):
        turn: list[tuple[str, Callable[[], Any]]] = [
            ("a", lambda: [arms.peer(task, "a", 1, options.threads) for _ in range(options.peer_trials)]),
            ("b", lambda: arms.peer(task, "b", options.peer_trials, options.threads)),
            ("bg", lambda: arms.peer(task, "bg", options.peer_trials, options.threads, "--group-by-length")),
        ]
        for slots in options.slots:
            if slots in (1, options.pack) or index < options.other_rounds:
                turn.append((f"k{slots}", of_slots(slots, index)))
        start = index % len(turn)
        for name, work in [*turn[start:], *turn[:start]]:
            said(f"{task.load.model}: round {index + 1} of {options.rounds}, arm {name}")
            found.setdefault(name, []).append(work())
        so_far = {"task": task.described(), "raw": found, **summary(found, task.steps)}
        keep(so_far)
    return so_far


def summary(raw: dict[str, list[Any]], steps: int) -> dict[str, Any]:
    """Medians of each arm, and its trials an hour against a and k1."""
    by_round = {name: [_seconds_per_trial(name, one) for one in rounds] for name, rounds in raw.items()}
    arms_found = {}
    for name, rounds in raw.items():
        each_s = by_round[name]
        own: dict[str, Any] = {
            "s_per_trial": statistics.median(each_s),
            "trials_per_hour": 3600 / statistics.median(each_s),
            **{f"against_{other}": _against(by_round, other, name) for other in ("a", "k1") if other in by_round},
        }
        own |= _of_launches(rounds, steps) if name.startswith("k") else _of_peer(name, rounds)
        arms_found[name] = own
    return {"arms": arms_found, "accuracy": {name: _accuracy(raw, name) for name in raw if name.startswith("k")}}


def _seconds_per_trial(name: str, one: Any) -> float:
    """Of a round of an arm: whole processes; of ours without the test split, which the peer does not score."""
    if name == "a":
        return statistics.fmean(process["wall_s"] for process in one)
    if name.startswith("b"):
        return float(one["wall_s"]) / len(one["trials"])
    return (float(one["wall_s"]) - one["booked_s"].get("test", 0.0)) / len(one["trials"])


def _against(by_round: dict[str, list[float]], other: str, name: str) -> dict[str, Any]:
    count = min(len(by_round[other]), len(by_round[name]))
    return ratio(by_round[other][:count], by_round[name][:count])


def _of_peer(name: str, rounds: list[Any]) -> dict[str, Any]:
    processes = [process for one in rounds for process in (one if name == "a" else [one])]
    trials = [trial for process in processes for trial in process["trials"]]
    parts = dict.fromkeys(part for trial in trials for part in trial["seconds"])
    return {
        # Of a trial; in arm b what only its first trial does is spread over all.
        "parts_s": {part: sum(one["seconds"].get(part, 0.0) for one in trials) / len(trials) for part in parts},
        "train_s": statistics.median(trial["seconds"]["train"] for trial in trials),
        "step_s": statistics.fmean(step for trial in trials for step in trial["steps_s"]),
        "cpu_s_per_trial": sum(process["cpu_s"] for process in processes) / len(trials),
        "peak_rss_mib": max(process["peak_rss_mib"] for process in processes),
        "measured_trials": len(trials),
    }


def _of_launches(rounds: list[Any], steps: int) -> dict[str, Any]:
    def median(value: Callable[[Any], float]) -> float:
        return statistics.median(value(one) for one in rounds)

    activities = dict.fromkeys(name for one in rounds for name in one["booked_s"])
    return {
        "s_per_trial_with_test": median(lambda one: one["wall_s"] / len(one["trials"])),
        "s_per_trial_search": median(lambda one: one["search_s"] / len(one["trials"])),
        "booked_s": {name: median(lambda one, name=name: one["booked_s"].get(name, 0.0)) for name in activities},
        "train_s": median(lambda one: one["booked_s"]["train"] / one["trained"]),
        "step_s": median(lambda one: one["booked_s"]["train"] / one["trained"] / steps),  # each slot's share of one
        "setup_s": median(lambda one: one["setup_s"]),
        "first_trial_s": median(lambda one: one["first_trial_s"]),
        "overhead_share": median(lambda one: one["overhead_s"] / one["search_s"]),
        "overhead_s_per_trial": median(lambda one: one["overhead_s"] / len(one["trials"])),
        "cpu_s_per_trial": median(lambda one: one["cpu_s"] / len(one["trials"])),
        "peak_rss_mib": max(one["peak_rss_mib"] for one in rounds),
        "measured_trials": sum(len(one["trials"]) for one in rounds),
    }


def _accuracy(raw: dict[str, list[Any]], name: str) -> dict[str, Any]:
    """Ours less the peer's, over the configurations that both have trained."""
    return accuracy_difference(raw[name], [process for one in raw.get("a", []) for process in one])


def accuracy_difference(launches: Sequence[Any], processes: Sequence[Any]) -> dict[str, Any]:
    ours = _values((trial["params"], trial["value"]) for one in launches for trial in one["trials"])
    theirs = _values((trial["params"], trial["accuracy"]) for one in processes for trial in one["trials"])
    both = [key for key in theirs if key in ours]
    return mean_difference(
        [statistics.fmean(ours[key]) for key in both], [statistics.fmean(theirs[key]) for key in both]
    )


def _values(pairs: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for params, value in pairs:
        if value is not None:
            found.setdefault(json.dumps(params, sort_keys=True), []).append(value)
    return found


def in_a_process(module: str, task: Prepared, options: argparse.Namespace) -> Any:
    """What a module measures by itself, in a fresh process with the environment of all others."""
    to = task.folder / f"{module}.json"
    words = ["--model", task.load.model, "--dtype", task.dtype, "--home", str(task.home.root), "--to", str(to)]
    words += ["--rounds", str(options.rounds), "--threads", str(options.threads), "--folder", str(task.folder)]
    words += ["--quick"] if options.quick else []
    said(f"{task.load.model}: {module}")
    ran = arms.run([sys.executable, "-m", f"tests.benchmarks.{module}", *words], task.folder / module, options.threads)
    return {**json.loads(to.read_text(encoding="utf-8")), "process": ran.used}


def measure(model: str, folder: Path, options: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """All parts of one model; each is kept as soon as it is there."""
    load, home = prepared.LOADS[model], Home(folder / "home")
    if (why := prepared.is_here(load, home)) is not None:
        said(f"{model}: skipped, {why}")
        keep("skipped", why)
        return
    count = max(options.trials, options.peer_trials)
    made = {"steps": options.steps, "rows": options.rows or load.rows, "trials": count, "dtype": options.dtype}
    task = prepared.prepare(load, folder / "task", home, **made)
    work: dict[str, Callable[[], Any]] = {
        "trials": lambda: measure_arms(task, options, lambda found: keep("trials", found)),
        "factors": lambda: factors.measure(task, options),
        "steps": lambda: in_a_process("steps", task, options),
        "scoring": lambda: in_a_process("scoring", task, options),
        "starts": lambda: starts.measure(task, options),
    }
    for part in options.only:
        keep(part, work[part]())


def rounded(found: Any) -> Any:
    """With six digits of each figure: no clock here has more to say."""
    if isinstance(found, dict):
        return {str(key): rounded(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [rounded(value) for value in found]
    return float(f"{found:.6g}") if isinstance(found, float) else found


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    numbers = {"nargs": "+", "type": int}
    parser.add_argument("--models", nargs="+", default=list(prepared.LOADS), choices=list(prepared.LOADS))
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--other-rounds", type=int, default=2, help="of slots other than 1 and --pack")
    parser.add_argument("--slots", default=[1, 2, 4, 8, 16], **numbers)  # type: ignore[arg-type]
    parser.add_argument("--pack", type=int, default=8, help="the slots that targets are told for")
    parser.add_argument("--trials", type=int, default=24, help="of each launch")
    parser.add_argument("--peer-trials", type=int, default=2, help="of arms a and b in each round")
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps of a trial")
    parser.add_argument("--rows", type=int, help="validation rows of an evaluation, in place of the load's")
    parser.add_argument("--search-trials", type=int, default=16)
    parser.add_argument("--search-seeds", type=int, help="in place of the load's")
    parser.add_argument("--quality-trials", type=int, default=6)
    parser.add_argument("--quality-steps", type=int, help="in place of the load's")
    parser.add_argument("--repeats", type=int, default=5, help="of starts")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--to", type=Path, default=render.RESULTS)
    parser.add_argument("--readme", type=Path, default=render.README, help="whose table is written")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; the figures say nothing")
    options = parser.parse_args(words)
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.quick:
        given = parser.parse_args([]).__dict__
        vars(options).update({key: value for key, value in QUICK.items() if getattr(options, key) == given[key]})
        if options.to == render.RESULTS:
            parser.error("--quick must not write over the results: name another file with --to, and --readme")
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.to.read_text(encoding="utf-8")) if options.to.is_file() else {"models": {}}
    head = machine.described(options.threads)
    settings = {key: value for key, value in vars(options).items() if key not in ("to", "readme", "only", "models")}

    for model in options.models:
        of_model = results["models"].setdefault(model, {})

        def keep(part: str, found: Any, of_model: dict[str, Any] = of_model) -> None:
            if part != "skipped":
                of_model.pop("skipped", None)
                found = {**found, "commit": head["commit"], "date": head["date"], "options": settings}
            of_model[part] = found
            results.update(head)
            write_atomically(options.to, json.dumps(rounded(results), indent=1) + "\n")

        with tempfile.TemporaryDirectory(prefix="sweeper-bench-") as folder:
            measure(model, Path(folder), options, keep)
    render.write(rounded(results), options.readme)


if __name__ == "__main__":
    main()
