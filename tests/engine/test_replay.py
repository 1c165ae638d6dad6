"""Replay in a pack: each trial reads its own share of passages, and gets what it would get alone."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sweeper.data.example import Example
from sweeper.engine import checkpoint
from sweeper.engine.batches import Item, replayed_rows
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot
from sweeper.trial import Rhythm
from tests.conftest import random_examples, small_model, trial_params
from tests.engine.oracle import SEED, admit, largest_difference, new_pack, rhythm_of, train_alone

STEPS = 10
SHARES = (0.0, 0.1, 0.5, 0.9)
TRIALS = [
    trial_params(rank=4 * (place + 1), batch_size=2 + place, replay=share, dropout=0.2 * (place % 2))
    for place, share in enumerate(SHARES)
]


def passages(count: int = 11) -> list[Example]:
    """Texts that are trained on from their second token on."""
    whole = [example.tokens for example in random_examples(count, seed=7, longest=25)]
    return [Example(tokens[:1], tokens[1:]) for tokens in whole]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("batch_size", [1, 7, 8])
def test_passages_come_in_their_share_whatever_the_batch(share: float, batch_size: int) -> None:
    rhythm = Rhythm(interval_examples=45, evaluations=4, batch_size=batch_size)
    steps = [replayed_rows(rhythm, step, 11, SEED, share) for step in range(rhythm.total_steps)]
    positions = [position for read in steps for position, _ in read]
    assert positions == list(range(round(180 * share / (1 - share))))  # each once, none left out
    whole = batch_size * share / (1 - share)
    assert all(len(read) in (int(whole), int(whole) + 1) for read in steps if len(read) > whole)
    rows = [row for read in steps for _, row in read]
    for begin in range(0, len(rows) - 10, 11):  # all of them before any comes again
        assert sorted(rows[begin : begin + 11]) == list(range(11))


def test_all_trials_of_a_share_see_the_same_passages_at_the_same_examples() -> None:
    rhythms = [Rhythm(interval_examples=60, evaluations=2, batch_size=size) for size in (4, 6)]
    seen = [[row for step in range(r.total_steps) for _, row in replayed_rows(r, step, 11, 3, 0.25)] for r in rhythms]
    assert seen[0] == seen[1]
    other = [row for step in range(30) for _, row in replayed_rows(rhythms[0], step, 11, 4, 0.25)]
    assert seen[0] != other


@pytest.mark.parametrize("chunk_tokens", [4096, 60])
def test_packed_training_with_replay_equals_peft_alone(chunk_tokens: int) -> None:
    base, examples, texts = small_model(), random_examples(30), passages()
    pack = new_pack(deepcopy(base), examples, chunk_tokens, replay=texts)
    slots = [admit(pack, number, params) for number, params in enumerate(TRIALS)]
    initial = [pack.state(slot) for slot in slots]
    losses = [[tick.loss for tick in pack.tick()] for _ in range(STEPS)]
    for slot, params, begin, ours in zip(slots, TRIALS, initial, zip(*losses, strict=True), strict=True):
        alone = train_alone(base, params, begin, examples, STEPS, texts)
        assert list(ours) == pytest.approx(alone.losses, abs=1e-12)
        assert largest_difference(pack.state(slot).tensors["weight"], alone.weights) <= 1e-12
        task = slot.examples_seen
        read = sum(len(replayed_rows(slot.rhythm, step, 11, SEED, params.replay)) for step in range(STEPS))
        assert read == int(task * params.replay / (1 - params.replay) + 1e-9)


def test_without_a_share_nothing_is_read_of_the_passages() -> None:
    results = []
    for texts in ([], passages()):
        pack = new_pack(small_model(), random_examples(30), replay=texts)
        slot = admit(pack, 0, TRIALS[0])
        losses = [pack.tick()[0].loss for _ in range(3)]
        results.append((losses, slot.train_tokens, slot.supervised_tokens, pack.state(slot).tensors["weight"]))
    (*plain, weights), (*beside, others) = results
    assert plain == beside
    assert largest_difference(weights, others) == 0.0


def test_a_resumed_trial_reads_on_where_it_was(tmp_path: Path) -> None:
    """In another slot, of another pack, from its checkpoint."""

    def new() -> Pack:
        return new_pack(small_model(), random_examples(30), replay=passages())

    def finish(pack: Pack, slot: Slot) -> None:
        for _ in range(4):
            pack.tick()

    whole = new()
    slot = admit(whole, 2, TRIALS[2])
    finish(whole, slot)
    checkpoint.save(tmp_path / "c", slot, whole.state(slot))
    resumed, state = checkpoint.load(tmp_path / "c")
    assert resumed.params.replay == 0.5
    later = new()
    admit(later, 1, TRIALS[1])
    later.admit(resumed, state)
    finish(whole, slot)
    finish(later, resumed)
    assert largest_difference(whole.state(slot).tensors["weight"], later.state(resumed).tensors["weight"]) <= 1e-15
    assert (slot.train_tokens, slot.supervised_tokens) == (resumed.train_tokens, resumed.supervised_tokens)


def test_a_passage_counts_as_much_as_its_weight_says() -> None:
    """Of the gradient, since that of a sum is linear in the weights."""
    params = trial_params(batch_size=1, replay=0.5, max_grad_norm=1e9)
    losses = []
    for weight in (1.0, 0.25, 0.0):
        texts = [replace(text, weight=weight) for text in passages(1)]
        pack = new_pack(small_model(), random_examples(1), replay=texts)
        admit(pack, 0, params)
        losses.append(pack.tick()[0].loss)
    tokens, passage = random_examples(1)[0].supervised_tokens, passages(1)[0].supervised_tokens
    alone, together = losses[2] * tokens, losses[0] * (tokens + passage)
    expected = (alone + 0.25 * (together - alone)) / (tokens + 0.25 * passage)
    assert losses[1] == pytest.approx(expected, rel=1e-12)


def test_a_rehearsal_reads_passages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [Example((5,), tuple(range(6, 66)))]
    pack = new_pack(small_model(torch.float32), random_examples(4), dtype=torch.float32, replay=texts)
    slot, state = pack.new_slot(0, TRIALS[0], rhythm_of(TRIALS[0]), SEED)
    pack.admit(slot, state)
    trained: list[Item] = []
    step = pack._step

    def spied(items: list[Item], divisors: list[float]) -> tuple[list[float], list[float]]:
        trained.extend(items)
        return step(items, divisors)

    monkeypatch.setattr(pack, "_step", spied)
    pack.rehearse([~0, 1])
    assert [(item.key, item.tokens) for item in trained] == [(~0, texts[0].tokens), (1, pack.examples[1].tokens)]
