"""Studies in processes of their own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _formulas(known_formulas: None) -> None:
    """A trace takes seconds."""
