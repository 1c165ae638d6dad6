"""Generation in a pack; that each architecture writes what PEFT's writes is in test_architectures.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sweeper.engine.batches import Item
from sweeper.engine.pack import Pack
from tests.conftest import random_examples, small_model
from tests.engine.oracle import TRIALS, admit, new_pack


def trained(chunk_tokens: int = 4096) -> Pack:
    model = small_model()
    for parameter in model.parameters():  # or every row would write the same
        parameter.data.mul_(6.0) if parameter.dim() > 1 else None
    pack = new_pack(model, random_examples(20), chunk_tokens)
    for number, params in enumerate(TRIALS[:4]):
        admit(pack, number, params)
    for _ in range(4):
        pack.tick()
    return pack


def items(slots: int = 4) -> list[Item]:
    prompts = [example.prompt for example in random_examples(9, seed=3)]
    return [Item(slot, prompt) for slot in range(slots) for prompt in prompts]


def written(pack: Pack, items: Sequence[Item], **settings: Any) -> list[tuple[int, ...]]:
    return [tokens for tokens, _ in pack.generate(items, **settings)]


def test_chunks_and_neighbours_do_not_change_what_is_written() -> None:
    pack = trained()
    expected = written(pack, items(), max_new_tokens=8, end_tokens=[])
    assert all(len(tokens) == 8 for tokens in expected)
    assert len(set(expected)) > 9
    for budget in (400, 90, 1):
        pack.chunk_tokens = budget
        assert written(pack, items(), max_new_tokens=8, end_tokens=[]) == expected
    for item, tokens in zip(items(), expected, strict=True):
        assert written(pack, [item], max_new_tokens=8, end_tokens=[]) == [tokens]


def test_a_continuation_ends_before_an_end_token() -> None:
    pack = trained()
    whole = written(pack, items(), max_new_tokens=8, end_tokens=[])
    ends = [whole[0][3], whole[20][5]]
    for tokens, cut in zip(whole, written(pack, items(), max_new_tokens=8, end_tokens=ends), strict=True):
        end = next((place for place, token in enumerate(tokens) if token in ends), 8)
        assert cut == tokens[:end]


def test_it_is_greedy_whatever_the_models_own_settings_are() -> None:
    pack = trained()
    expected = written(pack, items(), max_new_tokens=4, end_tokens=[])
    settings = pack.model.generation_config
    settings.do_sample, settings.temperature, settings.repetition_penalty = True, 5.0, 3.0
    torch.manual_seed(1)
    assert written(pack, items(), max_new_tokens=4, end_tokens=[]) == expected


def test_the_base_alone_writes_as_without_a_pack() -> None:
    pack = trained()
    [packed] = written(pack, [Item(0, (5, 6, 7))], max_new_tokens=5, end_tokens=[], with_adapters=False)
    pack.stack.detach()
    tokens = [5, 6, 7]
    for _ in range(5):
        logits = pack.model(input_ids=torch.tensor([tokens])).logits[0, -1]
        tokens.append(int(logits.argmax()))
    assert packed == tuple(tokens[3:])


def test_a_continuation_has_the_mean_log_probability_of_its_tokens_and_its_end() -> None:
    pack = trained()
    plain = written(pack, [Item(0, (5, 6, 7))], max_new_tokens=5, end_tokens=[], with_adapters=False)[0]
    beside = [Item(0, (5, 6, 7)), Item(1, (8, 9))]  # of another length, so that it is padded
    whole = pack.generate(beside, max_new_tokens=5, end_tokens=[], with_adapters=False)[0]
    cut = pack.generate(beside, max_new_tokens=5, end_tokens=[plain[2]], with_adapters=False)[0]
    pack.stack.detach()
    logits = pack.model(input_ids=torch.tensor([[5, 6, 7, *plain]])).logits[0, 2:-1].log_softmax(-1)
    steps = logits[range(5), list(plain)]
    assert (whole.tokens, cut.tokens) == (plain, plain[: plain.index(plain[2])])
    assert whole.log_probability == pytest.approx(float(steps.mean()), abs=1e-5)
    assert cut.log_probability == pytest.approx(float(steps[: len(cut.tokens) + 1].mean()), abs=1e-5)
