from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from sweeper.data.example import Example
from sweeper.engine.attention import is_supported
from sweeper.engine.batches import Item, new_chunk, shared_tokens, unpadded_chunk
from sweeper.engine.compatibility import verify
from sweeper.engine.pack import Pack
from tests.conftest import random_examples, small_model, trial_params
from tests.engine.oracle import admit, new_pack
from tests.engine.test_architectures import architecture

CPU = torch.device("cpu")
BEGINNING = (5, 6, 7, 8, 9)


def begun_alike(examples: Sequence[Example]) -> list[Example]:
    return [Example(BEGINNING + example.prompt, example.answer) for example in examples]


def gradients(pack: Pack, is_unpadded: bool) -> tuple[list[float], list[torch.Tensor]]:
    pack.is_unpadded = is_unpadded
    pack.model.train()
    items, divisors = pack._items([pack._batch(slot) for slot in pack.slots])
    losses = pack._backward(items, divisors)
    return losses, [bucket.grad.clone() for bucket in pack.stack.buckets]


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("is_alike", [False, True])
def test_without_padding_gradients_are_the_same(is_alike: bool, dropout: float, gradient_checkpointing: bool) -> None:
    """Rows of 3 to 60 tokens make several groups; those that begin alike share that, but not under dropout."""
    examples = random_examples(30, longest=60)
    examples = begun_alike(examples) if is_alike else examples
    pack = new_pack(small_model(), examples, gradient_checkpointing=gradient_checkpointing)
    for number, (rank, batch) in enumerate([(8, 4), (4, 6), (32, 3)]):
        admit(pack, number, trial_params(rank=rank, batch_size=batch, dropout=dropout))
    for slot in pack.slots:
        slot.step = 1
    pack.tick()  # B is zero at first, and so is A's gradient
    assert pack.is_unpadded
    (losses, ours), (expected, theirs) = gradients(pack, True), gradients(pack, False)
    assert losses == pytest.approx(expected, abs=1e-12)
    # Llama's norms compute in float32: what differs in the last digit of float64 may be rounded to either side there.
    tolerance = 1e-7 if is_alike and not dropout else 1e-12
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).abs().max()) < tolerance
        assert float(other.abs().max()) > 1e-3


def test_a_chunk_has_no_padding_and_each_beginning_once_for_a_slot() -> None:
    rows = [(0, (1, 2, 3, 4, 5)), (0, (1, 2, 3, 9)), (1, (1, 2, 3, 7, 7, 7, 7)), (1, (1, 2, 3, 8))]
    items = [Item(slot, tokens, key) for key, (slot, tokens) in enumerate(rows)]
    assert shared_tokens(items) == 3
    chunk = unpadded_chunk(items, CPU)
    assert chunk.tokens.tolist() == [[1, 2, 3, 4, 5, 9, 1, 2, 3, 7, 7, 7, 7, 8]]
    assert chunk.rows == [(0, 6), (1, 8)]
    assert chunk.spans is not None
    assert chunk.spans.positions.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2, 3, 4, 5, 6, 3]
    flat = chunk.tokens.flatten()
    for index, (_, tokens) in enumerate(rows):
        assert [int(flat[chunk.place(index, place)]) for place in range(len(tokens))] == list(tokens)
    assert unpadded_chunk(items, CPU, may_share=False).tokens.numel() == sum(len(tokens) for _, tokens in rows)
    assert new_chunk(items, 0, CPU).tokens.numel() == 4 * 7


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([(1, 2, 3), (1, 2, 3)], 2),  # each keeps one token of its own
        ([(1, 2, 3), (4, 2, 3)], 0),
        ([(1, *range(50)), (1, *range(9, 60))], 0),  # too little for what it costs
    ],
)
def test_what_is_shared(rows: list[tuple[int, ...]], shared: int) -> None:
    assert shared_tokens([Item(0, tokens, key) for key, tokens in enumerate(rows)]) == shared
    assert shared_tokens([Item(key, tokens, key) for key, tokens in enumerate(rows)]) == 0  # a slot has its own


@pytest.mark.parametrize("kind", ["mistral", "qwen3", "cohere", "olmo2"])
def test_a_window_ends_where_it_did_with_padding(kind: str) -> None:
    """Rows are longer than the window of 8, with a beginning that some of it covers."""
    pack = new_pack(architecture(kind), begun_alike(random_examples(8, longest=40)))
    verify(pack)
    assert pack.is_unpadded
    items = [Item(0, example.tokens, key) for key, example in enumerate(pack.examples)]
    found = []
    for is_unpadded in (True, False):
        pack.is_unpadded = is_unpadded
        chunk = pack.chunk(items)
        with torch.no_grad(), pack.stack.using(pack.stack.layout((), spans=chunk.spans)):
            hidden = pack.head.hidden(chunk)
        places = [chunk.place(index, token) for index, item in enumerate(items) for token in range(len(item.tokens))]
        found.append(hidden[places])
    assert float((found[0] - found[1]).abs().max()) < 1e-10


def test_attention_of_ones_own_is_left_alone() -> None:
    assert not is_supported(architecture("gemma2"))  # soft-capped, which is for eager attention alone
    assert not is_supported(architecture("llama", attn_implementation="eager"))


def test_a_window_that_is_in_the_mask_alone_keeps_the_mask() -> None:
    """Qwen2-MoE does not hand its window to the attention function, so without a mask there would be none."""
    model = architecture("mistral", sliding_window=8)
    for layer in model.model.layers:
        layer.self_attn.forward = windowless(layer.self_attn)
    pack = new_pack(model, [])
    assert pack.is_unpadded
    verify(pack)
    assert not pack.is_unpadded


def windowless(attention: Any) -> Callable[..., Any]:
    own = attention.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        before, attention.config.sliding_window = attention.config.sliding_window, None
        try:
            return own(*args, **kwargs)
        finally:
            attention.config.sliding_window = before

    return forward


def test_a_model_that_does_not_run_without_padding_is_padded() -> None:
    model = architecture("llama")
    decoder = model.get_decoder()
    own = decoder.forward

    def forward(position_ids: Any = None, **kwargs: Any) -> Any:
        if position_ids is not None and (position_ids.diff() < 0).any():
            raise TypeError("got multiple values for keyword argument 'is_causal'")
        return own(position_ids=position_ids, **kwargs)

    decoder.forward = forward
    pack = new_pack(model, [])
    verify(pack)
    assert not pack.is_unpadded


def test_a_model_that_counts_positions_by_itself_is_padded() -> None:
    model = architecture("opt")
    decoder = model.get_decoder()
    own = decoder.forward
    decoder.forward = lambda position_ids=None, **kwargs: own(**kwargs)
    pack = new_pack(model, [])
    assert pack.is_unpadded
    verify(pack)
    assert not pack.is_unpadded
    assert model.config._attn_implementation == "sdpa"
