"""Whose price is taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.money.price import Price
from sweeper.serving.pricing import gpu_of


def test_whose_price_is_taken(composed: Callable[..., Config]) -> None:
    own = composed("study=demo", "gpu=rtx-4090", "gpu.price_usd_per_hour=0.5").gpu
    assert gpu_of(own, None, []) == own
    assert gpu_of(own, None, ["gpu.price_usd_per_hour=0.25"]).price_usd_per_hour == 0.25
    assert gpu_of(own, "t4", []).card == "Tesla T4"  # all of the section is that card's
    assert gpu_of(None, None, []).name == "auto"
    changed = gpu_of(None, "t4", ["gpu.price_date=2026-11-25", "gpu.billing=free"])
    assert (changed.price_date, changed.billing) == ("2026-11-25", "free")
    price = Price.of(changed)
    assert price is not None
    assert price.usd(3600) == 0.0


def test_what_gives_no_price_is_said() -> None:
    with pytest.raises(ConfigError, match=r"--gpu: unknown option `rtx-409`; did you mean `rtx-4090`"):
        gpu_of(None, "rtx-409", [])
    with pytest.raises(ConfigError) as raised:
        gpu_of(None, None, ["gpu.prize=1", "search.trials=3", "gpu.watts", "gpu.price_usd_per_hour=-1"])
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "gpu.prize",
        "search.trials=3",
        "gpu.watts",
        "gpu.price_usd_per_hour",
    ]
    owned = gpu_of(None, None, ["gpu.billing=owned"])
    assert Price.of(owned) is None
