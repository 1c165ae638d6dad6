from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sweeper.cli.main import main
from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.data.prompt import Renderer
from sweeper.errors import ModelError, OutOfRoomError
from sweeper.memory import readings
from sweeper.memory.calibration import Calibration
from sweeper.memory.formula import SCORE
from sweeper.memory.runtime import known_runtime, note_runtime
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home
from sweeper.preflight.architecture import model_config
from sweeper.preflight.case import ModelShape
from sweeper.preflight.choices import target_choices
from sweeper.preflight.forecast import Lengths, MemoryForecast, extent
from sweeper.preflight.plan import ROWS, Cell, Plan, plan
from sweeper.preflight.predictor import fitted
from sweeper.retention.watch import Watch
from sweeper.units import GIB, MIB, time_text
from tests.conftest import share_formulas

Compose = Callable[..., Config]
RANKS = [4, 8, 16, 32, 64]  # of the demo
TINY_WIDTHS = 13_568  # values of an adapter to all linears of the bundled model, a rank


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, formulas: Path) -> Iterator[Home]:
    """A store that all tests share: a formula that was fitted once is there for the next."""
    home = Home(tmp_path_factory.mktemp("store"))
    share_formulas(formulas, home.memory)
    yield home
    share_formulas(home.memory, formulas)


@pytest.fixture
def planned(composed: Compose, store: Home) -> Callable[..., Plan]:
    """Plans the demo, with overrides."""
    return lambda *overrides: plan(composed("study=demo", *overrides), store)


@pytest.fixture
def workers(composed: Compose, store: Home) -> Callable[..., MemoryForecast]:
    """What a worker that runs the study on this machine foretells."""

    def make(*overrides: str, study: str = "demo") -> MemoryForecast:
        config = composed(f"study={study}", *overrides)
        data = rows.of(config)
        tokenizer = load_tokenizer(config.model, store)
        rendered = Renderer(tokenizer, config.prompt, data.labels)
        selected = rows.stratified(data.validation, config.evaluation.rows, config.train.seed)
        prompts = [*rendered.prompts(selected), *rendered.prompts(data.test)]
        retention = Watch(config.retention, tokenizer).full.longest
        lengths = Lengths.of(rendered.examples(data.train), prompts, retention=retention)
        shape = ModelShape(model_config(config, store), "float32", "nf4", target_choices(config), is_on_host=True)
        formula = fitted(shape, extent(config, lengths), store.memory)
        budget_bytes = int((config.memory.budget_gib or 1) * GIB)
        calibration = Calibration(config.memory.margin)
        return MemoryForecast(formula, config, lengths, budget_bytes, is_on_host=True, calibration=calibration)

    return make


def cell(planned: Plan, rank: int, count: int) -> Cell:
    [found] = [cell for cell in planned.cells if (cell.rank, cell.rows) == (rank, count)]
    return found


def solo_gib(forecast: MemoryForecast, rank: int, targets: str = "all-linear") -> float:
    return forecast.solo_bytes(forecast.config.trial_params({"rank": rank, "target_modules": targets})) / GIB


# Peaks and what makes them up.


def test_the_terms_of_a_cell_add_up_to_its_peak(planned: Callable[..., Plan]) -> None:
    for mode in ("true", "false"):
        made = planned(f"engine.gradient_checkpointing={mode}")
        assert [(cell.rank, cell.rows) for cell in made.cells] == [(rank, count) for rank in RANKS for count in ROWS]
        for cell in made.cells:
            assert sum(cell.terms_gib.values()) == pytest.approx(cell.peak_gib)
            assert min(cell.terms_gib.values()) >= 0
            assert cell.tokens == cell.rows * made.longest_row_tokens


def test_peaks_rise_with_rows_and_with_rank(planned: Callable[..., Plan]) -> None:
    made = planned()
    for rank in RANKS:
        peaks = [cell(made, rank, count).peak_gib for count in ROWS]
        assert peaks == sorted(set(peaks))
    for count in ROWS:
        peaks = [cell(made, rank, count).peak_gib for rank in RANKS]
        assert peaks == sorted(peaks)
        assert len({*peaks[1:]}) == 4
        assert peaks[0] == peaks[1]  # an adapter of rank 4 is padded to 8


def test_weights_are_what_the_bundled_model_takes(planned: Callable[..., Plan]) -> None:
    terms = cell(planned(), 16, 1).terms_gib
    values = 4 * (2 * 192 * 192 + 2 * 192 * 64 + 3 * 192 * 512)  # of all linears
    # Half a byte each and a scale for 64, and tables for each of 28 linears.
    assert 0 < terms["weights_4bit"] * GIB - values * (1 / 2 + 1 / 64) < 28 * 3072
    assert terms["weights_other"] * GIB == pytest.approx(2048 * 192 * 4, rel=0.01)


# Budgets.


def test_what_does_not_fit_is_listed_with_its_share(
    planned: Callable[..., Plan], workers: Callable[..., MemoryForecast]
) -> None:
    sizes = [solo_gib(workers("memory.margin=0"), rank) for rank in (16, 32)]
    overrides = ["memory.margin=0", f"memory.budget_gib={sum(sizes) / 2}"]
    made, forecast = planned(*overrides), workers(*overrides)
    [part] = made.infeasible
    assert (part.target_modules, part.ranks) == ("all-linear", [32, 64])
    assert part.smallest_peak_gib == pytest.approx(sizes[1])
    assert (part.share, made.infeasible_share) == (0.4, 0.4)
    for rank in RANKS:
        assert (forecast(forecast.config.trial_params({"rank": rank}))["vram"] > 0) is (rank in part.ranks)
        assert (made.slots[rank] == 0) is (rank in part.ranks)
        assert (made.micro_batch_rows[rank] == 0) is (rank in part.ranks)


def test_a_plan_and_a_search_reject_the_same(
    planned: Callable[..., Plan], workers: Callable[..., MemoryForecast]
) -> None:
    """Where it is the margin that decides."""
    least, most = (solo_gib(workers(f"memory.margin={margin}"), 8) for margin in (0, 1))
    assert least < most
    overrides = ["memory.margin=1", f"memory.budget_gib={(least + most) / 2}"]
    forecast = workers(*overrides)
    rejected = [rank for rank in RANKS if forecast(forecast.config.trial_params({"rank": rank}))["vram"] > 0]
    assert 8 in rejected
    assert [part.ranks for part in planned(*overrides).infeasible] == [rejected]


def test_a_range_of_ranks_is_infeasible_from_one_on(
    planned: Callable[..., Plan], workers: Callable[..., MemoryForecast]
) -> None:
    searched = ["~search.space.rank", "+search.space.rank={low:4,high:64,log:true}"]
    half = (solo_gib(workers(), 16) + solo_gib(workers(), 24)) / 2
    made = planned(*searched, f"memory.budget_gib={half}")
    [part] = made.infeasible
    assert 17 <= part.ranks[0] <= 18
    assert part.ranks[-1] >= 60
    assert part.share == made.infeasible_share == pytest.approx(0.5, abs=0.05)  # 16 halves a logarithmic 4 to 64
    assert [*made.slots] == [4, 8, 16, 32, 64]


def test_a_rank_that_holds_without_its_condition_is_planned_for(
    planned: Callable[..., Plan], workers: Callable[..., MemoryForecast]
) -> None:
    searched = ["~search.space.rank", "+search.space.rank={choices:[4,8],when:{alpha_ratio:1.0}}", "lora.rank=64"]
    half = (solo_gib(workers(), 8) + solo_gib(workers(), 64)) / 2
    made = planned(*searched, f"memory.budget_gib={half}")
    assert 64 in made.slots
    [part] = made.infeasible
    assert part.ranks == [64]
    assert 0 < made.infeasible_share < 1


def test_target_modules_are_told_apart(composed: Compose, store: Home, workers: Callable[..., MemoryForecast]) -> None:
    wide, narrow = (solo_gib(workers(study="tickets"), 64, targets) for targets in ("all-linear", "attention"))
    assert narrow < wide
    made = plan(composed("study=tickets", f"memory.budget_gib={(narrow + wide) / 2}"), store)
    [part] = made.infeasible
    assert (part.target_modules, part.ranks[-1]) == ("all-linear", 64)
    assert made.infeasible_share == part.share / 2 == len(part.ranks) / 8


def test_a_base_that_does_not_fit_is_refused(planned: Callable[..., Plan]) -> None:
    with pytest.raises(OutOfRoomError) as caught:
        planned("memory.budget_gib=0.001")
    message = str(caught.value)
    assert message.startswith("the base must fit into the budget, but tiny takes 0.0023 GiB")
    assert "the budget is 0.001 GiB on this machine's memory" in message
    assert message.endswith("take a smaller model, a larger card, or raise memory.budget_gib")


def test_a_reserve_and_a_margin_change_what_fits(planned: Callable[..., Plan]) -> None:
    card = ["gpu=rtx-4090", "gpu.memory_gib=0.06"]
    plain = planned(*card, "memory.reserve_gib=0", "memory.margin=0")
    assert (plain.budget_gib, plain.reserve_gib) == (pytest.approx(0.06), 0)
    reserved = planned(*card, "memory.reserve_gib=0.02", "memory.margin=0")
    assert (reserved.budget_gib, reserved.reserve_gib) == (pytest.approx(0.04), 0.02)
    assert 0 < reserved.slots[64] < plain.slots[64]
    raised = planned(*card, "memory.reserve_gib=0", "memory.margin=0.5")
    for changed in (reserved, raised):
        assert 0 < changed.micro_batch_rows[16] < plain.micro_batch_rows[16]
        assert sum(cell.fits for cell in changed.cells) < sum(cell.fits for cell in plain.cells)


def test_the_least_of_all_limits_is_the_budget(planned: Callable[..., Plan]) -> None:
    card = ["gpu=rtx-4090", "gpu.memory_gib=2", "memory.reserve_gib=0.5"]
    assert planned(*card).budget_gib == 1.5
    assert planned(*card, "memory.budget_gib=1").budget_gib == 1
    assert planned(*card, "memory.budget_gib=1.75").budget_gib == 1.5


def test_the_limit_of_a_container_is_this_machines_memory(
    planned: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker reads it, and so must its plan."""
    (tmp_path / "memory.max").write_text(str(GIB))
    (tmp_path / "memory.current").write_text(str(100 * MIB))
    group = (tmp_path, ("memory.max", "memory.current", "inactive_file"))
    monkeypatch.setattr(readings, "_cgroups", lambda *_: iter([group]))
    assert readings.HostBackend().read().total_bytes == GIB
    made = planned("engine.device=cpu")
    assert (made.card.total_gib, made.budget_gib) == (1, 0.5)


# Cards, moments, recomputation, and what a process holds beside tensors.


def test_a_card_that_is_not_there_can_be_planned_for(planned: Callable[..., Plan]) -> None:
    here, there = planned("engine.device=cpu"), planned("gpu=rtx-4090")
    assert (here.card.name, here.card.is_cuda) == ("this machine's memory", False)
    assert (there.card.name, there.card.total_gib) == ("NVIDIA GeForce RTX 4090", 23.99)
    assert there.card.is_cuda
    assert there.budget_gib == pytest.approx(23.49)
    # It computes in bfloat16.
    for rank in RANKS:
        mine, its = cell(here, rank, 8).terms_gib, cell(there, rank, 8).terms_gib
        assert its["weights_4bit"] == mine["weights_4bit"]
        # The best adapter is kept on the host, which is the device here: 4 bytes of a value, beside 16.
        assert its["adapters_and_optimizer"] == pytest.approx(mine["adapters_and_optimizer"] * 16 / 20)
        assert its["weights_other"] == pytest.approx(mine["weights_other"] / 2, rel=0.01)
        assert its["activations"] < 0.75 * mine["activations"]
    mine, its = (cell(made, 16, 8).terms_gib for made in (here, planned("gpu=rtx-4090", "model.dtype=float32")))
    assert its == {**mine, "adapters_and_optimizer": its["adapters_and_optimizer"]}


@pytest.mark.parametrize(("state", "bytes_of_a_value"), [("device", 16), ("host", 8), ("8bit", 10 + 1 / 32)])
def test_moments_take_what_they_are_kept_in(planned: Callable[..., Plan], state: str, bytes_of_a_value: float) -> None:
    """Weight and gradient are 8 bytes; both moments another 8 on the device, and 2 with their scales at 8 bits."""
    made = planned(f"optimizer.state={state}", "gpu=rtx-4090")
    for rank in (8, 16, 32, 64):
        size = cell(made, rank, 32).terms_gib["adapters_and_optimizer"]
        assert size * GIB == rank * TINY_WIDTHS * bytes_of_a_value


def test_where_moments_are_changes_nothing_that_comes_and_goes(workers: Callable[..., MemoryForecast]) -> None:
    device, host = (workers(f"optimizer.state={state}").formula for state in ("device", "host"))
    assert device.coefficients[SCORE] == host.coefficients[SCORE]
    assert device == host


def test_layers_are_recomputed_as_asked(planned: Callable[..., Plan]) -> None:
    asked, kept, auto = (planned(f"engine.gradient_checkpointing={mode}") for mode in ("true", "false", "auto"))
    for made, is_checkpointed, term in ((asked, True, "checkpoints"), (kept, False, "activations")):
        assert all(cell.is_checkpointed is is_checkpointed for cell in made.cells)
        assert term in cell(made, 16, 32).terms_gib
    assert auto.cells == kept.cells  # there is room
    most, least = cell(kept, 64, 32), cell(asked, 64, 32)
    assert least.peak_gib < most.peak_gib
    between = f"memory.budget_gib={(least.peak_gib + most.peak_gib) / 2}"
    auto, kept = planned(between), planned(between, "engine.gradient_checkpointing=false")
    assert (cell(kept, 64, 32).fits, cell(auto, 64, 32).fits) == (False, True)
    assert cell(auto, 64, 32).is_checkpointed
    assert not cell(auto, 64, 1).is_checkpointed
    assert auto.micro_batch_rows[64] > kept.micro_batch_rows[64]


NO_RECOMPUTING = (
    "model.config={model_type: gpt_neox_japanese, hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 2, "
    "vocab_size: 200, max_position_embeddings: 64}"
)


def test_a_model_that_cannot_recompute_is_planned_without(planned: Callable[..., Plan]) -> None:
    model = ["model=hub", "model.path=nobody/nothing", NO_RECOMPUTING, "prompt.max_tokens=64"]
    made = planned(*model)
    assert not any(cell.is_checkpointed for cell in made.cells)
    assert made.cells == planned(*model, "engine.gradient_checkpointing=false").cells
    with pytest.raises(ModelError, match=r"engine\.gradient_checkpointing must be false for a model that does not"):
        planned(*model, "engine.gradient_checkpointing=true")


def test_what_a_worker_measured_comes_on_top(composed: Compose, store: Home, tmp_path: Path) -> None:
    plan(composed("study=demo"), store)
    home = Home(tmp_path)
    shutil.copytree(store.memory, home.memory)
    config = composed("study=demo", "engine.device=cpu", "memory.budget_gib=0.5")
    before = plan(config, home)
    assert (known_runtime(home.memory, "cpu"), before.runtime_gib) == (None, None)
    assert cell(before, 16, 4).terms_gib["context"] == 0
    note_runtime(home.memory, "cpu", 300 * MIB)
    note_runtime(home.memory, "NVIDIA GeForce RTX 4090", 500 * MIB)
    after = plan(config, home)
    assert after.runtime_gib == cell(after, 16, 4).terms_gib["context"] == 300 / 1024
    assert cell(after, 16, 4).peak_gib == pytest.approx(cell(before, 16, 4).peak_gib + 300 / 1024)
    assert after.slots[64] < before.slots[64]
    on_card = plan(composed("study=demo", "gpu=rtx-4090", "model.dtype=float32"), home)
    assert on_card.runtime_gib == 500 / 1024
    with pytest.raises(OutOfRoomError, match=r"tiny takes 0\.295 GiB and the budget is 0\.25 GiB"):
        plan(composed("study=demo", "engine.device=cpu", "memory.budget_gib=0.25"), home)


@pytest.mark.parametrize("text", ["", '{"cpu": 3000'])
def test_a_damaged_measurement_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "runtime.json").write_text(text)
    assert known_runtime(tmp_path, "cpu") is None
    note_runtime(tmp_path, "cpu", MIB)
    assert known_runtime(tmp_path, "cpu") == MIB


# The model and the lengths of its rows.


def test_rows_are_measured_where_data_and_tokenizer_are(
    planned: Callable[..., Plan], workers: Callable[..., MemoryForecast]
) -> None:
    made, lengths = planned(), workers().lengths
    assert made.are_lengths_measured
    assert (made.longest_row_tokens, made.answer_tokens) == (lengths.longest, lengths.answer)
    assert made.answer_tokens < made.longest_row_tokens < 512


def test_without_a_tokenizer_the_limit_stands(planned: Callable[..., Plan], composed: Compose, store: Home) -> None:
    made = planned("model=qwen2.5-0.5b")
    assert not made.are_lengths_measured
    assert made.longest_row_tokens == 512
    labels = rows.of(composed("study=demo")).labels
    assert made.answer_tokens == max(len(label.encode()) for label in labels) + 2
    terms = cell(made, 8, 1).terms_gib
    values = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)  # of all linears
    assert terms["weights_4bit"] * GIB == pytest.approx(values * (0.5 + 1 / 64), rel=0.01)
    assert terms["weights_other"] * GIB == pytest.approx(151_936 * 896 * 4, rel=0.01)


def test_the_card_that_engine_device_means_is_planned_for(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = {0: ("first", 8 * GIB), 1: ("second", 24 * GIB)}
    monkeypatch.setattr("sweeper.preflight.card.card_at", cards.__getitem__)
    assert planned().card.name == "first"
    made = planned("engine.device=cuda:1")
    assert (made.card.name, made.card.total_gib, made.card.is_cuda) == ("second", 24, True)
    assert planned("engine.device=cuda:1", "gpu=rtx-4090").card.name == "NVIDIA GeForce RTX 4090"
    # A worker on a CPU takes gpu.memory_gib for its budget.
    made = planned("engine.device=cpu", "gpu.memory_gib=0.25")
    assert (made.card.is_cuda, made.budget_gib) == (False, 0.25)


def test_a_card_that_is_not_there_must_be_named(planned: Callable[..., Plan]) -> None:
    with pytest.raises(ModelError, match=r"engine\.device: cuda:1 is not on this machine .* gpu=rtx-4090"):
        planned("engine.device=cuda:1")


def test_where_tensors_alone_are_counted_nothing_is_reserved(planned: Callable[..., Plan]) -> None:
    made = planned("memory.backend=tensors", "memory.budget_gib=1")
    assert (made.reserve_gib, made.runtime_gib, made.budget_gib) == (0, 0, 1)


def test_a_reserve_of_everything_is_refused(planned: Callable[..., Plan]) -> None:
    with pytest.raises(OutOfRoomError, match=r"memory\.reserve_gib must leave something of .* but it is 30"):
        planned("gpu=rtx-4090", "memory.reserve_gib=30")


@pytest.mark.parametrize("key", ["model_type", "num_hidden_layers"])
def test_half_a_configuration_is_said(planned: Callable[..., Plan], composed: Compose, store: Home, key: str) -> None:
    values = {k: v for k, v in model_config(composed("study=demo"), store).items() if k != key}
    folder = store.root / f"without-{key}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=f"must have {key}, but that of tiny has none"):
        planned(f"model.path={folder}")


@pytest.mark.parametrize(("text", "rule"), [("{", "must be JSON, but"), ("[]", "must be a JSON object, but is a list")])
def test_a_broken_configuration_is_said(composed: Compose, tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=f"model\\.path: .*config\\.json {rule}"):
        model_config(composed("study=demo", f"model.path={tmp_path}"), Home(tmp_path))


def test_a_folder_without_a_tokenizer_is_enough(planned: Callable[..., Plan], composed: Compose, store: Home) -> None:
    folder = store.root / "config-alone"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model_config(composed("study=demo"), store)))
    made = planned(f"model.path={folder}")
    assert (made.are_lengths_measured, made.longest_row_tokens) == (False, 512)


def test_a_wide_space_is_shown_by_five_ranks(planned: Callable[..., Plan]) -> None:
    made = planned("search.space.rank=[4,6,8,12,16,32,64,96,128]")
    assert sorted(made.slots) == [4, 8, 16, 64, 128]


def test_a_model_that_is_nowhere_is_said(planned: Callable[..., Plan]) -> None:
    with pytest.raises(ModelError, match=r"'nobody/nothing' must be a folder, or a Hub id .* as model\.config"):
        planned("model=hub", "model.path=nobody/nothing")


def test_a_plan_of_the_same_model_starts_no_process(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a process was started")

    before = planned()
    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert planned() == before
    assert planned("memory.budget_gib=0.5", "search.trials=3").budget_gib == 0.5  # what no trace depends on
    with pytest.raises(AssertionError, match="a process was started"):
        planned("model.quant=none")


# The command.


@pytest.fixture
def command(store: Home) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["plan", "study=demo", f"store.home={store.root}", *arguments])

    return run


@pytest.fixture
def tight(workers: Callable[..., MemoryForecast]) -> str:
    """A budget into which all ranks but the highest fit."""
    return f"memory.budget_gib={(solo_gib(workers(), 32) + solo_gib(workers(), 64)) / 2}"


def test_a_plan_as_json_is_all_of_it(command: Callable[..., Result], planned: Callable[..., Plan], tight: str) -> None:
    result = command(tight, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(result.stdout)
    again = json.loads(json.dumps(planned(tight).as_dict()))
    for disk in (*answer["disks"], *again["disks"]):
        disk.pop("free_bytes")  # others write there too
    assert answer == again
    assert answer["infeasible"][0]["ranks"] == [64]


def test_a_plan_is_a_table(command: Callable[..., Result]) -> None:
    result = command("gpu=rtx-4090")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "demo: tiny on NVIDIA GeForce RTX 4090, 23.99 GiB"
    assert "Peak of one trial in GiB, by rank and rows at once" in result.stdout
    first_words = [line.split()[0] for line in lines if line.strip()]
    for rank in RANKS:
        assert str(rank) in first_words
    for term in ("4-bit weights", "other weights", "activations", "supervised logits"):
        assert any(line.strip().startswith(term) for line in lines)
    assert "has not been measured" in " ".join(result.stdout.split())
    assert "Every configuration of the space fits." in lines
    assert max(map(len, lines)) <= 80


def test_a_table_says_what_does_not_fit(command: Callable[..., Result], tight: str) -> None:
    result = command(tight)
    assert result.exit_code == 0
    assert "20% of the space does not fit, not even alone and one row at a time" in result.stdout
    assert "all-linear: rank 64 (at least 0.03 GiB)" in result.stdout
    assert "✗" in result.stdout


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["memory.budget_gib=0"], "memory.budget_gib: Input should be greater than 0, but got 0"),
        (["gpu.memory=24"], "unknown key `gpu.memory`; did you mean `gpu.memory_gib`"),
        (["memory.budget_gib=0.001"], "the base must fit into the budget"),
        (["model=hub", "model.path=nobody/nothing"], "give its transformers configuration as model.config"),
        (["data=files", "data.path=/nowhere"], "there is no /nowhere"),
    ],
)
def test_what_cannot_be_planned_is_said(command: Callable[..., Result], overrides: list[str], expected: str) -> None:
    result = command(*overrides)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert "Traceback" not in result.output


LARGE = """
import resource, sys, time
from sweeper.cli.main import main

started = time.monotonic()
code = None
try:
    main(["plan", "study=llama-3.1-8b-tickets-24gb", "--json"])
except SystemExit as ended:
    code = ended.code
own, largest_child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(code, own + 2 * largest_child, round(time.monotonic() - started, 1), file=sys.stderr)
"""


@pytest.mark.skipif(os.environ.get("SWEEPER_TESTS") != "all", reason="a third of a minute; SWEEPER_TESTS=all runs it")
def test_a_model_of_eight_billion_is_planned_without_its_weights(home: Home) -> None:
    """By two processes that trace at once, and one that waits for them."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    code, peak_kib, seconds = done.stderr.split()[-3:]
    print(f"planned in {seconds} s, with at most {int(peak_kib) / 1024**2:.2f} GiB")
    assert code == "0", done.stderr
    assert int(peak_kib) * 1024 < 2 * GIB
    planned = json.loads(done.stdout)
    assert planned["cells"][0]["terms_gib"]["weights_4bit"] == pytest.approx(3.35, abs=0.1)
    page = (Path(__file__).parents[2] / "studies/llama-3.1-8b-tickets-24gb/README.md").read_text(encoding="utf-8")
    peaks = {(cell["rank"], cell["rows"]): f"{cell['peak_gib']:.2f}" for cell in planned["cells"]}
    for rank, *shown in re.findall(r"^\| (\d+)" + r" \| ([\d.]+)↻?" * 4, page, re.MULTILINE):
        assert shown == [peaks[int(rank), rows] for rows in (1, 8, 16, 32)]
    assert f"**{time_text(planned['cost']['total']['seconds']['likely'])}, $1.08**" in page
