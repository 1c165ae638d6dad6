"""What is known about a configuration before it is trained, as constraints of the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sweeper.trial import TrialParams


class Forecast(Protocol):
    """Foretells the constraints of a configuration; one above zero is told at once, without training."""

    @property
    def keys(self) -> Sequence[str]:
        """The constraints' names: the same for every trial of a study."""

    def __call__(self, params: TrialParams) -> dict[str, float]:
        """A value for each of `keys`; it holds where it is not above zero."""
