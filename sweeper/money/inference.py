"""What it costs to serve an adapter: dollars of a thousand requests and of a month, from measured speed. Pure.

At full use every second of the card answers requests. A month is dearer where the card is rented whether it answers or
not: then it costs the same at any volume that one card can serve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.errors import ConfigError
from sweeper.money.price import HOUR_S, Price

DAYS = 30.4  # of a month
DAY_S = 24 * HOUR_S
THOUSAND = 1000


@dataclass(frozen=True)
class Speed:
    """What was measured at one batch size.

    Attributes:
        batch: requests that are answered together.
        latency_s: of a batch, the median: each of its requests waits so long.
        latency_p95_s: what 95 of 100 batches stay within.
        requests_per_s: the median over the passes.
        low, high: of the slowest and of the fastest pass.
        tokens_per_s: of prompts and answers.
    """

    batch: int
    latency_s: float
    latency_p95_s: float
    requests_per_s: float
    low: float
    high: float
    tokens_per_s: float

    @property
    def seconds_per_1000(self) -> float:
        """Of the card, at full use."""
        return THOUSAND / self.requests_per_s


@dataclass(frozen=True)
class Cost:
    """A price, and the volume that is paid for.

    Attributes:
        price: of the card; None: there is none, and no dollars.
        watts: what the card draws while it answers, where electricity is paid by the meter.
        per_day: requests.
    """

    price: Price | None
    watts: float | None
    per_day: int

    @property
    def per_month(self) -> float:
        return self.per_day * DAYS

    def usd_per_1000(self, speed: Speed) -> float | None:
        """Dollars of a thousand requests at full use."""
        return self.price.usd(speed.seconds_per_1000, self.watts) if self.price is not None else None

    def month(self, speed: Speed) -> Month:
        """A month of the volume, at the speed of one batch size."""
        busy_s = self.per_month / speed.requests_per_s
        cards = max(1, math.ceil(busy_s / (DAYS * DAY_S)))
        usd_rented = usd_busy = None
        if self.price is not None:
            usd_busy = self.price.usd(busy_s, self.watts)
            # A meter counts what is drawn: of a card that waits it is not known, and is left out.
            usd_rented = self.price.usd(cards * DAYS * DAY_S) + (usd_busy - self.price.usd(busy_s))
        return Month(speed.batch, busy_s, cards, busy_s / (cards * DAYS * DAY_S), usd_rented, usd_busy)

    def instead(self, name: str, usd_per_call: float, speed: Speed) -> Replaced:
        """What else is paid for by the call, beside serving it at that speed."""
        month, usd_per_month = self.month(speed), usd_per_call * self.per_month
        return Replaced(
            name=name,
            usd_per_call=usd_per_call,
            usd_per_1000=usd_per_call * THOUSAND,
            usd_per_month=usd_per_month,
            times_rented=_times(usd_per_month, month.usd_rented),
            times_busy=_times(usd_per_month, month.usd_busy),
            pays_from_per_day=self._pays_from(usd_per_call, speed),
        )

    def _pays_from(self, usd_per_call: float, speed: Speed) -> int | None:
        """The calls a day from which on one card, rented all day, is cheaper; None: it never is, or has no price."""
        if self.price is None:
            return None
        seconds = 1 / speed.requests_per_s
        saved_usd = usd_per_call - (self.price.usd(seconds, self.watts) - self.price.usd(seconds))  # less its meter
        if saved_usd <= 0:
            return None
        calls = max(1, math.ceil(self.price.usd(DAY_S) / saved_usd))
        return calls if calls <= DAY_S / seconds else None


@dataclass(frozen=True)
class Month:
    """A month of requests.

    Attributes:
        busy_s: seconds of a card that they take.
        cards: that are needed, if requests come evenly.
        utilisation: of these cards, 0 to 1.
        usd_rented: with the cards rented all month; None without a price.
        usd_busy: with only the busy seconds paid.
    """

    batch: int
    busy_s: float
    cards: int
    utilisation: float
    usd_rented: float | None
    usd_busy: float | None


@dataclass(frozen=True)
class Replaced:
    """What is paid for by the call now.

    Attributes:
        times_rented: as many times dearer than the cards rented all month; None without a price, or where that is 0.
        times_busy: the same, where only the busy seconds are paid.
        pays_from_per_day: the calls a day from which on one card, rented all month, is cheaper; None: it never is.
    """

    name: str
    usd_per_call: float
    usd_per_1000: float
    usd_per_month: float
    times_rented: float | None
    times_busy: float | None
    pays_from_per_day: int | None


def _times(usd: float, of_usd: float | None) -> float | None:
    return usd / of_usd if of_usd else None


def best(speeds: Sequence[Speed]) -> Speed:
    """The batch size with the most requests a second."""
    return max(speeds, key=lambda speed: speed.requests_per_s)


def table(speeds: Sequence[Speed], cost: Cost, replaces: Mapping[str, float]) -> dict[str, Any]:
    """All figures, for scripts: by batch size, of a month one at a time and at the best batch, and what is replaced."""
    fastest = best(speeds)
    return {
        "batches": [{**asdict(speed), "usd_per_1000": cost.usd_per_1000(speed)} for speed in speeds],
        "best_batch": fastest.batch,
        "per_day": cost.per_day,
        "month": [asdict(cost.month(speed)) for speed in dict.fromkeys((speeds[0], fastest))],
        "replaces": [asdict(cost.instead(name, usd, fastest)) for name, usd in replaces.items()],
    }


def metrics(speeds: Sequence[Speed], cost: Cost, had_price: bool = False) -> dict[str, float]:
    """What MLflow shows beside the quality; dollars only where there is a price.

    Args:
        had_price: whether dollars were logged before. MLflow shows the latest value and forgets none, so that without
            a price now they become not a number.
    """
    one, fastest = speeds[0], best(speeds)
    month = cost.month(fastest)
    found = {
        "requests_per_s": fastest.requests_per_s,
        "requests_per_s_batch1": one.requests_per_s,
        "latency_ms_batch1": one.latency_s * 1000,
        "tokens_per_s": fastest.tokens_per_s,
        "best_batch": fastest.batch,
        "usd_per_1000": cost.usd_per_1000(fastest),
        "usd_per_month_rented": month.usd_rented,
        "usd_per_month_busy": month.usd_busy,
    }
    known = {name: math.nan if value is None else float(value) for name, value in found.items()}
    return {f"inference/{name}": value for name, value in known.items() if had_price or not math.isnan(value)}


def replaced_prices(given: Sequence[str]) -> dict[str, float]:
    """Reads `NAME=USD_PER_CALL` entries.

    Raises:
        ConfigError: if one is of another form, has no price above zero, or a name comes twice.
    """
    found: dict[str, float] = {}
    problems = []
    for entry in given:
        name, _, text = entry.rpartition("=")
        try:
            usd = float(text)
        except ValueError:
            usd = math.nan
        if not name or not (0 < usd < math.inf):
            problems.append(
                f"--replaces: must be NAME=USD_PER_CALL with dollars above 0, such as api=0.0004, but got {entry!r}"
            )
        elif name in found:
            problems.append(f"--replaces: each name must come once, but {name!r} comes twice")
        found[name] = usd
    if problems:
        raise ConfigError(problems)
    return found
