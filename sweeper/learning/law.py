"""The law of a learning curve, and what it says of more rows.

A score at n rows is `limit - amplitude · (n/N)^-exponent`, where N is the most rows that were measured and higher is
better: the inverse power law of Hestness et al. (arXiv:1712.00409), fitted by weighted least squares as Figueroa et
al. (BMC Medical Informatics and Decision Making 12:8, 2012) do, each point by its standard error.

For a given exponent the law is linear, so its best limit and amplitude are had in closed form, for many draws at once;
the exponent is the best one of a grid. There is no search that could end elsewhere from another start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Measured curves have 0.07 to 0.35, and theory has 0.5 to 1 (Hestness et al., section 2); steeper ones are let in.
EXPONENTS: Floats = np.geomspace(0.05, 2.0, 60)
DRAWS = 2000
LEVEL = 0.9  # of the interval
PARAMETERS = 3


@dataclass(frozen=True)
class Law:
    """A fitted curve; with arrays of draws in its fields, that many curves."""

    limit: Any
    amplitude: Any
    exponent: Any

    def at(self, share: Any) -> Any:
        """The merit at so many times the rows that the largest point has."""
        return self.limit - self.amplitude * share ** (-self.exponent)


@dataclass(frozen=True)
class Forecast:
    """A law with its uncertainty; merits, so higher is better.

    Attributes:
        misfit: how far the points are from the law, in standard errors (chi-square over its degrees of freedom, root).
        gain: what twice the rows would add, and its interval in `low` and `high`.
        draws: the laws of the bootstrap.
    """

    law: Law
    misfit: float
    gain: float
    low: float
    high: float
    draws: Law

    def band(self, shares: Floats) -> tuple[Floats, Floats]:
        """The interval of the curve at some shares of the rows."""
        curves = np.stack([self.draws.at(share) for share in shares])
        low, high = np.quantile(curves, _tails(), axis=1)
        return low, high


def _tails() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2


def forecast(rows: Floats, merits: Floats, errors: Floats, best_possible: float = math.inf) -> Forecast:
    """Fits the law, and bootstraps what twice the rows would buy.

    The bootstrap is parametric: each draw moves the points by normal noise of their standard errors. Where the points
    are further from the law than these explain, the noise is enlarged by so much (Birge's ratio).

    Args:
        rows: `(P,)`: the training rows of each point; at least three different numbers.
        merits: `(P,)`: what it scored; higher is better.
        errors: `(P,)`: the standard error of that, above zero.
        best_possible: no limit is beyond it.
    """
    shares = rows / rows.max()
    law, chi_square = _fit(shares, merits[None], errors, best_possible)
    spare = len(np.unique(rows)) - PARAMETERS
    misfit = math.sqrt(float(chi_square[0]) / spare) if spare > 0 else 0.0
    noise = np.random.default_rng(0).normal(size=(DRAWS, len(rows))) * errors * max(1.0, misfit)
    draws, _ = _fit(shares, merits + noise, errors, best_possible)
    low, high = np.quantile(_gain(draws), _tails())
    best = Law(*(float(value[0]) for value in (law.limit, law.amplitude, law.exponent)))
    return Forecast(best, misfit, float(_gain(best)), float(low), float(high), draws)


def _gain(law: Law) -> Any:
    return law.at(2.0) - law.at(1.0)


def _fit(shares: Floats, merits: Floats, errors: Floats, best_possible: float) -> tuple[Law, Floats]:
    """The best law for each draw of `merits`, `(D, P)`, and its chi-square, `(D,)`."""
    weights = errors**-2
    found = [_fit_linear(shares**-exponent, merits, weights, best_possible) for exponent in EXPONENTS]
    limits, amplitudes, chi_squares = (np.stack(values) for values in zip(*found, strict=True))  # (E, D) each
    best = chi_squares.argmin(axis=0)
    chosen = best, np.arange(len(merits))
    return Law(limits[chosen], amplitudes[chosen], EXPONENTS[best]), chi_squares[chosen]


def _fit_linear(powers: Floats, merits: Floats, weights: Floats, best_possible: float) -> tuple[Floats, Floats, Floats]:
    """Limit, amplitude and chi-square of `limit - amplitude · powers`, the amplitude not below zero."""
    total, of_powers, of_squares = weights.sum(), weights @ powers, weights @ powers**2
    of_merits, of_products = merits @ weights, merits @ (weights * powers)
    # Normal equations; by Cauchy and Schwarz the determinant is above zero where two powers differ.
    amplitudes = (of_powers * of_merits - total * of_products) / (total * of_squares - of_powers**2)
    limits = (of_merits + amplitudes * of_powers) / total
    limits = np.where(amplitudes < 0, of_merits / total, limits)  # a curve that falls is taken for a flat one
    amplitudes = np.maximum(amplitudes, 0.0)
    if math.isfinite(best_possible):
        at_bound = np.maximum((best_possible * of_powers - of_products) / of_squares, 0.0)
        amplitudes = np.where(limits > best_possible, at_bound, amplitudes)
        limits = np.minimum(limits, best_possible)
    residuals = merits - (limits[:, None] - amplitudes[:, None] * powers)
    return limits, amplitudes, residuals**2 @ weights
