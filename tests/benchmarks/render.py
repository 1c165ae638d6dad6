"""The results of a benchmark as a table in Markdown, with what was aimed at beside what was found.

    python -m tests.benchmarks.render     # studies/benchmarks/results/cpu.json into studies/benchmarks/README.md

A floor that is missed is shown so, and a part that was not measured has a row that says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.paths import write_atomically

FOLDER = Path(__file__).parents[2] / "studies" / "benchmarks"
README, RESULTS = FOLDER / "README.md", FOLDER / "results" / "cpu.json"
BEGIN, END = "<!-- made by tests/benchmarks/render.py: begin -->", "<!-- end -->"
TINY, SMOLLM2 = "tiny", "smollm2-135m"
PACK = 8


@dataclass(frozen=True)
class Aim:
    """What is aimed at.

    Attributes:
        floor: the least that it should be; of shares, the most.
        path: where the figure lies in the results of the model.
    """

    name: str
    model: str
    path: tuple[str | int, ...]
    floor: float
    target: float
    is_share: bool = False  # less is better
    at_low: bool = False  # the lower end of the interval counts


def _of_both(name: str, path: tuple[str | int, ...], floor: float, target: float, is_share: bool = False) -> list[Aim]:
    return [Aim(f"{name}, {model}", model, path, floor, target, is_share) for model in (TINY, SMOLLM2)]


AIMS = [
    Aim("trials an hour, tiny, 8 slots against the script (a)", TINY, ("trials", "arms", "k8", "against_a"), 4, 8),
    Aim("the same against one slot", TINY, ("trials", "arms", "k8", "against_k1"), 1.3, 1.3),
    Aim(
        "trials an hour, smollm2-135m at 32 tokens, 8 slots against the script (a)",
        SMOLLM2,
        ("trials", "arms", "k8", "against_a"),
        2.5,
        5,
    ),
    Aim("step, smollm2-135m, T = 32, 8 slots against one", SMOLLM2, ("gain", PACK, 32), 1.8, 2.5),
    *_of_both("step of one slot against the Trainer, batch 4", ("steps", "trainer", 0), 1.0, 1.5),
    *_of_both("step of one slot against the Trainer, batch 16", ("steps", "trainer", 1), 1.0, 1.5),
    *[
        Aim(f"step at T ≥ 512 against one slot, the worst, low end, {model}", model, ("worst",), 0.97, 1.0, at_low=True)
        for model in (TINY, SMOLLM2)
    ],
    *_of_both("packing tax, 8 slots of 4 rows against one of 32", ("steps", "tax", "tax"), 0.10, 0.03, is_share=True),
    *_of_both("evaluation of 8 adapters together against one at a time", ("scoring", "packed"), 1.0, 1.3),
    *_of_both("labels' trie against generate, one adapter", ("scoring", "generate"), 1.5, 3.0),
    *_of_both(
        "launcher and tracking, share of a trial, 8 slots",
        ("trials", "arms", "k8", "overhead_share"),
        0.03,
        0.01,
        is_share=True,
    ),
    *_of_both("base loaded the second time against the first", ("starts", "load_base"), 2.0, 5.0),
    *_of_both("set-up of a launch, second against first", ("starts", "setup"), 2.0, 5.0),
]  # fmt: skip


def found(aim: Aim, models: Mapping[str, Any]) -> Any:
    """The figure of an aim, or None where it was not measured."""
    at: Any = models.get(aim.model, {})
    if aim.path[0] in ("gain", "worst"):
        return _of_grid(aim, at)
    for step in aim.path:
        try:
            at = at[step]
        except (KeyError, IndexError, TypeError):
            return None
    return at


def _of_grid(aim: Aim, model: Mapping[str, Any]) -> Any:
    cells = model.get("steps", {}).get("grid", {}).get("cells", [])
    if aim.path[0] == "gain":
        own = [cell for cell in cells if (cell["slots"], cell["tokens"]) == aim.path[1:]]
    else:
        own = sorted(
            (cell for cell in cells if cell["tokens"] >= 512 and cell["slots"] > 1),
            key=lambda cell: cell["gain"]["low"],
        )
    return own[0]["gain"] if own else None


def row(aim: Aim, models: Mapping[str, Any]) -> str:
    """A line of the table."""
    figure = found(aim, models)
    aims = [_share(one) if aim.is_share else f"{one:g}×" for one in (aim.floor, aim.target)]
    if figure is None:
        return f"| {aim.name} | not measured | {aims[0]} | {aims[1]} | – |"
    interval = ""
    if isinstance(figure, Mapping):
        interval = f" ({figure['low']:.2f} to {figure['high']:.2f})"
        value = figure["low"] if aim.at_low else figure["ratio"]
    else:
        value = float(figure)
    text = _share(value) if aim.is_share else f"{value:.2f}×{interval}"
    return f"| {aim.name} | {text} | {aims[0]} | {aims[1]} | {verdict(aim, value)} |"


def verdict(aim: Aim, value: float) -> str:
    def reaches(limit: float) -> bool:
        return value <= limit if aim.is_share else value >= limit

    return "target" if reaches(aim.target) else "floor" if reaches(aim.floor) else "**missed**"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def rendered(results: Mapping[str, Any]) -> str:
    """All of it as Markdown."""
    models = results["models"]
    lines = ["| | found | floor | target | reached |", "|---|---|---|---|---|", *(row(aim, models) for aim in AIMS), ""]
    for name, model in models.items():
        lines += [f"### {name}", "", *_of_model(model)]
    return "\n".join([*_head(results), "", *lines]).rstrip() + "\n"


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    yield (
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instructions'])}), "
        f"{machine['memory_gib']} GiB; {results['threads']} thread each. {versions}. "
        "In brackets: 95 % bootstrap interval over the rounds."
    )


def _of_model(model: Mapping[str, Any]) -> Iterator[str]:
    if "skipped" in model:
        yield from ("Not measured: the base is not here.", "")
    arms = model.get("trials", {}).get("arms", {})
    parts: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
        "trials": _trials,
        "factors": lambda part: _factors(part, arms),
        "steps": _steps,
        "scoring": _scoring,
        "starts": _starts,
    }
    for name, lines in parts.items():
        if (part := model.get(name)) is not None:
            yield from (f"Measured at {part['commit'][:8]}, {part['date'][:10]}.", "", *lines(part))


def _trials(part: Mapping[str, Any]) -> Iterator[str]:
    task = part["task"]
    yield (
        f"A trial: {task['steps']} steps of {task['batch_size']} rows ({task['tokens_per_step']:.0f} tokens), in "
        f"{task['dtype']}, then {task['evaluation_rows']} validation rows. Prompt: {task['prompt']}."
    )
    yield from (
        "",
        "| arm | trials/h | s/trial | CPU s | step s | against a | against k1 | set-up s | peak MiB |",
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, arm in part["arms"].items():
        ratios = [f"{arm[key]['ratio']:.2f}×" if key in arm else "–" for key in ("against_a", "against_k1")]
        setup = f"{arm['setup_s']:.1f}" if "setup_s" in arm else f"{_peer_setup_s(arm):.1f}"
        yield (
            f"| {name} | {arm['trials_per_hour']:.0f} | {arm['s_per_trial']:.2f} | {arm['cpu_s_per_trial']:.2f} | "
            f"{arm['step_s']:.4f} | {' | '.join(ratios)} | {setup} | {arm['peak_rss_mib']:.0f} |"
        )
    yield ""
    for name, arm in part["arms"].items():
        if "s_per_trial_with_test" in arm:
            booked = ", ".join(f"{key} {seconds:.1f}" for key, seconds in arm["booked_s"].items())
            yield (
                f"- {name}: {arm['s_per_trial_with_test']:.2f} s a trial with the test split, "
                f"{arm['s_per_trial_search']:.2f} without set-up; first trial after {arm['first_trial_s']:.1f} s. "
                f"Booked, in seconds: {booked}."
            )
        else:
            parts = ", ".join(f"{key} {seconds:.2f}" for key, seconds in arm["parts_s"].items())
            yield f"- {name}, seconds of a trial: {parts}."
    yield ""


def _peer_setup_s(arm: Mapping[str, Any]) -> float:
    return sum(arm["parts_s"].get(part, 0.0) for part in ("imports", "data", "base"))


def _factors(part: Mapping[str, Any], arms: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| factor | |", "|---|---|")
    if {"a", "b", "k1"} <= set(arms):
        yield f"| set-up reuse: a against b, s/trial | {arms['a']['s_per_trial'] / arms['b']['s_per_trial']:.2f}× |"
        yield f"| padding and head: a step of b against k1 | {arms['b']['step_s'] / arms['k1']['step_s']:.2f}× |"
        if "bg" in arms:
            like = arms["b"]["step_s"] / arms["bg"]["step_s"]
            yield f"| batches of like length: a step of b against bg | {like:.2f}× |"
        for name, arm in arms.items():
            if name.startswith("k") and name != "k1":
                yield f"| packing: training of k1 against {name} | {arms['k1']['train_s'] / arm['train_s']:.2f}× |"
    pruning, search, quality = part["pruning"], part["search"], part["quality"]
    yield f"| pruning: none against median ({_share(pruning['pruned_share'])} pruned) | {pruning['factor']:.2f}× |"
    yield f"| best value in a pack less that of one slot | {_difference(search['packed_less_alone'])} |"
    for slots, difference in quality["ours_less_peer"].items():
        yield (
            f"| accuracy, {slots} slots less the script, {quality['steps']} steps of {quality['batch_size']} | "
            f"{_difference(difference)} |"
        )
    yield ""


def _difference(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "not measured"
    error = f" ± {found['standard_error']:.3f}" if found["standard_error"] is not None else ""
    return f"{found['mean']:+.3f}{error} ({found['pairs']} pairs)"


def _steps(part: Mapping[str, Any]) -> Iterator[str]:
    grid, trainers = part["grid"], part["trainer"]
    slots = sorted({cell["slots"] for cell in grid["cells"]})
    yield "What packing gains in a step, S(K, T) = K · t(1, T) / t(K, T), and in brackets the low end of its interval:"
    yield from (
        "",
        f"| T | t(1, T) ms | {' | '.join(f'K = {k}' for k in slots if k > 1)} |",
        "|---" * (1 + len(slots)) + "|",
    )
    for tokens in sorted({cell["tokens"] for cell in grid["cells"]}):
        by_slots = {cell["slots"]: cell for cell in grid["cells"] if cell["tokens"] == tokens}
        cells = [f"{_gain(by_slots[k]['gain'])}" if k in by_slots else "–" for k in slots if k > 1]
        yield f"| {tokens} | {1000 * by_slots[1]['median_s']:.1f} | {' | '.join(cells)} |"
    share = max(cell["base_gemm_share"] for cell in grid["cells"])
    yield from (
        "",
        f"The base's products reach {_share(share)} of a large product's {grid['gemm_gflops']:.0f} GFLOP/s at best.",
    )
    for one in trainers:
        yield (
            f"Against the Trainer at batch {one['batch_size']} ({one['tokens_per_step']:.0f} tokens): "
            f"{1000 * one['ours_s']:.1f} ms against {1000 * one['trainer_s']:.1f} ms."
        )
    yield ""


def _gain(gain: Mapping[str, Any]) -> str:
    return f"{gain['ratio']:.2f} ({gain['low']:.2f})"


def _scoring(part: Mapping[str, Any]) -> Iterator[str]:
    packed, generate = part["packed"], part["generate"]
    yield (
        f"{packed['adapters']} adapters over {packed['rows']} rows: {packed['together_s']:.2f} s together, "
        f"{packed['alone_s']:.2f} s one at a time. One over {generate['rows']}: {generate['trie_s']:.2f} s by the "
        f"trie, {generate['generate_s']:.2f} s by `generate`."
    )
    yield ""


def _starts(part: Mapping[str, Any]) -> Iterator[str]:
    words = {
        "base loaded": part["load_base_s"],
        "set-up of a launch": part["setup_s"],
        "first trial begun": part["first_trial_s"],
    }
    each = [f"{name} in {one['first']:.2f} s, then {one['second']:.2f} s" for name, one in words.items()]
    yield from (f"First and second start in a store: {'; '.join(each)}.", "")


def write(results: Mapping[str, Any], readme: Path = README) -> None:
    """Puts the table between its marks; what is written by hand stays."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_atomically(readme, f"{before}{BEGIN}\n\n{rendered(results)}\n{END}{after}")


def main() -> None:
    write(json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
