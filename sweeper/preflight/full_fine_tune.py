"""What training all weights of the base would need, for comparison: an estimate, by the book."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sweeper.config.schema import Config
from sweeper.memory.formula import Formula, padded
from sweeper.memory.planner import Load, Work
from sweeper.money.price import Price
from sweeper.preflight.architecture import Widths
from sweeper.preflight.card import Card
from sweeper.preflight.cost import CostEstimate
from sweeper.preflight.forecast import Lengths
from sweeper.units import GIB

# Mixed precision with AdamW: weight and gradient in 16 bits, and in 32 bits the weight and both moments (ZeRO,
# Rajbhandari et al., 2020, arXiv:1910.02054, section 3.1).
BYTES_PER_PARAMETER = 16
FLOPS_PER_WEIGHT = 6  # of a token: forward, and gradients with respect to inputs and weights
LARGE_CARD_GIB = 79.65  # of 80 GB, as its driver reports it


@dataclass(frozen=True)
class FullFineTune:
    """One training of all weights, as long as a trial.

    Attributes:
        activations_gib: of the longest row, one at a time; on each card.
        cards: of the planned kind, among which weights, gradients and moments are cut (ZeRO, FSDP); None where the
            activations of one row do not fit on one.
        large_cards: of 80 GB, likewise.
        device_seconds: of all cards together, at the share of their FLOPs that a trial reaches; None: not known.
        usd: at the price of the planned card.
    """

    parameters: int
    state_gib: float
    activations_gib: float
    cards: int | None
    large_cards: int | None
    device_seconds: float | None
    usd: float | None


def full_fine_tune(
    config: Config, card: Card, widths: Widths, formula: Formula, lengths: Lengths, cost: CostEstimate
) -> FullFineTune:
    """What it would need beside the planned study.

    Args:
        cost: of the study, whose trials say how fast the card is.
    """
    state_gib = widths.parameters * BYTES_PER_PARAMETER / GIB
    load = Load(Work.TRAIN, 1, lengths.longest, lengths.answer, formula.can_checkpoint)
    activations_gib = formula.transient_bytes(load, ((padded(1), 1),)) / GIB
    seconds = usd = None
    if cost.source is not None:
        seconds = cost.trial_training_s * FLOPS_PER_WEIGHT * widths.weights / cost.flops_per_token
        price = Price.of(config.gpu)
        usd = price.usd(seconds, config.gpu.watts) if price is not None else None
    return FullFineTune(
        parameters=widths.parameters,
        state_gib=state_gib,
        activations_gib=activations_gib,
        cards=_cards(state_gib, activations_gib, card.total_gib - config.memory.reserve_gib),
        large_cards=_cards(state_gib, activations_gib, LARGE_CARD_GIB - config.memory.reserve_gib),
        device_seconds=seconds,
        usd=usd,
    )


def _cards(state_gib: float, activations_gib: float, each_gib: float) -> int | None:
    left_gib = each_gib - activations_gib
    return max(1, math.ceil(state_gib / left_gib)) if left_gib > 0 else None
