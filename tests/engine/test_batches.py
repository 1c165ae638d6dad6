from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeper.data.example import Example
from sweeper.engine.batches import Item, chunks, new_chunk, supervised

CPU = torch.device("cpu")
ITEMS = st.lists(
    st.builds(
        lambda slot, length, key: Item(slot, tuple(range(10, 10 + length)), key),
        slot=st.integers(0, 3),
        length=st.integers(1, 40),
        key=st.integers(0, 5),
    ),
    min_size=1,
    max_size=30,
)


@given(items=ITEMS, budget=st.integers(1, 300), room=st.integers(0, 5))
def test_chunks_hold_every_item_once_within_the_budget(items: list[Item], budget: int, room: int) -> None:
    cut = chunks(items, budget, pad=0, device=CPU, room_tokens=room)
    together = [item for chunk in cut for item in chunk.items]
    assert sorted(together, key=repr) == sorted(items, key=repr)
    for chunk in cut:
        rows, longest = chunk.tokens.shape
        assert rows == 1 or rows * (longest + room) <= budget
        assert [item.slot for item in chunk.items] == sorted(item.slot for item in chunk.items)
        assert chunk.rows == [(s, sum(i.slot == s for i in chunk.items)) for s in sorted({i.slot for i in chunk.items})]
        for item, tokens, mask in zip(chunk.items, chunk.tokens, chunk.attention_mask, strict=True):
            assert tuple(tokens[mask.bool()].tolist()) == item.tokens
            pads = mask.tolist()
            # Generation appends on the right, so padding is on the left there.
            assert pads == sorted(pads, reverse=room == 0)


def test_one_long_row_does_not_pad_the_others() -> None:
    items = [Item(slot, tuple(range(8)), key) for slot in range(3) for key in range(8)] + [Item(3, tuple(range(200)))]
    cut = chunks(items, 256, pad=0, device=CPU)
    assert [tuple(chunk.tokens.shape) for chunk in cut] == [(1, 200), (24, 8)]
    # In one batch they would be 25 × 200 tokens.
    assert sum(chunk.tokens.numel() for chunk in cut) == 392


def test_the_loss_is_where_the_spans_are() -> None:
    tokens = tuple(range(10, 22))
    plain, turns = Example(tokens[:3], tokens[3:]), Example.masked(tokens, [(3, 5), (8, 11)])
    assert (turns.prompt, turns.answer, len(turns)) == (tokens[:3], tokens[3:11], 11)
    assert (plain.supervised_tokens, turns.supervised_tokens) == (9, 5)
    chunk = new_chunk([Item(0, plain.tokens, 0), Item(1, turns.tokens, 1)], pad=0, device=CPU)
    where = supervised(chunk, [plain, turns])
    assert where.places.tolist() == [*range(2, 11), *(12 + place for place in (2, 3, 7, 8, 9))]
    assert where.targets.tolist() == [*tokens[3:], *tokens[3:5], *tokens[8:11]]
    assert chunk.tokens.flatten()[where.places + 1].tolist() == where.targets.tolist()
    assert Example.masked(tokens, [(3, 12)]) == plain
