from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sweeper.paths import Home
from tests.benchmarks import arms, machine, peer, prepared, render, trials_per_hour
from tests.benchmarks.paired import mean_difference, ratio

HEAD = {
    "machine": {"cpu": "a CPU", "cores": 2, "instructions": ["avx2"], "memory_gib": 8.0},
    "versions": {"sweeper": "0.1.0"},
    "commit": "0123456789",
    "has_uncommitted_changes": False,
    "command": "make bench",
    "date": "2026-01-01T00:00:00+00:00",
    "threads": 1,
}


def a_ratio(value: float, low: float | None = None) -> dict[str, float]:
    return {"ratio": value, "low": value if low is None else low, "high": value}


def cell(slots: int, tokens: int, gain: float, low: float) -> dict[str, Any]:
    return {
        "slots": slots,
        "tokens": tokens,
        "median_s": 0.1,
        "gain": a_ratio(gain, low),
        "base_gemm_share": 0.5,
    }


def lines_of(models: dict[str, Any]) -> dict[str, str]:
    text = render.rendered({**HEAD, "models": models})
    return {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}


def test_every_aim_has_a_row_though_nothing_was_measured() -> None:
    lines = lines_of({})
    assert len({aim.name for aim in render.AIMS}) == len(render.AIMS)
    for aim in render.AIMS:
        assert "not measured" in lines[aim.name]


@pytest.mark.parametrize(("value", "said"), [(8.1, "target"), (4.0, "floor"), (3.9, "**missed**")])
def test_a_missed_floor_is_shown(value: float, said: str) -> None:
    aim = render.AIMS[0]
    lines = lines_of({"tiny": {"skipped": "only the table"}})
    assert lines[aim.name].endswith("| – |")
    shown = render.row(aim, {"tiny": {"trials": {"arms": {"k8": {"against_a": a_ratio(value)}}}}})
    assert f"| {value:.2f}× " in shown
    assert shown.endswith(f"| 4× | 8× | {said} |")


@pytest.mark.parametrize(("value", "said"), [(0.02, "target"), (0.1, "floor"), (0.2, "**missed**")])
def test_of_a_share_less_is_better(value: float, said: str) -> None:
    [aim] = [aim for aim in render.AIMS if aim.path == ("steps", "tax", "tax") and aim.model == "tiny"]
    assert render.row(aim, {"tiny": {"steps": {"tax": {"tax": value}}}}).endswith(f"| 10.0 % | 3.0 % | {said} |")


def test_of_long_steps_the_worst_low_end_counts() -> None:
    cells = [cell(1, 512, 1.0, 1.0), cell(8, 512, 1.1, 0.98), cell(2, 1024, 1.0, 0.9), cell(8, 32, 3.0, 0.5)]
    model = {"steps": {"grid": {"cells": cells}}}
    [aim] = [aim for aim in render.AIMS if aim.path == ("worst",) and aim.model == "tiny"]
    assert render.row(aim, {"tiny": model}).split(" | ")[1].startswith("0.90×")
    [aim] = [aim for aim in render.AIMS if aim.path[0] == "gain"]
    assert render.found(aim, {"smollm2-135m": model})["ratio"] == 3.0


def a_model() -> dict[str, Any]:
    """What a run leaves of a base, with each part once."""
    both, times = {"mean": 0.01, "standard_error": None, "pairs": 1}, {"first": 4.0, "second": 2.0}
    arm = {"trials_per_hour": 600.0, "s_per_trial": 6.0, "cpu_s_per_trial": 5.0, "peak_rss_mib": 700.0, "step_s": 0.05}
    of_peer = {**arm, "parts_s": {"imports": 3.0, "base": 1.0, "train": 2.0}}
    of_launch = {**arm, "booked_s": {"train": 4.0}, "train_s": 2.0, "setup_s": 9.0, "first_trial_s": 9.5}
    of_launch |= {"s_per_trial_with_test": 6.5, "s_per_trial_search": 3.0, "overhead_share": 0.02}
    of_launch |= {"against_a": a_ratio(5.0, 4.5), "against_k1": a_ratio(1.5)}
    task = {"steps": 50, "batch_size": 4, "tokens_per_step": 169.4, "dtype": "float32", "evaluation_rows": 120}
    trainer = {"batch_size": 4, "tokens_per_step": 170.0, "ours_s": 0.05, "trainer_s": 0.06, **a_ratio(1.2)}
    cells = [cell(1, 32, 1.0, 1.0), cell(8, 32, 2.0, 1.9), cell(1, 512, 1.0, 1.0), cell(8, 512, 1.1, 1.05)]
    arms_found = {"a": of_peer, "b": of_peer, "bg": of_peer, "k1": of_launch, "k8": of_launch}
    parts: dict[str, dict[str, Any]] = {
        "trials": {"task": {**task, "prompt": "as it is"}, "arms": arms_found},
        "factors": {
            "pruning": {"factor": 1.3, "pruned_share": 0.25},
            "search": {"packed_less_alone": both},
            "quality": {"ours_less_peer": {"8": {"mean": None, "pairs": 0}}, "steps": 150, "batch_size": 16},
        },
        "steps": {
            "grid": {"cells": cells, "gemm_gflops": 100.0},
            "tax": {"tax": 0.02},
            "trainer": [trainer, {**trainer, "batch_size": 16}],
        },
        "scoring": {
            "packed": {"adapters": 8, "rows": 600, "together_s": 9.0, "alone_s": 10.0, **a_ratio(1.1)},
            "generate": {"rows": 600, "trie_s": 1.0, "generate_s": 2.0, **a_ratio(2.0)},
        },
        "starts": {
            "load_base": a_ratio(2.0),
            "setup": a_ratio(2.0),
            **dict.fromkeys(("load_base_s", "setup_s", "first_trial_s"), times),
        },
    }
    at = {"date": "2026-01-02T00:00:00+00:00"}
    return {name: {**part, "commit": f"{name:0<9}", **at} for name, part in parts.items()}


def test_every_part_is_in_the_table() -> None:
    text = render.rendered({**HEAD, "models": {"tiny": a_model(), "smollm2-135m": a_model()}})
    for aim in render.AIMS:
        assert f"\n| {aim.name} | " in text
    assert "not measured |" not in text.partition("###")[0]
    for line in (
        "| k8 | 600 | 6.00 | 5.00 | 0.0500 | 5.00× | 1.50× | 9.0 | 700 |",
        "| packing: training of k1 against k8 | 1.00× |",
        "| pruning: none against median (25.0 % pruned) | 1.30× |",
        "| best value in a pack less that of one slot | +0.010 (1 pairs) |",
        "| 512 | 100.0 | 1.10 (1.05) |",
        "First and second start in a store: base loaded in 4.00 s, then 2.00 s; ",
    ):
        assert f"\n{line}" in text


def test_each_part_says_where_it_is_from() -> None:
    text = render.rendered({**HEAD, "models": {"tiny": a_model()}})
    assert HEAD["commit"] not in text  # of the last part that was run
    assert HEAD["command"] not in text
    for name, behind in (("trials00", "A trial: "), ("factors0", "| factor | |"), ("steps000", "What packing gains"),
                         ("scoring0", "8 adapters over"), ("starts00", "First and second start")):  # fmt: skip
        assert f"\nMeasured at {name}, 2026-01-02.\n\n{behind}" in text


def test_a_base_that_is_not_here_is_said() -> None:
    assert "### tiny\n\nNot measured: the base is not here." in render.rendered(
        {**HEAD, "models": {"tiny": {"skipped": "it is not here"}}}
    )


def test_the_table_is_written_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{render.BEGIN}\nold\n{render.END}\nbehind\n", encoding="utf-8")
    for _ in range(2):
        render.write({**HEAD, "models": {}}, readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{render.BEGIN}\n\na CPU, 2 cores")
    assert text.endswith(f"{render.END}\nbehind\n")
    assert "old" not in text


def test_the_readme_has_the_table_of_the_results() -> None:
    if not render.RESULTS.is_file():
        pytest.skip("nothing was measured yet: make bench")
    text = render.README.read_text(encoding="utf-8")
    assert render.rendered(json.loads(render.RESULTS.read_text(encoding="utf-8"))) in text


def test_a_ratio_and_its_interval() -> None:
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == {"ratio": 2.0, "low": 2.0, "high": 2.0, "pairs": 3}
    found = ratio([2.0, 2.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0])
    assert found["low"] < found["ratio"] < found["high"]
    assert mean_difference([1.0, 3.0], [0.0, 0.0]) == {"mean": 2.0, "standard_error": 1.0, "pairs": 2}
    assert mean_difference([], [])["mean"] is None


def test_arms_are_compared_by_whole_processes() -> None:
    """Of a launch without its test split; configurations that only one side has trained count for nothing."""
    params, other = {"rank": 4}, {"rank": 8}
    peers = [
        {"params": one, "accuracy": 0.25, "seconds": {"train": 3.0}, "steps_s": [1.0, 2.0]} for one in (params, other)
    ]
    used = {"cpu_s": 8.0, "peak_rss_mib": 100.0}
    trials = [{"params": params, "value": value} for value in (0.5, None)]
    launched = {
        "booked_s": {"test": 2.0, "train": 4.0},
        "trained": 2,
        "trials": trials,
        "search_s": 5.0,
        "overhead_s": 1.0,
        "setup_s": 3.0,
        "first_trial_s": 4.0,
        "wall_s": 12.0,
        **used,
    }
    raw = {
        "a": [[{"wall_s": 10.0, "trials": [peers[0]], **used}, {"wall_s": 20.0, "trials": [peers[1]], **used}]],
        "b": [{"wall_s": 12.0, "trials": peers, **used}],
        "k1": [launched],
    }
    found = trials_per_hour.summary(raw, steps=2)
    assert {name: arm["s_per_trial"] for name, arm in found["arms"].items()} == {"a": 15.0, "b": 6.0, "k1": 5.0}
    assert found["arms"]["k1"]["against_a"]["ratio"] == 3.0
    assert found["arms"]["k1"]["s_per_trial_with_test"] == 6.0
    assert (found["arms"]["k1"]["step_s"], found["arms"]["b"]["step_s"]) == (1.0, 1.5)
    assert found["arms"]["k1"]["overhead_share"] == 0.2
    assert found["accuracy"]["k1"] == {"mean": 0.25, "standard_error": None, "pairs": 1}


def test_the_last_of_two_overrides_counts() -> None:
    assert arms._last(["pruner=none", "engine.slots=1", "pruner=median"]) == ["pruner=median", "engine.slots=1"]


def test_a_quick_run_leaves_the_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trials_per_hour.arguments(["--quick"])
    assert "--quick must not write over the results" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        trials_per_hour.arguments(["--only", "nothing"])
    assert trials_per_hour.arguments(["--quick", "--to", "x.json", "--rounds", "3"]).rounds == 3


def test_the_environment_is_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_HOME", "/elsewhere")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    found = machine.environment(2, SWEEPER_HOME="/here")
    assert (found["OMP_NUM_THREADS"], found["SWEEPER_HOME"]) == ("2", "/here")
    assert "MALLOC_ARENA_MAX" not in found


def test_the_script_imports_nothing_of_sweeper() -> None:
    tree = ast.parse(Path(peer.__file__).read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.split(".")[0] in ("sweeper", "tests")]
    assert (peer.RANKS, peer.ALPHA_RATIOS, peer.LEARNING_RATES) == (
        prepared.RANKS,
        prepared.ALPHA_RATIOS,
        prepared.LEARNING_RATES,
    )


def test_the_script_trains_what_a_launch_would(tmp_path: Path) -> None:
    """Two trials in one process: the second learns too, though the first was scored before it."""
    home = Home(tmp_path / "home")
    made = {"steps": 3, "rows": 8, "trials": 2, "dtype": "float32"}
    task = prepared.prepare(prepared.LOADS["tiny"], tmp_path, home, **made)
    assert task.described()["evaluation_rows"] == 8
    lines = [json.loads(line) for line in task.tokens.read_text(encoding="utf-8").splitlines()]
    trained = [tuple(line["prompt"] + line["answer"]) for line in lines if line["split"] == "train"]
    assert trained == [example.tokens for example in task.examples()]

    found = arms.peer(task, "b", 2, 1, "--group-by-length")

    assert [trial["params"] for trial in found["trials"]] == prepared.configurations(2)
    for trial in found["trials"]:
        assert len(trial["steps_s"]) == 3
        assert {"search", "adapter", "train", "evaluation", "save"} <= set(trial["seconds"])
    parts = {"imports", "data", "base"}
    assert parts <= set(found["trials"][0]["seconds"])
    assert not parts & set(found["trials"][1]["seconds"])
    from safetensors.torch import load_file

    for number in range(2):
        weights = load_file(tmp_path / "peer-b" / f"{number:04}" / "adapter_model.safetensors")
        learned = [name for name, tensor in weights.items() if "lora_B" in name and tensor.abs().max() > 0]
        assert len(learned) == len(weights) / 2


@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.environ.get("SWEEPER_TESTS") != "all", reason="ten launches take minutes: SWEEPER_TESTS=all")
def test_a_quick_run(tmp_path: Path) -> None:
    to, readme = tmp_path / "cpu.json", tmp_path / "README.md"
    readme.write_text(f"{render.BEGIN}\n{render.END}\n", encoding="utf-8")

    trials_per_hour.main(["--quick", "--to", str(to), "--readme", str(readme)])

    results = json.loads(to.read_text(encoding="utf-8"))
    assert set(HEAD) | {"malloc", "models"} == set(results)
    model = results["models"]["tiny"]
    assert set(model) == set(trials_per_hour.PARTS)
    assert set(model["trials"]["arms"]) == {"a", "b", "bg", "k1", "k2"}
    assert len(model["trials"]["raw"]["k2"][0]["trials"]) == 2
    text = readme.read_text(encoding="utf-8")
    for aim in render.AIMS:
        assert f"\n| {aim.name} | " in text
    measured = [aim for aim in render.AIMS if aim.model == "tiny" and render.found(aim, results["models"]) is not None]
    # A quick run has no eight slots, and no batch of 16.
    assert len(measured) == sum(aim.model == "tiny" for aim in render.AIMS) - 4
