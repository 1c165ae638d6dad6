from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.config.schema import Config
from sweeper.memory.formula import Dimensions, Formula, Targeted
from sweeper.paths import Home
from sweeper.preflight.architecture import Widths, model_config
from sweeper.preflight.card import Card, pick_card
from sweeper.preflight.cost import CostEstimate
from sweeper.preflight.forecast import Lengths
from sweeper.preflight.full_fine_tune import FullFineTune, full_fine_tune
from sweeper.units import GIB

# As the tables of Llama-3.1-8B: 8.03 billion.
PARAMETERS = 8_030_000_000
WEIGHTS = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
SIZES = Dimensions(4096, 32, 128_256, 2, 0, 0, 2 * 32_768.0, 18_432, 4096 * 14336, {"all-linear": Targeted(7, 1, 1)})


@pytest.fixture
def compared(composed_once: Callable[..., Config], home: Home) -> Callable[..., FullFineTune]:
    def make(*overrides: str, cost: CostEstimate | None = None, card: Card | None = None) -> FullFineTune:
        config = composed_once("study=demo", "model=llama-3.1-8b", "gpu=rtx-4090", *overrides)
        widths = Widths.of(model_config(config, home))
        made = cost or CostEstimate("", "")
        formula = Formula.generic(SIZES)
        return full_fine_tune(config, card or pick_card(config), widths, formula, Lengths(512, 10, 8), made)

    return make


def test_a_parameter_takes_sixteen_bytes_among_its_cards(compared: Callable[..., FullFineTune]) -> None:
    found = compared()
    assert found.parameters == pytest.approx(PARAMETERS, rel=0.001)
    assert found.state_gib == found.parameters * 16 / GIB
    assert 0 < found.activations_gib < 3
    assert found.cards == -int(-found.state_gib // (23.99 - 0.5 - found.activations_gib))
    assert (found.cards, found.large_cards) == (6, 2)
    assert compared("memory.reserve_gib=12").cards == 11
    assert compared(card=Card("tiny card", 0.6, True)).cards is None


def test_its_time_is_that_of_its_flops(compared: Callable[..., FullFineTune]) -> None:
    """Six for each weight, against four and what adapters take."""
    assert (compared().device_seconds, compared().usd) == (None, None)
    cost = CostEstimate("", "", source="measured", trial_training_s=1000, flops_per_token=4.5 * WEIGHTS)
    found = compared("gpu.price_usd_per_hour=3.6", cost=cost)
    assert found.device_seconds == pytest.approx(1000 * 6 / 4.5)
    assert found.usd == pytest.approx(1.3333, rel=1e-3)
    assert compared("gpu.price_usd_per_hour=null", cost=cost).usd is None
