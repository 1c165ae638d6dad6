"""bitsandbytes 0.50 loses gradients after an evaluation on CPUs with AVX512-BF16; see sweeper/models/base.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn import Linear4bit

from sweeper.config.schema import Config
from sweeper.engine.batches import Item
from sweeper.engine.pack import Pack
from sweeper.models import base
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.trial import Rhythm
from tests.conftest import random_examples, trial_params


def quantised(composed: Any, home: Home, device: torch.device) -> Any:
    config: Config = composed("study=demo")
    return base.load_base(config.model, home, device)


def evaluate(pack: Pack) -> None:
    pack.choose_next([Item(0, (5, 6, 7))], [[1, 2]])


def generate(pack: Pack) -> None:
    pack.generate([Item(0, (5, 6, 7)), Item(0, (8, 9))], max_new_tokens=3, end_tokens=[])


def gradient_norms(model: Any, between: Callable[[Pack], None]) -> list[float]:
    """The gradient norm of one step, repeated from the same weights, with something in between."""
    pack = Pack(model, linear_names(model), random_examples(20), pad=0, chunk_tokens=4096)
    norms = []
    for _ in range(2):
        params = trial_params(learning_rate=1e-9)
        slot, state = pack.new_slot(0, params, Rhythm(interval_examples=4, evaluations=1, batch_size=4), seed=0)
        # With B at zero no gradient would pass through the 4-bit layers to the A of earlier ones.
        generator = torch.Generator().manual_seed(1)
        for name, tensor in state.tensors["weight"].items():
            if name.endswith("B"):
                tensor.normal_(std=0.02, generator=generator)
        pack.admit(slot, state)
        norms.append(pack.tick()[0].grad_norm)
        between(pack)
        between(pack)
        pack.remove(slot)
    pack.stack.detach()
    return norms


def test_every_quantised_layer_is_guarded(composed: Any, home: Home, device: torch.device) -> None:
    model = quantised(composed, home, device)
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 28
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize("between", [evaluate, generate])
def test_gradients_are_the_same_before_and_after(
    between: Callable[[Pack], None], composed: Any, home: Home, device: torch.device
) -> None:
    if device.type == "cpu" and not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16, so the fault cannot occur")
    first, second = gradient_norms(quantised(composed, home, device), between)
    assert first > 0
    assert second == pytest.approx(first, rel=1e-6)


@pytest.mark.skipif(not has_avx512bf16(), reason="this CPU has no AVX512-BF16, so the fault cannot occur")
@pytest.mark.filterwarnings("ignore:bitsandbytes")
@pytest.mark.parametrize("between", [evaluate, generate])
def test_without_the_guard_gradients_are_lost(between: Callable[[Pack], None], composed: Any, home: Home) -> None:
    """If this fails, bitsandbytes has mended the fault and the guard may go."""
    model = quantised(composed, home, torch.device("cpu"))
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = True
    first, second = gradient_norms(model, between)
    assert second < 0.9 * first
