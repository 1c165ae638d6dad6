"""A trial again, beside stand-ins for its neighbours: even the rounding is the same."""

from __future__ import annotations

import torch

from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot
from sweeper.models.targets import linear_names
from sweeper.trial import Company, Rhythm
from tests.conftest import random_examples, small_model, trial_params

EXAMPLES = random_examples(64, longest=60)
CHANGES = (
    {"rank": 4, "batch_size": 3},
    {"rank": 8, "batch_size": 8, "learning_rate": 3e-2},
    {"rank": 32, "batch_size": 5, "dropout": 0.2},
    {"rank": 16, "batch_size": 8, "target_modules": "attention"},
)


def pack() -> Pack:
    model = small_model(torch.float32)
    return Pack(model, linear_names(model), EXAMPLES, pad=0, chunk_tokens=300)


def begin(made: Pack, number: int) -> Slot:
    params = trial_params(**CHANGES[number])
    rhythm = Rhythm(interval_examples=40, evaluations=2, batch_size=params.batch_size)
    slot, state = made.new_slot(number, params, rhythm, seed=0)
    made.admit(slot, state)
    return slot


def weights(made: Pack, slot: Slot) -> dict[str, torch.Tensor]:
    return made.state(slot).tensors["weight"]


def gather(made: Pack, slot: Slot, company: Company) -> None:
    """Puts stand-ins for the trials beside which `slot` trained into the pack, in their order, at their steps."""
    own = made.state(slot)
    for other in list(made.slots):
        made.remove(other)
    for number, step in company.slots:
        if number == slot.number:
            made.admit(slot, own)
        else:
            begin(made, number).step = step


def is_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_trial_among_stand_ins_is_the_same_to_the_bit() -> None:
    made = pack()
    slots = [begin(made, number) for number in (0, 1)]
    for _ in range(3):
        made.tick()
    slots.append(begin(made, 2))  # the company changes twice
    for _ in range(2):
        made.tick()
    evicted = made.remove(slots[0])
    slots.append(begin(made, 3))
    for _ in range(3):
        made.tick()
    after = {slot.number: weights(made, slot) for slot in slots[1:]} | {0: evicted.tensors["weight"]}

    are_plainly_equal = []
    for slot in slots:
        repeated, plain = pack(), pack()
        again, alone = begin(repeated, slot.number), begin(plain, slot.number)
        for step in range(slot.step):
            for company in slot.company:
                if company.step == step:
                    gather(repeated, again, company)
            repeated.tick()
            plain.tick()
        assert is_equal(weights(repeated, again), after[slot.number])
        are_plainly_equal.append(is_equal(weights(plain, alone), after[slot.number]))
    assert not all(are_plainly_equal)  # or there was nothing to repeat


def test_company_is_noted_when_it_changes() -> None:
    made = pack()
    first = begin(made, 0)
    made.tick()
    made.tick()
    second = begin(made, 1)
    made.tick()
    assert first.company == [
        Company(step=0, slots=((0, 0),)),
        Company(step=2, slots=((0, 2), (1, 0))),
    ]
    assert second.company == [Company(step=0, slots=((0, 2), (1, 0)))]


def test_trials_that_are_let_in_together_are_as_those_let_in_one_by_one() -> None:
    params = trial_params(rank=6, batch_size=2)
    rhythm = Rhythm(interval_examples=40, evaluations=2, batch_size=2)
    together, one_by_one = pack(), pack()
    for made in (together, one_by_one):
        begin(made, 2)  # of another bucket, behind
    together.admit_alike(1, params, rhythm)
    together.admit_alike(2, params, rhythm)
    for _ in range(3):
        slot, state = one_by_one.new_slot(-1 - len(one_by_one.slots), params, rhythm, seed=0)
        one_by_one.admit(slot, state)
    assert together.stack.profile == one_by_one.stack.profile == ((8, 3), (32, 1))
    assert [slot.number for slot in together.slots] == [slot.number for slot in one_by_one.slots] == [-2, -3, -4, 2]
    together.rehearse([0, 1])
    one_by_one.rehearse([0, 1])
    for own, other in zip(together.slots, one_by_one.slots, strict=True):
        assert is_equal(weights(together, own), weights(one_by_one, other))
