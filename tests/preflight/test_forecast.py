from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.config.schema import Config
from sweeper.data.example import Example
from sweeper.errors import ModelError
from sweeper.memory.calibration import Calibration
from sweeper.memory.formula import CHECKPOINTED, Dimensions, Formula, Targeted
from sweeper.memory.planner import Load, Work
from sweeper.preflight import predictor
from sweeper.preflight.case import Extent, ModelShape
from sweeper.preflight.forecast import Lengths, MemoryForecast, extent
from sweeper.preflight.predictor import fitted
from sweeper.units import GIB, MIB
from tests.conftest import trial_params

Compose = Callable[..., Config]
# The bundled model's.
TINY = Dimensions(
    hidden=192,
    layers=4,
    vocabulary=2048,
    compute_bytes=4,
    weights_4bit_bytes=888_832,
    weights_other_bytes=1_583_104,
    io=3392,
    wide=704,
    largest=98_304,
    targets={
        "all-linear": Targeted(linears=7, widths=13_568, half=6_912),
        "attention": Targeted(linears=4, widths=5_120, half=3_072),
        "mlp": Targeted(linears=3, widths=8_448, half=4_864),
    },
)
LENGTHS = Lengths(longest=90, shortest=40, answer=8)


@pytest.fixture
def forecast(composed: Compose) -> Callable[..., MemoryForecast]:
    """Of the bundled model as it has not been traced, without a process beside it."""

    def make(*overrides: str, lengths: Lengths = LENGTHS, **changes: Any) -> MemoryForecast:
        made = MemoryForecast(Formula.generic(TINY), composed("study=demo", *overrides), lengths, GIB)
        return replace(made, **changes)

    return make


@pytest.mark.parametrize("module", ["engine/pack.py", "memory/planner.py", "models/base.py", "models/targets.py"])
def test_a_formula_is_kept_for_the_code_that_was_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    sources = Path(predictor.__file__).parents[1]
    for package in ("engine", "memory", "models", "preflight"):
        shutil.copytree(sources / package, tmp_path / package, ignore=shutil.ignore_patterns("weights", "*.pyc"))
    monkeypatch.setattr(predictor.resources, "files", lambda _: tmp_path)
    before = predictor._key({})
    assert predictor._key({}) == before
    (tmp_path / module).write_text("changed")
    assert predictor._key({}) != before


# What a study may ask for.


def test_lengths_are_of_rows_and_of_prompts_with_an_answer_behind() -> None:
    examples = [Example((1,) * 5, (1,) * 2), Example((1,) * 4, (1,) * 4), Example((1,) * 3, (1,))]
    assert Lengths.of(examples, [(1,) * 2]) == Lengths(longest=8, shortest=4, answer=4)
    assert Lengths.of(examples, [(1,) * 2, (1,) * 6]) == Lengths(longest=10, shortest=4, answer=4)


def test_a_retention_item_longer_than_any_row_is_scored_but_not_trained_on(
    forecast: Callable[..., MemoryForecast],
) -> None:
    params = trial_params(rank=8)
    short, long, longest = (forecast(lengths=replace(LENGTHS, retention=tokens)) for tokens in (64, 128, 4096))
    assert short.solo_bytes(params) == forecast().solo_bytes(params)
    assert long.one_row() == short.one_row()
    assert longest.solo_bytes(params) > short.solo_bytes(params)
    assert longest.most_bytes() >= long.most_bytes() >= short.most_bytes()
    assert extent(long.config, long.lengths).seqs == (40, 128)


def test_the_corners_hold_all_that_a_study_may_ask_for(composed: Compose) -> None:
    corners = extent(composed("study=demo"), LENGTHS)
    assert (corners.ranks, corners.seqs, corners.answer_tokens) == ((4, 128), (40, 90), 8)
    assert (corners.most_tokens, corners.has_dropout) == (4096, False)
    corners = extent(composed("study=demo", "engine.chunk_tokens=64", "lora.dropout=0.1"), LENGTHS)
    assert (corners.most_tokens, corners.has_dropout) == (90, True)  # one row always goes through


def test_the_corners_are_apart(composed: Compose) -> None:
    """Of two that are one, no slope could be told."""
    config = composed("study=demo", "~search.space.rank", "lora.rank=16")
    assert extent(config, LENGTHS).ranks == (8, 128)
    assert extent(config, Lengths(longest=90, shortest=90, answer=8)).seqs == (45, 90)
    assert extent(config, Lengths(longest=5, shortest=5, answer=1)).seqs == (4, 8)


# What a configuration will take.


def test_the_constraint_is_violated_where_it_is_above_zero(forecast: Callable[..., MemoryForecast]) -> None:
    params = trial_params(rank=16)
    needed = forecast().solo_bytes(params)
    assert forecast(budget_bytes=needed)(params) == {"vram": 0.0}
    assert forecast(budget_bytes=needed + MIB)(params)["vram"] < 0
    assert forecast(budget_bytes=needed - MIB)(params)["vram"] > 0
    assert forecast(budget_bytes=needed // 2)(params)["vram"] == pytest.approx(1, abs=1e-6)


def test_a_peak_is_what_stays_and_the_most_that_comes(forecast: Callable[..., MemoryForecast]) -> None:
    made, params = forecast(runtime_bytes=100 * MIB), trial_params(rank=16)
    stays = 100 * MIB + 888_832 + 1_583_104 + 16 * 13_568 * 16
    assert made.solo_bytes(params) - stays == made.least_bytes(((16, 1),), "all-linear")
    loads = [made.one_row(), Load(Work.SCORE, rows=1, seq=90)]
    assert made.one_row() == Load(Work.TRAIN, rows=1, seq=90, supervised=8, is_checkpointed=True)
    assert made.least_bytes(((16, 1),)) >= max(made.transient_bytes(load, ((16, 1),)) for load in loads)


def test_a_higher_rank_never_takes_less(forecast: Callable[..., MemoryForecast]) -> None:
    made = forecast()
    values = [made(trial_params(rank=rank))["vram"] for rank in range(1, 129)]
    assert values == sorted(values)
    assert len(set(values[::8])) == 16


def test_a_rank_takes_what_it_is_padded_to(forecast: Callable[..., MemoryForecast]) -> None:
    made = forecast()
    assert made.solo_bytes(trial_params(rank=4)) == made.solo_bytes(trial_params(rank=8))
    assert made.solo_bytes(trial_params(rank=9)) == made.solo_bytes(trial_params(rank=16))


def test_fewer_target_modules_take_less(forecast: Callable[..., MemoryForecast]) -> None:
    made = forecast()
    attention, mlp, everything = (
        made.solo_bytes(trial_params(rank=32, target_modules=targets)) for targets in ("attention", "mlp", "all-linear")
    )
    assert attention < mlp < everything


def test_longer_rows_take_more(forecast: Callable[..., MemoryForecast]) -> None:
    params = trial_params(rank=8)
    sizes = [forecast(lengths=Lengths(longest, 40, 8)).solo_bytes(params) for longest in (128, 256, 512, 1024)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("state", "bytes_of_a_value"), [("device", 16), ("host", 8), ("8bit", 10 + 1 / 32)])
def test_moments_that_are_elsewhere_or_quantised_take_less(
    forecast: Callable[..., MemoryForecast], state: str, bytes_of_a_value: float
) -> None:
    made = forecast(f"optimizer.state={state}")
    assert made.held_bytes(((64, 1),)) == 64 * 13_568 * bytes_of_a_value
    whole = 64 * 13_568 * 8 if state == "8bit" else 0  # a slot's moments, for a moment
    assert made.moving_bytes(((64, 4),)) == whole
    here = replace(made, is_on_host=True)  # where the best adapter is beside it, and the host's moments too
    assert here.held_bytes(((64, 1),)) == 64 * 13_568 * (bytes_of_a_value + (12 if state == "host" else 4))
    copies = [here.moving_bytes(((64, count),)) - whole for count in (1, 2)]
    assert copies == [64 * 13_568 * 12, 3 * 64 * 13_568 * 12]
    assert here.least_bytes(((64, 9),)) >= here.moving_bytes(((64, 9),))


@pytest.mark.parametrize("state", ["device", "host", "8bit"])
def test_an_optimizer_step_is_of_all_slots(forecast: Callable[..., MemoryForecast], state: str) -> None:
    made = forecast(f"optimizer.state={state}")
    one, many, more = ((64, 1),), ((64, 32),), ((8, 4), (64, 32))
    sizes = [made.optimizer_bytes(profile) for profile in (one, many, more)]
    assert sizes == [made.formula.optimizer_bytes(profile, "all-linear", state) for profile in (one, many, more)]
    assert sizes[0] < sizes[1]
    assert (sizes[1] < sizes[2]) == (state == "8bit")  # all buckets stage, and share their scratch
    for profile, size in zip((one, many, more), sizes, strict=True):
        assert made.least_bytes(profile) >= size


def test_beside_others_a_trial_takes_no_less(forecast: Callable[..., MemoryForecast]) -> None:
    made = forecast(lengths=Lengths(512, 40, 8))
    sizes = [made.least_bytes(((16, count),)) for count in (1, 2, 3, 5, 9)]
    assert sizes == sorted(sizes)
    assert made.least_bytes(((8, 4), (16, 1), (128, 4))) > sizes[0]


def test_recomputing_takes_less_where_it_is_allowed(forecast: Callable[..., MemoryForecast]) -> None:
    params, long = trial_params(rank=16), Lengths(512, 40, 8)
    auto, asked, kept = (
        forecast(f"engine.gradient_checkpointing={mode}", lengths=long) for mode in ("auto", "true", "false")
    )
    assert auto.solo_bytes(params) == asked.solo_bytes(params) < kept.solo_bytes(params)
    assert (asked.one_row().is_checkpointed, kept.one_row().is_checkpointed) == (True, False)


def test_a_model_that_cannot_recompute_keeps(forecast: Callable[..., MemoryForecast]) -> None:
    made = forecast(formula=Formula.generic(TINY, can_checkpoint=False))
    assert CHECKPOINTED not in made.formula.coefficients
    assert not made.one_row().is_checkpointed
    assert made.solo_bytes(trial_params()) > forecast().solo_bytes(trial_params())
    assert made.most_bytes() > 0


def test_predictions_are_raised_by_what_was_measured(forecast: Callable[..., MemoryForecast]) -> None:
    params, load = trial_params(rank=8), Load(Work.TRAIN, rows=1, seq=512, supervised=8)
    plain = forecast(lengths=Lengths(512, 40, 8))
    raised = replace(plain, calibration=Calibration(margin=0.5))
    assert raised.expected_bytes(load, ((8, 1),)) == plain.expected_bytes(load, ((8, 1),))
    assert raised.transient_bytes(load, ((8, 1),)) == pytest.approx(1.5 * plain.transient_bytes(load, ((8, 1),)))
    assert raised.solo_bytes(params) - plain.solo_bytes(params) == pytest.approx(
        0.5 * plain.least_bytes(((8, 1),)), abs=1
    )


def test_a_bound_is_above_what_is_expected(forecast: Callable[..., MemoryForecast]) -> None:
    made, load = forecast(), Load(Work.TRAIN, rows=4, seq=90, supervised=32)
    assert made.transient_bytes(load, ((8, 4),)) > 2 * made.expected_bytes(load, ((8, 4),))


def test_only_a_step_that_matters_says_how_far_predictions_are_off(forecast: Callable[..., MemoryForecast]) -> None:
    made = forecast(formula=Formula(TINY, Formula.generic(TINY).coefficients, is_traced=True))
    made.observe(GIB // 200, GIB)  # below a hundredth of the budget
    assert not made.calibration.ratios
    made.observe(GIB // 2, GIB // 4)
    assert list(made.calibration.ratios) == [0.5]
    made = forecast()  # a wide bound, which measured steps would only narrow for this one model
    made.observe(GIB // 2, GIB // 4)
    assert not made.calibration.ratios


def test_the_most_is_more_than_any_trial_takes(forecast: Callable[..., MemoryForecast]) -> None:
    made = forecast("+search.space.target_modules=[attention,all-linear]")
    solo = [
        made.solo_bytes(trial_params(rank=rank, target_modules=targets))
        for rank in (4, 8, 16, 32, 64)
        for targets in ("attention", "all-linear")
    ]
    assert made.most_bytes() > max(solo)
    assert forecast("engine.slots=8").most_bytes() > made.most_bytes()
    assert forecast("engine.chunk_tokens=8192").most_bytes() > made.most_bytes()
    assert forecast("engine.gradient_checkpointing=true").most_bytes() < made.most_bytes()
    assert forecast(runtime_bytes=MIB).most_bytes() == forecast().most_bytes() + MIB


# The formula of one base, and the file that it is kept in.

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
SHAPE = ModelShape(SMALL, "float32", "nf4")


CORNERS = Extent(ranks=(4, 12), seqs=(8, 32), answer_tokens=4, most_tokens=64, has_dropout=False)


@dataclass(frozen=True)
class Kept:
    """A folder into which two processes have written the same formula at once."""

    folder: Path
    formulas: list[Formula]

    @property
    def file(self) -> Path:
        [file] = self.folder.iterdir()
        return file


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("store") / "memory"
    with ThreadPoolExecutor() as pool:
        return Kept(folder, [*pool.map(lambda _: fitted(SHAPE, CORNERS, folder), range(2))])


@pytest.fixture
def copy(kept: Kept, tmp_path: Path) -> Path:
    """That folder again, to be damaged."""
    return Path(shutil.copytree(kept.folder, tmp_path / "memory"))


def refuse(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("a process was started")


def test_two_that_fit_at_once_keep_one_whole_file(kept: Kept) -> None:
    first, second = kept.formulas
    assert first == second
    assert Formula.from_dict(json.loads(kept.file.read_text())) == first
    assert (first.is_traced, first.bound, first.can_checkpoint) == (True, 1.0, True)
    assert first.dimensions.targets["all-linear"].widths == 4 * 128 + 3 * 160


def test_a_kept_formula_is_not_traced_again(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert fitted(SHAPE, CORNERS, kept.folder) == kept.formulas[0]
    with pytest.raises(AssertionError, match="a process was started"):
        fitted(replace(SHAPE, dtype="bfloat16"), CORNERS, kept.folder)
    with pytest.raises(AssertionError, match="a process was started"):
        fitted(SHAPE, replace(CORNERS, ranks=(4, 16)), kept.folder)
    with pytest.raises(AssertionError, match="a process was started"):
        fitted(SHAPE, CORNERS, None)


def test_half_a_formula_is_traced_again(kept: Kept, copy: Path) -> None:
    file = copy / kept.file.name
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    assert fitted(SHAPE, CORNERS, copy) == kept.formulas[0]
    assert file.read_text() == whole


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"dimensions": {}, "coefficients": {}}'])
def test_what_is_no_formula_is_not_taken_for_one(
    kept: Kept, copy: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (copy / kept.file.name).write_text(text)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(AssertionError, match="a process was started"):
        fitted(SHAPE, CORNERS, copy)


def test_a_model_that_cannot_be_traced_is_said_and_leaves_no_process() -> None:
    before = psutil.Process().children()
    with pytest.raises(ModelError, match=r"the memory of a 'nothing' model must be traceable .* but: ValueError: Unr"):
        fitted(replace(SHAPE, config={**SMALL, "model_type": "nothing"}), CORNERS)
    assert [process for process in psutil.Process().children() if process not in before] == []
