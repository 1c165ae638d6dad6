from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from optuna.trial import TrialState, create_trial

from sweeper.cli.main import main
from sweeper.cli.plan import cost_table
from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.data.prompt import Renderer
from sweeper.errors import ConfigError, DataError
from sweeper.models.source import load_tokenizer
from sweeper.money.booking import Activity, Booking, Whose
from sweeper.money.ledger import Ledger
from sweeper.money.pace import Fit, Pace, keep_pace
from sweeper.money.price import Price
from sweeper.paths import Home
from sweeper.preflight.card import Card
from sweeper.preflight.cost import CostEstimate, Part, estimate, lines, pace_key, summary
from sweeper.preflight.forecast import Lengths
from sweeper.preflight.pruning import records
from sweeper.preflight.volume import Reading, Volume, read
from sweeper.search.storage import open_storage
from sweeper.span import Span
from sweeper.trial import RunKind
from tests.launch.test_tables import text

Compose = Callable[..., Config]
CPU = Card("this machine's memory", 8.0, False)
VOLUME = Volume(
    train_rows=2400,
    train_tokens=40,
    passage_tokens=100,
    scored_rows=240,
    confirmation_rows=400,
    test_rows=1000,
    prompt_tokens=50,
    written_tokens=0,
    sample_items=32,
    suite_items=231,
    item_tokens=100,
)
# The demo: 1,200 examples in 4 times 19 steps.
STEPS, TOKENS = 76, 48_000
ITEM_S = 0.02
SUITE_S = 231 * ITEM_S
EVALUATIONS_S = 4 * (0.2 + 2.4 + 32 * ITEM_S)
ALONE_S = STEPS * 0.1 + TOKENS * 0.001 + EVALUATIONS_S
OF_FOUR_S = ALONE_S - 0.75 * (STEPS * 0.1 + 4 * 0.2)  # what comes on top of each tick and each scoring is shared


def line(intercept: float, slope: float) -> Fit:
    fit = Fit()
    for size in (100, 200, 300, 400):
        fit.add(size, intercept + slope * size)
    return fit


PACE = Pace(setup_s=10, tick=line(0.1, 0.001), rows=line(0.2, 0.01), items=line(0, ITEM_S))


@pytest.fixture
def estimated(home: Home, composed_once: Compose) -> Callable[..., CostEstimate]:
    """Estimates the demo without a pruner, over rows of known numbers, with a known pace."""

    def make(*overrides: str, pace: Pace | None = PACE, volume: Volume | None = VOLUME) -> CostEstimate:
        base = ["study=demo", "pruner=none", "engine.device=cpu", "engine.slots=4"]
        config = composed_once(*[one for one in base if one.split("=")[0] not in str(overrides)], *overrides)
        if pace is not None:
            keep_pace(home.pace, pace_key(config, CPU), pace)
        return estimate(config, home, Reading(Lengths(60, 20, 5), True, volume))

    return make


def seconds(found: CostEstimate) -> dict[str, float]:
    return {part.name: part.seconds.likely for part in found.parts}


def test_every_part_is_what_its_work_takes(estimated: Callable[..., CostEstimate]) -> None:
    found = estimated()
    assert found.source == "measured"
    assert found.trials == Span(16, 16, 16)
    assert found.trial is not None
    # Of a measured pace, a fifth less and a fifth more.
    for name, value in (("low", 0.8), ("likely", 1), ("high", 1.2)):
        assert getattr(found.trial.seconds, name) == pytest.approx(value * ALONE_S)
    assert seconds(found) == pytest.approx(
        {
            "set-up": 10,
            "untuned base": 0.2 + 2.4 + SUITE_S,
            "trials": 16 * OF_FOUR_S + records(16, 2) * SUITE_S,
            "confirmation": 4 * OF_FOUR_S + 6 * (0.2 + 4.0),  # two on two seeds each, and both as they were
            "test": 3 * (0.2 + 10.0),
        }
    )
    assert found.total.seconds.likely == pytest.approx(sum(seconds(found).values()))
    assert found.total.usd is None
    assert "no price" in found.price


@pytest.mark.parametrize(
    ("override", "part", "expected"),
    [
        ("search.trials=8", "trials", 8 * OF_FOUR_S + records(8, 2) * SUITE_S),
        ("budget.trials=8", "trials", 8 * OF_FOUR_S + records(8, 2) * SUITE_S),
        ("engine.slots=1", "trials", 16 * ALONE_S + records(16, 2) * SUITE_S),
        ("train.examples=2400", "trials", 16 * (OF_FOUR_S + 48 + 4 * 18 * 0.1 / 4 + 0.1) + records(16, 2) * SUITE_S),
        ("train.batch_size=32", "trials", 16 * (OF_FOUR_S - (76 - 40) * 0.1 / 4) + records(16, 2) * SUITE_S),
        ("evaluation.count=1", "trials", 16 * (OF_FOUR_S - 0.75 * 12.36 - 0.025) + records(16, 2) * SUITE_S),
        ("train.replay=0.5", "trials", 16 * (OF_FOUR_S + 1200 * 0.1) + records(16, 2) * SUITE_S),
        ("confirmation.top=1", "confirmation", 2 * (OF_FOUR_S + (7.6 + 0.8) / 4) + 3 * 4.2),
        ("confirmation.seeds=4", "confirmation", 8 * OF_FOUR_S + 10 * 4.2),
        ("preflight.learning_curve=true", "learning curve", 4 * OF_FOUR_S),
        ("search.trials=1", "test", 2 * 10.2),  # there is no runner-up
    ],
)
def test_each_key_changes_its_part(
    estimated: Callable[..., CostEstimate], override: str, part: str, expected: float
) -> None:
    assert seconds(estimated(override))[part] == pytest.approx(expected, rel=0.002)


def test_a_pruner_shortens_the_likely_figure_alone(estimated: Callable[..., CostEstimate]) -> None:
    whole, pruned = estimated(), estimated("pruner=median")
    assert pruned.trained_share == pytest.approx(1 - 12 / 16 / 2 * 3 / 4)
    trials = next(part for part in pruned.parts if part.name == "trials").seconds
    complete = records(16 * (1 - 12 / 16 / 2), 2)
    assert trials.likely == pytest.approx(16 * OF_FOUR_S * pruned.trained_share + complete * SUITE_S)
    assert trials.high == next(part for part in whole.parts if part.name == "trials").seconds.high
    assert pruned.trial == whole.trial


def test_a_searched_length_is_its_mean_and_its_ends(estimated: Callable[..., CostEstimate]) -> None:
    found = estimated("train.examples=null", "+search.space.epochs=[1,2,6]")
    assert found.trial is not None
    # 2,400 rows in four times 38 steps; twice and six times as much.
    steps_s, tokens_s = 152 * 0.1, 96.0
    one = steps_s + tokens_s + EVALUATIONS_S
    assert found.trial.seconds == Span(*(pytest.approx(value) for value in (0.8 * one, 3 * one, 1.2 * 6 * one)))


def test_configurations_that_come_again_are_not_trained_again(estimated: Callable[..., CostEstimate]) -> None:
    """Five ranks and two ratios; the learning rate has no end of values."""
    space = "~search.space.learning_rate"
    drawn = 10 * (1 - 0.9**16)
    assert estimated(space).trials == Span(pytest.approx(drawn), pytest.approx(drawn), 10)
    assert estimated(space, "search.duplicates=train").trials == Span(16, 16, 16)
    assert estimated(space, "sampler=grid", "search.trials=10").trials == Span(10, 10, 10)


# Money.

PRICED = ["gpu.price_usd_per_hour=3.6"]


def test_dollars_are_seconds_at_the_price(estimated: Callable[..., CostEstimate]) -> None:
    found = estimated(*PRICED)
    for part in (*found.parts, found.total, found.trial):
        assert part is not None
        assert part.usd is not None
        assert part.usd == Span(*(pytest.approx(one / 1000) for one in vars(part.seconds).values()))
    spot = estimated("gpu.billing=spot", "gpu.spot_usd_per_hour=1.8").total.usd
    assert spot is not None
    assert found.total.usd is not None
    assert spot.likely == pytest.approx(found.total.usd.likely / 2)


def test_a_machine_bills_its_boot_and_its_disk(estimated: Callable[..., CostEstimate]) -> None:
    plain, found = estimated(*PRICED), estimated(*PRICED, "gpu.boot_s=100", "gpu.disk_usd_per_hour=3.6")
    assert found.parts[0] == Part("boot", Span(100, 100, 100), Span(*[pytest.approx(0.2)] * 3))
    assert found.total.usd is not None
    assert found.total.usd.likely == pytest.approx(0.2 + 2 * plain.total.seconds.likely / 1000)


def test_an_owned_card_takes_electricity(estimated: Callable[..., CostEstimate]) -> None:
    owned = ["gpu.billing=owned", "gpu.purchase_usd=3600", "gpu.life_hours=1000", "gpu.tariff_usd_per_kwh=0.36"]
    dark, lit = estimated(*owned), estimated(*owned, "gpu.watts=1000")
    assert "electricity comes on top, for gpu.watts is not given" in dark.price
    assert "on top" not in lit.price
    assert (dark.total.usd, lit.total.usd) != (None, None)
    assert dark.total.usd is not None
    assert lit.total.usd is not None
    assert lit.total.usd.likely == pytest.approx(1.1 * dark.total.usd.likely)


def test_a_free_device_costs_nothing_and_is_said_to(estimated: Callable[..., CostEstimate]) -> None:
    found = estimated("gpu.billing=free")
    assert found.total.usd == Span(0, 0, 0)
    assert "$0 an hour" in found.price


def test_a_budget_pays_for_some_trials_beside_the_rest(estimated: Callable[..., CostEstimate]) -> None:
    plain = estimated(*PRICED)
    parts = seconds(plain)
    rest, each = sum(parts.values()) - parts["trials"], parts["trials"] / 16
    usd = (rest + 5.5 * each) / 1000
    [bought] = estimated(*PRICED, f"budget.usd={usd}").bought
    assert (bought.key, bought.trials.likely) == ("budget.usd", 5)
    assert bought.trials.low < 5 < bought.trials.high
    [hours] = estimated(f"budget.hours={(rest + 5.5 * each) / 3600}").bought
    assert (hours.key, hours.trials.likely) == ("budget.hours", 5)
    [nothing] = estimated(*PRICED, "budget.usd=0.01").bought
    assert nothing.trials == Span(0, 0, 0)
    [all_of_it] = estimated(*PRICED, "budget.usd=100").bought
    assert all_of_it.trials.low > 16
    assert lines(estimated(*PRICED, "budget.usd=100"))[2] == "budget.usd=100 pays for all 16 trials"


def test_a_budget_in_dollars_needs_a_price(estimated: Callable[..., CostEstimate]) -> None:
    with pytest.raises(ConfigError, match=r"budget\.usd: dollars need a price, but gpu=auto has none.*gpu=rtx-4090"):
        estimated("budget.usd=1")


# Where the pace comes from.


def test_what_was_not_measured_has_no_figures(estimated: Callable[..., CostEstimate]) -> None:
    found = estimated(pace=None)
    assert (found.source, found.parts, found.trial) == (None, (), None)
    assert "search.trials=1" in found.basis
    assert found.as_dict()["total"] is None
    assert len(lines(found)) == 2
    half = Pace(setup_s=10, tick=line(0.1, 0.001))  # it was killed before it scored
    assert estimated(pace=half).source is None
    gone = estimated(volume=None)
    assert (gone.source, gone.basis) == (None, "the rows are not on this machine, so they cannot be counted")


@pytest.mark.parametrize("override", ["model.quant=none", "engine.threads=3", "model.dtype=bfloat16"])
def test_the_pace_of_another_setting_is_another(
    estimated: Callable[..., CostEstimate], composed_once: Compose, home: Home, override: str
) -> None:
    estimated()
    assert estimated(override, pace=None).source is None
    assert pace_key(composed_once("study=demo", override), CPU) != pace_key(composed_once("study=demo"), CPU)


def test_what_was_not_measured_of_retention_is_read_off_the_rows(estimated: Callable[..., CostEstimate]) -> None:
    """An item of 100 tokens is taken for two rows of 50."""
    pace = replace(PACE, rows=line(0, 0.01), items=Fit())
    base = seconds(estimated(pace=pace))["untuned base"]
    assert base == pytest.approx(240 * 0.01 + 231 * 0.02)


LARGE = ["model=llama-3.1-8b", "gpu=rtx-4090", "gpu.bf16_tflops=165", "engine.device=auto"]
WEIGHTS = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
MEAN_ADAPTER = (4 + 8 + 16 + 32 + 64) / 5 * 32 * (2 * (2 * 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))


def test_a_card_that_is_not_here_is_estimated_by_its_data_sheet(estimated: Callable[..., CostEstimate]) -> None:
    found = estimated(*LARGE, pace=None)
    assert found.source == "data sheet"
    assert found.trial is not None
    reached = 165e12 * 0.25
    forward_s = 2 * (WEIGHTS + MEAN_ADAPTER) / reached
    training_s = TOKENS * (4 * WEIGHTS + 6 * MEAN_ADAPTER) / reached
    likely = training_s + 4 * forward_s * (240 * 50 + 32 * 100)
    assert vars(found.trial.seconds) == pytest.approx(
        {"low": likely * 25 / 40, "likely": likely, "high": likely * 25 / 10}
    )
    assert "165 TFLOPS" in found.basis
    recomputed = estimated(*LARGE, "engine.gradient_checkpointing=true", pace=None)
    assert recomputed.trial_training_s == pytest.approx(training_s + TOKENS * 2 * WEIGHTS / reached)
    faster = estimated(*LARGE[:2], "gpu.bf16_tflops=330", "engine.device=auto", pace=None)
    assert faster.trial_training_s == pytest.approx(training_s / 2)
    unknown = estimated("model=llama-3.1-8b", "gpu=rtx-4090", "gpu.bf16_tflops=null", "engine.device=auto", pace=None)
    assert unknown.source is None
    assert "gpu.bf16_tflops" in unknown.basis


def test_writing_answers_takes_longer_than_reading(estimated: Callable[..., CostEstimate]) -> None:
    reading, writing = (estimated(*LARGE, pace=None, volume=replace(VOLUME, written_tokens=count)) for count in (0, 50))
    ratio = (0.25 / 0.02) + 1  # as many tokens again, at 2 % of the data sheet in place of 25 %
    assert seconds(writing)["test"] == pytest.approx(ratio * seconds(reading)["test"])


# A study that has begun.


def test_of_a_study_that_has_begun_it_is_what_is_left(
    estimated: Callable[..., CostEstimate], home: Home, composed_once: Compose
) -> None:
    storage = open_storage(home)
    study = optuna.create_study(storage=storage, study_name="demo", direction="maximize")
    study.set_user_attr("baseline", {"accuracy": 0.1})
    for value in range(6):
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, user_attrs={"examples_seen": 1200}))
    ledger = Ledger(storage.engine)
    session = ledger.open("demo", "cpu", 0.0, Price.of(composed_once("study=demo", *PRICED).gpu))
    ledger.book(session, [Booking(session, Whose(RunKind.TRIAL, 0), Activity.TRAIN, 100_000_000)], 100_000_000, True)
    found = estimated(*PRICED, "budget.usd=0.1001")
    assert found.is_rest
    assert found.trials.likely == 10
    assert "untuned base" not in seconds(found)
    assert found.bought[0].trials == Span(0, 0, 0)  # $0.10 of it is spent
    assert lines(found)[0].startswith("cost of what is left of it:")
    assert estimated("budget.trials=8").trials.likely == 2
    # Of one that is complete nothing is left.
    study.set_user_attr("test", {"trial": 5})
    found = estimated("search.trials=6", "confirmation.top=0")
    assert (found.is_rest, found.parts, lines(found)) == (True, (), ["cost: nothing is left of it"])
    assert "nothing: the study is complete" in text(cost_table(found)[0])
    [hours] = estimated("budget.hours=1").bought
    assert hours.trials.likely > 0
    booting = Price.of(composed_once("study=demo", *PRICED, "gpu.boot_s=100000").gpu)
    ledger.book(ledger.open("demo", "cpu", 1.0, booting), [], 0, True)
    assert estimated("budget.hours=1").bought == (hours,)  # no worker has booted


# What is read.


@pytest.fixture
def counted(home: Home, composed_once: Compose, few_tickets: Path) -> Callable[..., Volume]:
    def make(*overrides: str) -> Volume:
        config = composed_once("study=demo", "data=files", f"data.path={few_tickets}", *overrides)
        found = read(config, home).volume
        assert found is not None
        return found

    return make


def test_a_model_that_is_cached_is_measured(
    composed_once: Compose, home: Home, few_tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, commit = Path(str(resources.files("sweeper.models") / "tiny" / "weights")), "a1" * 20
    model = tmp_path / "models--acme--tiny"
    shutil.copytree(tiny, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    data = ["data=files", f"data.path={few_tickets}"]

    def of(*overrides: str) -> Reading:
        return read(composed_once("study=demo", "model=hub", "model.path=acme/tiny", *data, *overrides), home)

    assert not of().are_measured
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert of() == read(composed_once("study=demo", *data), home)  # of the same model, in a folder
    assert of(f"model.revision={commit[:7]}").are_measured
    assert not of("model.revision=other").are_measured
    assert not of("model.path=a/b/c").are_measured
    (model / "snapshots" / commit / "tokenizer.json").unlink()
    assert not of().are_measured


def test_only_a_dataset_that_is_not_here_is_not_counted(composed_once: Compose, home: Home, few_tickets: Path) -> None:
    def of(path: object, label: str) -> Volume | None:
        columns = f"data.columns={{text: text, label: {label}}}"
        return read(composed_once("study=demo", "data=hub", f"data.path={path}", columns), home).volume

    assert of("nobody/nothing", "label") is None
    found = of(few_tickets, "label")
    assert found is not None
    assert found.train_rows == 96
    with pytest.raises(DataError, match="unknown column `labels`"):
        of(few_tickets, "labels")


def test_rows_are_counted_as_a_worker_parts_them(
    counted: Callable[..., Volume], composed_once: Compose, home: Home, few_tickets: Path
) -> None:
    found = counted("evaluation.rows=null")
    assert (found.train_rows, found.test_rows) == (96, 36)
    assert found.scored_rows + found.confirmation_rows == 36
    assert found.confirmation_rows == pytest.approx(0.4 * 36, abs=2)
    config = composed_once("study=demo", "data=files", f"data.path={few_tickets}")
    data = rows.of(config)
    rendered = Renderer(load_tokenizer(config.model, home), config.prompt, data.labels)
    examples = rendered.examples(data.train)
    assert found.train_tokens == pytest.approx(sum(map(len, examples)) / 96)
    prompts = rendered.prompts([*data.validation, *data.test])
    assert found.prompt_tokens == pytest.approx(sum(map(len, prompts)) / 72)
    assert (found.sample_items, found.suite_items, found.written_tokens) == (32, 231, 0)
    few = counted("evaluation.rows=12")
    assert (few.scored_rows, few.confirmation_rows) == (12, 24)


def test_settings_of_what_is_scored_change_the_count(counted: Callable[..., Volume]) -> None:
    assert counted("confirmation.top=0", "evaluation.rows=null").scored_rows == 36
    assert counted("retention.sample=4").sample_items == 8
    without = counted("retention.choices=null", "retention.passages=null")
    assert (without.sample_items, without.suite_items) == (0, 0)
    assert counted("train.replay=0.1").passage_tokens > 0 == counted().passage_tokens


def test_without_a_tokenizer_the_limits_count(counted: Callable[..., Volume]) -> None:
    found = counted("model=qwen2.5-0.5b", "prompt.max_tokens=300")
    assert (found.train_rows, found.train_tokens, found.prompt_tokens) == (96, 300, 300)
    assert (found.sample_items, found.suite_items) == (32, 231)


# What is shown.


def test_a_summary_has_four_lines_and_stops_no_launch(home: Home, composed_once: Compose, few_tickets: Path) -> None:
    def make(*overrides: str) -> list[str]:
        files = ["data=files", f"data.path={few_tickets}", "train.examples=96"]
        return summary(composed_once("study=demo", "engine.device=cpu", *files, *overrides), home)

    assert make()[0].startswith("cost: nothing has been measured with tiny and task=classification")
    keep_pace(home.pace, pace_key(composed_once("study=demo"), CPU), PACE)
    found = make("budget.usd=5", *PRICED)
    assert len(found) == 4
    assert found[0].startswith("cost of all of it: ")
    assert found[0].endswith("at $3.6 an hour (auto, on demand; your own price)")
    assert "16 trials" in found[2]
    [why] = make("budget.usd=5")
    assert why.startswith("no estimate of its cost: 1 problem in the configuration")
    [why] = make("data.path=/nowhere")
    assert "there is no /nowhere" in why


def test_a_table_has_every_part(estimated: Callable[..., CostEstimate]) -> None:
    from rich.console import Console

    def shown(found: CostEstimate) -> str:
        console = Console(width=80)
        with console.capture() as capture:
            for one in cost_table(found):
                console.print(one)
        return capture.get()

    text = shown(estimated("pruner=median", "budget.usd=0.5", *PRICED))
    for word in ("one trial, alone", "set-up", "untuned base", "16 trials", "confirmation", "test", "all"):
        assert f"  {word} " in text
    assert "The pruner is taken to leave 72% of all trials' length" in text
    assert "budget.usd=0.5 pays for" in text
    assert "$" not in shown(estimated())
    assert "Time and money: nothing has been measured" in shown(estimated("engine.threads=2", pace=None))


def test_a_plan_with_a_budget_but_no_price_is_refused(home: Home) -> None:
    arguments = ["plan", "study=demo", "budget.usd=1", f"store.home={home.root}"]
    result: Any = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "budget.usd: dollars need a price, but gpu=auto has none" in result.stderr


def test_what_trials_together_gain(estimated: Callable[..., CostEstimate]) -> None:
    assert estimated("engine.slots=auto", pace=None).packing is None
    found = estimated("engine.slots=auto")
    assert found.packing is not None
    assert found.packing.as_dict() == pytest.approx({"fixed_s": 0.1, "token_s": 0.001, "tokens": TOKENS / STEPS})
    assert found.slots == found.packing.best(4) == 2  # up to a quarter of the sixteen trials
    assert estimated("engine.slots=2").slots == 2

    measured = estimated("engine.slots=auto", pace=replace(PACE, step=(10.0, 0.001)))  # side by side, for this choice
    assert measured.packing is not None
    assert measured.packing.fixed_s == 10.0
    assert measured.slots == 4
