"""The times that `make gpu-check` takes, the line through them, and the goals, with a toy on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sweeper.engine.lora import PackedLoRA
from sweeper.engine.pack import Pack
from tests.gpu import goals, packs, steps, timing
from tests.gpu.goals import Line
from tests.gpu.shapes import SHAPES, attach, linear_weights, random_base, random_pack, set_rows

CPU = torch.device("cpu")
RATE = 0.1  # TFLOP/s


def _end_s() -> float:
    return time.monotonic() + 100


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "TOKENS", {False: (64, 1024), True: (64,)})
    monkeypatch.setattr(packs, "SLOTS", (4, 2))
    monkeypatch.setattr(packs, "TOKENS", (64, 128))
    monkeypatch.setattr(packs, "LONG_TOKENS", (1024,))
    monkeypatch.setattr(packs, "FEW_SLOTS", 2)


def _breaks(monkeypatch: pytest.MonkeyPatch, at: set[int], error: RuntimeError) -> None:
    """These ticks, counted from 0, fail."""
    calls = iter(range(1000))
    tick = Pack.tick

    def breaking(pack: Pack) -> Any:
        if next(calls) in at:
            raise error
        return tick(pack)

    monkeypatch.setattr(Pack, "tick", breaking)


def test_what_is_measured_covers_what_was_asked_for() -> None:
    assert steps.TOKENS[False] == tuple(2**power for power in range(6, 14))
    cells = {(slots, tokens) for slots in packs.SLOTS for tokens in packs.tokens_of(slots)}
    assert cells == {(slots, tokens) for slots in (2, 4, 8, 16) for tokens in (64, 128, 256, 512)} | {
        (slots, tokens) for slots in (2, 4) for tokens in (1024, 4096)
    }
    for goal in goals.GOALS:  # each can be met
        assert {(slots, tokens) for slots in goal.slots for tokens in goal.tokens} <= cells
        assert set(goal.shapes) <= set(SHAPES)


@pytest.mark.parametrize(("tokens", "rows", "seq"), [(64, 1, 64), (512, 1, 512), (4096, 8, 512)])
def test_a_trial_reads_its_tokens_in_few_rows(tokens: int, rows: int, seq: int) -> None:
    case = timing.case_of(2, tokens, is_checkpointed=True)
    assert (case.slots, case.rows, case.seq, case.is_checkpointed) == (2, rows, seq, True)


def test_utilisation_counts_the_linears_of_the_base() -> None:
    weights = linear_weights(random_base("toy", CPU))
    assert weights == 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
    assert timing.utilisation(10**9, 1000, False, 1.0, 8.0) == pytest.approx(0.5)  # 4 TFLOP in a second of 8
    assert timing.utilisation(10**9, 1000, True, 1.0, 8.0) == pytest.approx(0.75)
    rate = timing.gemm(CPU)
    assert rate["tflop_per_s"] == pytest.approx(2 * rate["size"] ** 3 / rate["median_s"] / 1e12, rel=0.01)
    assert rate["repeats"] == timing.GEMM_REPEATS


@pytest.mark.usefixtures("few")
def test_steps_are_measured_and_what_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    _breaks(monkeypatch, {3}, RuntimeError("CUDA error: out of memory\nmore"))
    rows = list(steps.measured("toy", CPU, _end_s(), RATE))
    assert [(row["tokens"], row["is_checkpointed"]) for row in rows] == [(64, False), (1024, False), (64, True)]
    assert [row.get("error") for row in rows] == ["RuntimeError: CUDA error: out of memory", None, None]
    for row in rows[1:]:
        assert row["steps"] == 5
        assert row["tokens_per_s"] == pytest.approx(row["tokens"] / row["step_s"], rel=0.01)
        weights = linear_weights(random_base("toy", CPU))
        used = timing.utilisation(weights, row["tokens"], row["is_checkpointed"], row["step_s"], RATE)
        assert row["utilisation"] == pytest.approx(used, rel=0.01)


@pytest.mark.usefixtures("few")
def test_a_pack_takes_turns_with_a_single_trial() -> None:
    rows = list(packs.measured("toy", CPU, _end_s(), RATE))
    cells = [(row["slots"], row["slot_tokens"]) for row in rows]
    assert cells == [(4, 64), (4, 128), (2, 64), (2, 128), (2, 1024)]
    for row in rows:
        assert row["pairs"] == packs.PAIRS
        assert row["speedup"] == pytest.approx(row["slots"] * row["solo_s"] / row["step_s"], rel=0.01)
        low, high = row["speedup_range"]
        assert low <= high
        assert row["tokens_per_s"] == pytest.approx(row["slots"] * row["slot_tokens"] / row["step_s"], rel=0.01)
        more = row["utilisation"] / row["solo_utilisation"]  # the base does as much for each token, whoever reads it
        assert more == pytest.approx(row["speedup"], rel=0.05)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_packs_that_take_turns_do_what_each_does_alone(is_checkpointed: bool) -> None:
    """Were a layer or the recomputing still another pack's, gradients would differ."""
    model = random_base("toy", CPU)
    cases = [timing.case_of(slots, 64, is_checkpointed) for slots in (1, 3)]
    longer = [timing.case_of(slots, 128, is_checkpointed) for slots in (1, 3)]

    def norms(pack: Pack) -> list[float]:
        return [tick.grad_norm for tick in pack.tick()]

    alone = []
    for case, more in zip(cases, longer, strict=True):
        pack = random_pack(model, case)
        found = [norms(pack)]
        set_rows(pack, more)
        alone.append([*found, norms(pack)])
        pack.stack.detach()
    pair = []
    for case in cases:
        pair.append(random_pack(model, case))
        pair[-1].stack.detach()
    turns: list[list[list[float]]] = [[], []]
    for each in (cases, longer):
        for number, pack in enumerate(pair):
            set_rows(pack, each[number])
            attach(pack)
            turns[number].append(norms(pack))
    assert turns == alone
    assert sum(isinstance(module, PackedLoRA) for module in model.modules()) == 14


@pytest.mark.usefixtures("few")
def test_what_does_not_fit_is_recomputed_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair of two slots at 128 tokens does not fit: neither does what is larger."""
    monkeypatch.setattr(packs, "SLOTS", (2,))
    turn = 2 * (packs.WARM_UP_PAIRS + packs.PAIRS)
    _breaks(monkeypatch, {turn + 1}, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"))
    rows = list(packs.measured("toy", CPU, _end_s(), RATE))
    assert [row["is_checkpointed"] for row in rows] == [False, True, True]
    assert [row.get("kept_error") for row in rows] == [
        None,
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "256 tokens did not fit",
    ]
    assert all(row["speedup"] > 0 for row in rows)


@pytest.mark.usefixtures("few")
def test_a_pair_that_fails_is_a_row_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _breaks(monkeypatch, {1}, RuntimeError("CUDA error: misaligned address"))
    rows = list(packs.measured("toy", CPU, _end_s(), RATE))
    assert rows[0]["error"] == "RuntimeError: CUDA error: misaligned address"
    assert all(row["is_checkpointed"] is False and row["speedup"] > 0 for row in rows[1:])


@pytest.mark.usefixtures("few")
def test_a_part_ends_in_time_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only ticks advance: each takes a second."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tick = Pack.tick

    def slow(pack: Pack) -> Any:
        nonlocal now
        now += 1.0
        return tick(pack)

    monkeypatch.setattr(Pack, "tick", slow)
    rows = list(packs.measured("toy", CPU, 18.0, RATE))
    # 12 ticks for the first cell; of the second a pair to warm up and three that count.
    assert [row.get("pairs") for row in rows] == [5, 3, None, None, None]
    assert [row.get("error") for row in rows] == [None, None, *["no time left"] * 3]
    now = 0.0
    rows = list(steps.measured("toy", CPU, 8.5, RATE))
    assert [row.get("steps") for row in rows] == [5, 2, None]


def test_a_line_goes_through_what_lies_on_one() -> None:
    line = Line.through((n, 0.2 + n / 10_000) for n in (64, 512, 4096))
    assert line.as_dict() == {"intercept_s": 0.2, "tokens_per_s": 10_000.0}
    assert line.speedup(8, 256) == pytest.approx(8 * (0.2 + 0.0256) / (0.2 + 0.2048))
    assert line.speedup(1, 256) == 1
    # By hand: means 2 and 3, slope (−1·−1 + 0·−1 + 1·2) / 2 = 1.5, intercept 3 − 2 · 1.5 = 0.
    assert Line.through([(1, 2.0), (2, 2.0), (3, 5.0)]) == Line(pytest.approx(0.0), pytest.approx(1.5))


def test_a_line_is_never_below_zero() -> None:
    falling = Line.through([(64, 0.3), (128, 0.2), (256, 0.1)])
    assert falling == Line(pytest.approx(0.2), 0.0)
    assert falling.as_dict()["tokens_per_s"] is None
    assert falling.speedup(16, 256) == 16
    # Least squares through the origin: Σnt / Σn².
    assert Line.through([(1, 0.5), (2, 3.0), (3, 6.0)]) == Line(0.0, pytest.approx((0.5 + 6.0 + 18.0) / 14))
    assert Line.through([(64, 0.1), (64, 0.3)]) == Line(pytest.approx(0.2), 0.0)


def _cells(shape: str, **figures: float) -> Iterator[dict[str, Any]]:
    """All cells of a shape, with the same figures, of trials whose step takes 0.1 s and 1 ms a token."""
    for slots in packs.SLOTS:
        for tokens in packs.tokens_of(slots):
            cell = {"shape": shape, "slots": slots, "slot_tokens": tokens, "is_checkpointed": False}
            yield {**cell, "solo_s": 0.1 + tokens / 1000, **figures}


def test_a_speedup_is_foretold_from_single_trials_alone() -> None:
    rows = [*_cells("8b", speedup=2.0), {"shape": "8b", "slots": 2, "slot_tokens": 64, "error": "no time left"}]
    own = goals.foretold(rows, [])
    assert own["fits"] == [
        {
            "shape": "8b",
            "is_checkpointed": False,
            "of": "packs",
            "points": 6,
            "intercept_s": 0.1,
            "tokens_per_s": 1000.0,
            "worst_error": 0.0,
            "cells": 20,
            "mean_absolute_speedup_error": pytest.approx(own["fits"][0]["mean_absolute_speedup_error"]),
        }
    ]
    first = own["rows"][0]
    assert first["predicted_speedup"] == pytest.approx(16 * 0.164 / 1.124, abs=1e-4)
    assert first["speedup_error"] == pytest.approx(first["predicted_speedup"] / 2 - 1, abs=1e-4)
    assert own["rows"][-1] == rows[-1]
    assert "predicted_speedup" not in rows[0]
    alone = [{"shape": "8b", "tokens": n, "is_checkpointed": False, "step_s": 0.2} for n in (64, 512, 8192)]
    alone += [{"shape": "8b", "tokens": n, "is_checkpointed": True, "step_s": 9.0} for n in (64, 512, 8192)]
    [fit] = goals.foretold(rows, alone)["fits"]
    assert (fit["of"], fit["points"], fit["intercept_s"], fit["tokens_per_s"]) == ("steps", 3, 0.2, None)
    assert goals.foretold(rows[:2], [])["fits"] == []  # two points make any line


def test_goals_stand_beside_what_was_found_and_nothing_is_claimed_of_what_was_not() -> None:
    def verdicts(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(goal["lowest"], goal["is_floor_met"], goal["is_target_met"]) for goal in goals.table(rows)]

    assert [(goal.floor, goal.target) for goal in goals.GOALS] == [(2, 3.5), (3, 6), (0.97, None), *[(0.35, 0.5)] * 2]
    assert verdicts([]) == [(None, None, None)] * 5
    large = list(_cells("8b", speedup=3.0, utilisation=0.6))
    assert verdicts(large) == [
        (3.0, True, False),
        (None, None, None),
        (3.0, None, None),  # of one shape in three
        (0.6, True, True),
        (None, None, None),
    ]
    whole = [row | {"speedup": 0.9} for shape in ("0.5b", "1.5b") for row in _cells(shape)] + large
    assert verdicts(whole)[1:3] == [(0.9, False, False), (0.9, False, None)]
    rest = [row for row in large if (row["slots"], row["slot_tokens"]) != (16, 256)]
    assert verdicts(rest)[0] == (3.0, None, False)  # the floor may yet be missed; the target is already
    [short, *_] = goals.table(rest)
    assert (short["cells"], short["measured"], short["highest"]) == (4, 3, 3.0)
