from __future__ import annotations

import numpy as np
import pytest
import torch

from sweeper.engine.dropout import Dropout

CPU = torch.device("cpu")


def mask(
    seed: int = 0, position: int = 0, rate: float = 0.25, seq: int = 50, layer: int = 1, features: int = 64
) -> torch.Tensor:
    dropout = Dropout.of([seed], [position], [rate], seq, CPU)
    return dropout.apply(torch.ones(1, seq, features, dtype=torch.float64), layer)[0]


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_rate(rate: float) -> None:
    kept = mask(rate=rate, seq=1000, features=256)
    assert set(kept.unique().tolist()) == {0.0, 1 / (1 - rate)}
    share = float((kept == 0).double().mean())
    assert abs(share - rate) < 4 * (rate * (1 - rate) / kept.numel()) ** 0.5


def test_a_rate_of_zero_drops_nothing_beside_one_that_does() -> None:
    dropout = Dropout.of([0, 0], [0, 1], [0.0, 0.5], 200, CPU)
    x = torch.randn(2, 200, 64)
    dropped = dropout.apply(x, 3)
    assert torch.equal(dropped[0], x[0])
    assert not torch.equal(dropped[1], x[1])


@pytest.mark.parametrize("change", [{"seed": 1}, {"position": 1}, {"layer": 2}])
def test_masks_of_another_seed_example_or_layer_are_independent(change: dict[str, int]) -> None:
    one, other = (mask(rate=0.5, seq=400, **values) > 0 for values in ({}, change))
    agreement = float((one == other).double().mean())
    assert abs(agreement - 0.5) < 4 * (0.25 / one.numel()) ** 0.5


def test_tokens_and_features_are_independent() -> None:
    kept = (mask(rate=0.5, seq=512, features=512) > 0).double() * 2 - 1
    # The sum of products of two independent rows of ±1 has the standard deviation √512.
    for matrix in (kept @ kept.T, kept.T @ kept):
        off_diagonal = matrix[~torch.eye(512, dtype=torch.bool)] / 512**0.5
        assert abs(float(off_diagonal.std()) - 1) < 0.02
        assert float(off_diagonal.abs().max()) < 6.5
    # And none of the coarse structure that a weak hash leaves: the spectrum is flat.
    spectrum = torch.fft.fft2(kept).abs() / 512
    assert float(spectrum.max()) < 5.5


def test_the_mask_of_a_row_does_not_depend_on_padding_or_neighbours() -> None:
    alone = Dropout.of([7], [3], [0.3], 10, CPU)
    packed = Dropout.of([1, 7, 7], [3, 3, 4], [0.5, 0.3, 0.3], 25, CPU)
    x = torch.randn(3, 25, 16)
    assert torch.equal(alone.apply(x[1:2, :10], 5)[0], packed.apply(x, 5)[1, :10])


def test_the_mask_is_the_same_on_every_machine() -> None:
    """A checkpoint that is resumed elsewhere must go on with the same masks."""
    kept = mask(seed=11, position=5, rate=0.5, seq=4, layer=123456789, features=8) > 0
    bits = np.packbits(kept.numpy().astype(np.uint8)).tolist()
    assert bits == [36, 67, 208, 2]
