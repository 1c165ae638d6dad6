"""How fast a study will be: as its like was measured on this device, or by the data sheet of a card that is not here.

By the book, a token of a forward takes 2 FLOPs for each weight that it is multiplied with, and its backward as many
again for the gradient with respect to inputs (Kaplan et al., 2020, arXiv:2001.08361, section 2.1); frozen weights have
no gradient of their own, adapters do. Recomputing adds a forward. The head is left out: only supervised positions go
through it.

What of a data sheet's FLOPs is reached: 46 % in the best case of 16-bit weights (PaLM, Chowdhery et al., 2022,
arXiv:2204.02311, table 3). NF4 weights are dequantised at each use, which takes about as long again in small steps, so
25 % is taken for likely, 10 % for slow, 40 % for fast. Writing an answer token by token is bound by memory: a step
reads the weights, 5 bytes each with what dequantising writes and reads, and computes 2 FLOPs for each of them and row;
cards have 150 to 300 FLOPs for a byte, which makes 2 % for 8 rows at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sweeper.config.schema import Config
from sweeper.money.pace import Fit, Pace
from sweeper.preflight.architecture import Widths
from sweeper.preflight.volume import Volume

SLOW, LIKELY, FAST = 0.10, 0.25, 0.40  # of the data sheet's FLOPs
WRITING = 0.02  # likewise, while answers are written
SPREAD = 0.2  # of what was measured: neighbours, warmth, other lengths
START_S = 30.0  # libraries, rows, the device's context
LOAD_BYTES_PER_S = 0.5e9  # of 16-bit weights from a disk on a network, quantising included
TERA = 1e12


@dataclass(frozen=True)
class Speed:
    """What scoring and training take.

    Attributes:
        low, high: what likely seconds are multiplied with.
        setup_s: from the start of a worker until it can train.
        source: `measured` or `data sheet`.
    """

    pace: Pace
    low: float
    high: float
    setup_s: float
    source: str


def measured(pace: Pace, volume: Volume, widths: Widths) -> Speed:
    """As workers have found it on this device with this base."""
    setup_s = pace.setup_s if pace.setup_s is not None else _setup_s(widths)
    if not pace.items.is_known and volume.suite_items and volume.prompt_tokens:
        # Measured without retention: an item is read as a row is, token for token.
        pace = replace(pace, items=_through_origin(pace.rows.seconds(1) * volume.item_tokens / volume.prompt_tokens))
    return Speed(pace, 1 - SPREAD, 1 + SPREAD, setup_s, "measured")


def of_data_sheet(config: Config, volume: Volume, widths: Widths, adapter: float) -> Speed | None:
    """By the FLOPs of a card's data sheet; None where it is not known.

    Args:
        adapter: values of a trial's adapter, in the mean.
    """
    if config.gpu.bf16_tflops is None or config.model.dtype == "float32":
        return None
    flops = config.gpu.bf16_tflops * TERA
    forward = 2 * (widths.weights + adapter)
    row_s = forward * (volume.prompt_tokens / (flops * LIKELY) + volume.written_tokens / (flops * WRITING))
    pace = Pace(
        tick=_through_origin(training_flops(config, widths, adapter) / (flops * LIKELY)),
        rows=_through_origin(row_s),
        items=_through_origin(forward * volume.item_tokens / (flops * LIKELY)),
    )
    return Speed(pace, LIKELY / FAST, LIKELY / SLOW, _setup_s(widths), "data sheet")


def training_flops(config: Config, widths: Widths, adapter: float) -> float:
    """Of a token that an adapter is trained on; `engine.gradient_checkpointing=auto` is taken to keep activations."""
    recomputed = 2 if config.engine.gradient_checkpointing is True else 0
    return (4 + recomputed) * widths.weights + 6 * adapter


def _setup_s(widths: Widths) -> float:
    return START_S + 2 * widths.parameters / LOAD_BYTES_PER_S


def _through_origin(seconds: float) -> Fit:
    return Fit(count=1, x=1, y=seconds, xx=1, xy=seconds, yy=seconds * seconds)
