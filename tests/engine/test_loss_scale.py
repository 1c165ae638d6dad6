"""float16: a loss scale for each slot, of which its neighbours notice nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from sweeper.config.schema import Config
from sweeper.engine import checkpoint, loss_scale
from sweeper.engine.loss_scale import INTERVAL_STEPS, LossScale
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot
from sweeper.models import base
from sweeper.paths import Home
from tests.conftest import random_examples, small_model, trial_params
from tests.engine.oracle import TRIALS, admit, new_pack

EXAMPLES = random_examples(30)
HALF = torch.float16


def filled(dtype: torch.dtype = HALF, count: int = len(TRIALS)) -> Pack:
    pack = new_pack(small_model(dtype), EXAMPLES, dtype=torch.float32)
    for number, params in enumerate(TRIALS[:count]):
        admit(pack, number, params)
    return pack


def values(pack: Pack, slot: Slot) -> torch.Tensor:
    """All weights and moments of a slot."""
    state = pack.state(slot)
    return torch.cat([tensor.flatten() for kind in state.tensors.values() for tensor in kind.values()])


def test_the_scale_is_that_of_torchs_scaler() -> None:
    ours = LossScale()
    theirs = torch.amp.GradScaler("cpu", growth_interval=INTERVAL_STEPS)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    norms: Sequence[float] = [1.0, float("inf"), float("nan"), *[1.0] * INTERVAL_STEPS, float("inf"), *[1.0] * 5]
    for norm in norms:
        theirs.scale(weight.sum())
        weight.grad = torch.tensor([norm])
        theirs.step(optimizer)
        theirs.update()
        assert ours.note(1.0, norm) == (norm != 1.0)
        assert ours.value == theirs.get_scale()
    assert ours.skipped_steps == 3


def test_a_gradient_that_overflows_whatever_the_scale_has_diverged() -> None:
    scale = LossScale()
    assert [scale.note(1.0, float("inf")) for _ in range(17)] == [True] * 16 + [False]
    assert LossScale().note(float("nan"), float("nan")) is False  # the loss itself was not enlarged
    assert LossScale(value=1.0).note(float("inf"), float("nan")) is False


def test_small_gradients_survive() -> None:
    """Token losses over many tokens have gradients that float16 rounds to zero; enlarged they are those of float32."""
    exact, scaled, plain = filled(torch.float32), filled(), filled()
    for slot in plain.slots:
        slot.loss_scale.value = 2.0**-8
    moments = []
    for pack in (exact, scaled, plain):
        pack.tick()
        moments.append(torch.cat([values(pack, slot) for slot in pack.slots]))
    errors = [float((moment - moments[0]).norm() / moments[0].norm()) for moment in moments[1:]]
    assert errors[0] < 0.02
    assert errors[1] > 3 * errors[0]


@pytest.mark.parametrize("state", ["device", "host", "8bit"])
def test_a_slot_that_overflows_skips_its_step_and_its_neighbours_do_not_notice(state: str) -> None:
    packs = []
    for _ in range(2):
        pack = new_pack(small_model(HALF), EXAMPLES, dtype=torch.float32, optimizer_state=state)
        for number, params in enumerate(TRIALS):
            admit(pack, number, params)
        pack.tick()
        packs.append(pack)
    broken, whole = packs
    victim = broken.slots[1]
    victim.loss_scale.value = 2.0**40
    before = values(broken, victim)
    [tick] = [tick for tick, slot in zip(broken.tick(), broken.slots, strict=True) if slot is victim]
    whole.tick()
    assert (tick.is_skipped, tick.is_finite, tick.loss_scale) == (True, True, 2.0**40)
    assert victim.loss_scale == LossScale(value=2.0**39, finite_steps=0, skipped_steps=1)
    assert victim.step == 2  # its examples are read
    assert torch.equal(values(broken, victim), before)
    for ours, theirs in zip(broken.slots, whole.slots, strict=True):
        if ours is not victim:
            assert ours.loss_scale == theirs.loss_scale == LossScale(finite_steps=2)
            assert torch.equal(values(broken, ours), values(whole, theirs))


def test_adamw_does_not_count_what_it_has_not_seen() -> None:
    """AdamW's first step moves each weight by the learning rate, whatever the gradient; its eighth would not."""
    pack = new_pack(small_model(HALF), EXAMPLES, dtype=torch.float32)
    slot = admit(pack, 0, trial_params())
    slot.loss_scale.value = 2.0**24
    before = pack.weights(slot).tensors["weight"]
    while (tick := pack.tick()[0]).is_skipped:
        pass
    assert slot.loss_scale.skipped_steps == slot.step - 1 > 2
    after = pack.weights(slot).tensors["weight"]
    moved = max(float((after[name] - before[name]).abs().max()) for name in after)
    assert moved == pytest.approx(tick.learning_rate, rel=1e-3)


def test_an_nf4_base_in_float16(composed: Callable[..., Config], home: Home) -> None:
    """The bundled base, trained: what overflows first is skipped, what follows is what float32 gives."""
    found = {}
    for dtype in ("float32", "float16"):
        model = base.load_base(composed("study=demo", f"model.dtype={dtype}").model, home, torch.device("cpu"))
        pack = new_pack(model, EXAMPLES, dtype=torch.float32)
        slot = admit(pack, 0, TRIALS[0])
        slot.loss_scale.value = 2.0**12
        norms = [tick.grad_norm for tick in (pack.tick()[0] for _ in range(3)) if not tick.is_skipped]
        found[dtype] = norms
    assert len(found["float16"]) == 3
    assert found["float16"] == pytest.approx(found["float32"], rel=0.05)


def test_no_scale_is_too_low_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = filled()
    victim = pack.slots[2]
    backward = pack._backward

    def overflow(*args: object) -> list[float]:
        losses = backward(*args)  # type: ignore[arg-type]
        group, index = pack.stack._find(2)
        assert group.bucket is not None
        group.bucket.grad[index, 3] = float("inf")
        return losses

    monkeypatch.setattr(pack, "_backward", overflow)
    victim.loss_scale.value = loss_scale.LOWEST
    ticks = pack.tick()
    assert [tick.is_finite for tick in ticks] == [slot is not victim for slot in pack.slots]


def test_a_checkpoint_has_the_scale(tmp_path: Path) -> None:
    pack = filled(count=3)
    pack.slots[0].loss_scale.value = 2.0**40
    pack.tick()
    slot = pack.slots[0]
    checkpoint.save(tmp_path / "c.safetensors", slot, pack.remove(slot))
    again, state = checkpoint.load(tmp_path / "c.safetensors")
    assert again.loss_scale == LossScale(value=2.0**39, skipped_steps=1)
    assert again.loss_scale == slot.loss_scale
    pack.admit(again, state)
    assert pack.tick()[pack.slots.index(again)].loss_scale == 2.0**39


def test_other_precisions_have_no_scale() -> None:
    pack = filled(torch.bfloat16, count=2)
    pack.slots[0].loss_scale.value = 2.0**40
    for _ in range(2):
        assert [(tick.loss_scale, tick.is_skipped) for tick in pack.tick()] == [(None, False)] * 2
    assert pack.slots[1].loss_scale == LossScale()
