from __future__ import annotations

import pytest
import torch
from bitsandbytes import functional

from sweeper.memory.live import BLOCK_BYTES, DEQUANTISATION, LiveBytes

KIB = 1024


def zeros(size_bytes: int) -> torch.Tensor:
    return torch.zeros(size_bytes, dtype=torch.uint8)


def test_storages_are_counted_while_they_live() -> None:
    with LiveBytes() as live:
        held = zeros(4 * KIB)
        assert live.live_bytes == 4 * KIB
        view = held[: 2 * KIB].view(2, KIB)  # of the same storage
        more = zeros(KIB + 1)
        assert live.live_bytes == 5 * KIB + BLOCK_BYTES
        del held, more
        assert (live.live_bytes, live.peak_bytes) == (4 * KIB, 5 * KIB + BLOCK_BYTES)
        live.reset_peak()
        assert live.peak_bytes == 4 * KIB
        del view
        assert live.live_bytes == 0


def test_what_would_pass_the_limit_fails_and_leaves_nothing() -> None:
    with LiveBytes(limit_bytes=4 * KIB) as live:
        held = zeros(3 * KIB)
        with pytest.raises(torch.OutOfMemoryError, match=r"of the 0\.0 MiB that they may"):
            held.repeat(2)
        assert live.live_bytes == 3 * KIB
        assert len(zeros(KIB)) == KIB


def test_work_in_place_on_what_was_there_before_allocates_nothing() -> None:
    asked: list[int] = []
    before = zeros(8 * KIB)
    with LiveBytes(limit_bytes=4 * KIB, on_allocation=asked.append) as live:
        before.add_(1)  # counted from now on
        assert (live.live_bytes, asked) == (8 * KIB, [])
        with pytest.raises(torch.OutOfMemoryError):
            before + 1
    assert asked == [8 * KIB]


def test_what_stands_at_the_peak_is_kept_by_kind() -> None:
    weights, before = zeros(KIB), zeros(KIB)
    with LiveBytes(keeps_kinds=True) as live:
        live.add([weights], "weights")
        with live.counted_as("logits"):
            held = zeros(2 * KIB)
            live.add([before])
        del held
        assert live.at_peak == {"weights": KIB, "logits": 3 * KIB}
        live.reset_peak()
        assert live.at_peak == {"weights": KIB, "logits": KIB}


def test_a_dequantised_weight_has_a_kind_of_its_own() -> None:
    packed, state = functional.quantize_4bit(torch.randn(64, 64), quant_type="nf4")
    with LiveBytes(keeps_kinds=True) as live:
        functional.dequantize_4bit(packed, state)
    assert live.at_peak[DEQUANTISATION] == 64 * 64 * 4
