"""Dollars of a thousand requests and of a month, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sweeper.errors import ConfigError
from sweeper.money import inference
from sweeper.money.inference import Cost, Speed, replaced_prices
from sweeper.money.price import Price

RENTED = Price(3.6, False, 0.0, 0.0, None, "card, on demand", None)  # a tenth of a cent a second
MONTH_S = 30.4 * 86_400


def speed(batch: int, requests_per_s: float) -> Speed:
    return Speed(batch, batch / requests_per_s, batch / requests_per_s, requests_per_s, 1.0, 99.0, 50.0)


def test_a_thousand_requests_at_full_use() -> None:
    assert Cost(RENTED, None, 1).usd_per_1000(speed(1, 10.0)) == pytest.approx(100 * 0.001)
    # 360 W for 100 s are a hundredth of a kWh.
    owned = replace(RENTED, tariff_usd_per_kwh=0.5)
    assert Cost(owned, 360.0, 1).usd_per_1000(speed(1, 10.0)) == pytest.approx(0.1 + 0.01 * 0.5)
    assert Cost(None, None, 1).usd_per_1000(speed(1, 10.0)) is None


def test_a_month_that_one_card_suffices_for() -> None:
    month = Cost(RENTED, None, 12_000).month(speed(4, 10.0))
    assert month.busy_s == pytest.approx(12_000 * 30.4 / 10)
    assert month.cards == 1
    assert month.utilisation == pytest.approx(1_200 / 86_400)
    assert month.usd_rented == pytest.approx(3.6 * 24 * 30.4)
    assert month.usd_busy == pytest.approx(36_480 * 0.001)


@pytest.mark.parametrize(("per_day", "cards"), [(864_000, 1), (864_001, 2), (1_728_000, 2), (2_000_000, 3)])
def test_as_many_cards_as_the_volume_takes(per_day: int, cards: int) -> None:
    month = Cost(RENTED, None, per_day).month(speed(1, 10.0))
    assert month.cards == cards
    assert month.usd_rented == pytest.approx(cards * 0.001 * MONTH_S)
    assert month.utilisation <= 1


def test_electricity_is_of_busy_seconds_alone() -> None:
    owned = Cost(replace(RENTED, tariff_usd_per_kwh=0.5), 360.0, 12_000)
    month = owned.month(speed(1, 10.0))
    assert month.usd_rented == pytest.approx(0.001 * MONTH_S + 36_480 / 10_000 * 0.5)  # 10,000 s are a kWh
    assert month.usd_busy == pytest.approx(36.48 + 1.824)


def test_what_it_replaces() -> None:
    cost = Cost(RENTED, None, 12_000)
    found = cost.instead("api", 0.01, speed(1, 10.0))
    assert found.usd_per_1000 == pytest.approx(10.0)
    assert found.usd_per_month == pytest.approx(3_648.0)
    assert found.times_rented == pytest.approx(3_648 / 2_626.56)
    assert found.times_busy == pytest.approx(100.0)
    assert found.pays_from_per_day == 8_640  # a card's day is $86.40
    assert cost.instead("api", 0.0001, speed(1, 10.0)).pays_from_per_day == 864_000  # all that a card can answer
    assert cost.instead("cheap", 0.00009, speed(1, 10.0)).pays_from_per_day is None
    # What the meter takes of each call is not saved: here 0.1 s of 3,600 W, half of a hundredth of a cent.
    metered = Cost(replace(RENTED, tariff_usd_per_kwh=0.5), 3_600.0, 12_000)
    assert metered.instead("api", 0.00105, speed(1, 10.0)).pays_from_per_day == 86_400
    assert metered.instead("api", 0.00005, speed(1, 10.0)).pays_from_per_day is None


def test_without_a_price_there_are_no_dollars_and_what_is_free_is_zero() -> None:
    unknown = Cost(None, None, 12_000)
    month, instead = unknown.month(speed(1, 10.0)), unknown.instead("api", 0.01, speed(1, 10.0))
    assert (month.usd_rented, month.usd_busy, instead.times_rented, instead.pays_from_per_day) == (None,) * 4
    assert instead.usd_per_month == pytest.approx(3_648.0)
    free = Cost(replace(RENTED, usd_per_hour=0.0), None, 12_000)
    assert free.month(speed(1, 10.0)).usd_rented == 0.0
    assert free.instead("api", 0.01, speed(1, 10.0)).times_rented is None  # as many times as one likes
    assert free.instead("api", 0.01, speed(1, 10.0)).pays_from_per_day == 1


def test_what_is_logged() -> None:
    speeds = [speed(1, 10.0), speed(2, 16.0), speed(4, 15.0)]
    found = inference.metrics(speeds, Cost(RENTED, None, 12_000))
    assert found["inference/best_batch"] == 2
    assert found["inference/requests_per_s"] == 16.0
    assert found["inference/requests_per_s_batch1"] == 10.0
    assert found["inference/latency_ms_batch1"] == pytest.approx(100.0)
    assert found["inference/tokens_per_s"] == 50.0
    assert found["inference/usd_per_1000"] == pytest.approx(0.0625)
    unpriced = inference.metrics(speeds, Cost(None, None, 12_000))
    assert set(found) - set(unpriced) == {
        "inference/usd_per_1000",
        "inference/usd_per_month_rented",
        "inference/usd_per_month_busy",
    }
    # An earlier price does not stand beside later speeds.
    assert math.isnan(inference.metrics(speeds, Cost(None, None, 12_000), had_price=True)["inference/usd_per_1000"])

    table = inference.table(speeds, Cost(RENTED, None, 12_000), {"api": 0.01})
    assert (table["best_batch"], table["per_day"], table["replaces"][0]["name"]) == (2, 12_000, "api")
    assert [one["batch"] for one in table["month"]] == [1, 2]
    assert [one["usd_per_1000"] for one in table["batches"]] == pytest.approx([0.1, 0.0625, 1 / 15])
    assert table["replaces"][0]["times_busy"] == pytest.approx(160.0)
    assert len(inference.table(speeds[:1], Cost(None, None, 1), {})["month"]) == 1


def test_prices_of_what_is_replaced() -> None:
    assert replaced_prices(["api=0.0004", "a=b=1e-3"]) == {"api": 0.0004, "a=b": 0.001}
    with pytest.raises(ConfigError) as raised:
        replaced_prices(["api", "=1", "free=0", "debt=-1", "much=inf", "none=nan", "x=1", "x=2"])
    assert len(raised.value.problems) == 7
    assert "NAME=USD_PER_CALL with dollars above 0, such as api=0.0004, but got 'debt=-1'" in str(raised.value)
    assert "'x' comes twice" in str(raised.value)
