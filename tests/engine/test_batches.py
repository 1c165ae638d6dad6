from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeper.data.example import Example
from sweeper.engine.batches import Item, by_length, new_chunk, supervised
from sweeper.memory.planner import Planner, Work

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


@given(items=ITEMS, is_left=st.booleans())
def test_a_chunk_holds_every_item_once_padded_on_one_side(items: list[Item], is_left: bool) -> None:
    chunk = new_chunk(items, pad=0, device=CPU, is_left=is_left)
    assert sorted(chunk.items, key=repr) == sorted(items, key=repr)
    assert chunk.tokens.shape == (len(items), max(len(item.tokens) for item in items))
    assert [item.slot for item in chunk.items] == sorted(item.slot for item in chunk.items)
    assert chunk.rows == [(s, sum(i.slot == s for i in chunk.items)) for s in sorted({i.slot for i in chunk.items})]
    assert chunk.attention_mask is not None
    for item, tokens, mask in zip(chunk.items, chunk.tokens, chunk.attention_mask, strict=True):
        assert tuple(tokens[mask.bool()].tolist()) == item.tokens
        pads = mask.tolist()
        # Generation appends on the right, so padding is on the left there.
        assert pads == sorted(pads, reverse=not is_left)
    flat = chunk.tokens.flatten()
    for index, item in enumerate(chunk.items):
        assert tuple(int(flat[chunk.place(index, place)]) for place in range(len(item.tokens))) == item.tokens


@given(items=ITEMS, budget=st.integers(1, 300), is_padded=st.booleans())
def test_parts_are_within_the_budget_and_hold_every_item(items: list[Item], budget: int, is_padded: bool) -> None:
    queue = by_length(items)
    while queue:
        lengths = [len(item.tokens) for item in queue]
        rows = Planner().part(Work.TRAIN, lengths, ((8, 1),), budget, is_padded=is_padded).rows
        assert 1 <= rows <= len(queue)
        assert rows == 1 or (rows * lengths[0] if is_padded else sum(lengths[:rows])) <= budget
        queue = queue[rows:]


def test_one_long_row_does_not_pad_the_others() -> None:
    items = [Item(slot, tuple(range(8)), key) for slot in range(3) for key in range(8)] + [Item(3, tuple(range(200)))]
    queue, shapes = by_length(items), []
    while queue:
        rows = Planner().part(Work.TRAIN, [len(item.tokens) for item in queue], ((8, 1),), 256).rows
        shapes.append(tuple(new_chunk(queue[:rows], pad=0, device=CPU).tokens.shape))
        queue = queue[rows:]
    # In one batch they would be 25 × 200 tokens.
    assert shapes == [(1, 200), (24, 8)]


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
