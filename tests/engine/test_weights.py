"""Weights of rows: a row that weighs double is a row that is there twice, in any slot and any cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sweeper.config.schema import Config
from sweeper.data.example import Example, balanced
from sweeper.engine.pack import Pack
from sweeper.paths import Home
from sweeper.worker.workbench import set_up
from tests.conftest import SHORT, random_examples, small_model
from tests.engine.oracle import TRIALS, admit, new_pack


def gradients(examples: list[Example], rows: list[int], chunk_tokens: int) -> tuple[list[float], list[torch.Tensor]]:
    """Of two slots on the same rows: their losses, and their gradients."""
    pack: Pack = new_pack(small_model(), examples, chunk_tokens)
    for number in (0, 1):
        admit(pack, number, TRIALS[number])
    losses = pack._backward(*pack._items([rows, rows]))
    return losses, [bucket.grad.clone() for bucket in pack.stack.buckets]


@pytest.mark.parametrize("chunk_tokens", [4096, 1])
def test_a_row_that_weighs_double_is_there_twice(chunk_tokens: int) -> None:
    plain = random_examples(4)
    heavy = [replace(example, weight=2.0 if place == 1 else 1.0) for place, example in enumerate(plain)]
    losses, grads = gradients(heavy, [0, 1, 2], chunk_tokens)
    expected_losses, expected_grads = gradients(plain, [0, 1, 1, 2], chunk_tokens)
    assert losses == pytest.approx(expected_losses, rel=1e-12)
    for grad, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-13)
    assert losses != pytest.approx(gradients(plain, [0, 1, 2], chunk_tokens)[0], rel=1e-6)
    double = [replace(example, weight=2.0) for example in plain]  # all alike: no difference
    assert gradients(double, [0, 1, 2], chunk_tokens)[0] == pytest.approx(gradients(plain, [0, 1, 2], 4096)[0])


def test_weights_are_no_tokens() -> None:
    slots = []
    for weight in (1.0, 3.0):
        pack = new_pack(small_model(), [replace(example, weight=weight) for example in random_examples(8)])
        slots.append(admit(pack, 0, TRIALS[0]))
        pack.tick()
    assert slots[0].supervised_tokens == slots[1].supervised_tokens > 0


def test_each_label_counts_the_same() -> None:
    labels = ["a"] * 6 + ["b"] * 2 + ["c"]
    weights = [example.weight for example in balanced(random_examples(9), labels)]
    assert sum(weights) == pytest.approx(9)
    for label in "abc":
        assert sum(w for w, own in zip(weights, labels, strict=True) if own == label) == pytest.approx(3)


def test_the_key_weighs_training_rows(composed: Callable[..., Config], home: Home, few_tickets: Path) -> None:
    for overrides, is_weighted in (((), False), (("data.class_weight=balanced",), True)):
        bench = set_up(composed(*SHORT, f"data.path={few_tickets}", *overrides), home)
        assert (len({example.weight for example in bench.pack.examples}) > 1) is is_weighted
