"""`sweeper price-inference`: how fast an adapter answers, what that costs, and what it replaces."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.table import Table

from sweeper.config.schema import GpuSection
from sweeper.errors import ConfigError, ExportError
from sweeper.launching.screen import terminal
from sweeper.money import inference
from sweeper.money.inference import DAYS, Cost, Month, Replaced
from sweeper.money.price import Price, advice
from sweeper.paths import Home, is_valid_name
from sweeper.serving import pricing

if TYPE_CHECKING:
    from sweeper.serving.served import Served
    from sweeper.serving.speed import Measured


@dataclass(frozen=True)
class Asked:
    """The command's options; `sweeper price-inference --help` says what each is."""

    target: str
    overrides: tuple[str, ...]
    number: int | None
    requests: int
    batches: str
    per_day: int
    replaces: tuple[str, ...]
    gpu: str | None
    rows: Path | None
    trusts_code: bool
    saves: bool
    as_json: bool

    @cached_property
    def sizes(self) -> list[int]:
        """Batch sizes, ascending; one at a time is always among them."""
        try:
            sizes = {int(word) for word in self.batches.split(",")}
        except ValueError:
            sizes = {0}
        if min(sizes) < 1:
            raise ConfigError(
                f"--batches: must be whole numbers above 0 between commas, such as 1,4,16, but got {self.batches!r}"
            )
        return sorted({1, *sizes})

    @cached_property
    def replaced(self) -> dict[str, float]:
        """Dollars per call of what is replaced, by name."""
        return inference.replaced_prices(self.replaces)

    def announce(self, line: str) -> None:
        """Says how far it has come, beside JSON on standard error."""
        click.echo(line, err=self.as_json)


@dataclass(frozen=True)
class _Priced:
    """All that was found.

    Attributes:
        whose: study and trial, or the folder.
        form: how the adapter answered.
        note: what is to be said of the price.
    """

    whose: dict[str, Any]
    words: str
    form: str
    device: str
    cost: Cost
    note: str | None
    measured: Measured
    replaces: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        price = self.cost.price
        return {
            **self.whose,
            "measured_at": time.strftime("%Y-%m-%d %H:%M:%S"),
            "device": self.device,
            "adapter": self.form,
            **{name: value for name, value in asdict(self.measured).items() if name != "speeds"},
            "price": None if price is None else {**asdict(price), "watts": self.cost.watts},
            "note": self.note,
            **inference.table(self.measured.speeds, self.cost, self.replaces),
        }


def show(home: Home, asked: Asked) -> None:
    """Measures, prints, and keeps what a study's adapter costs to serve; raises for what stops it."""
    _ = asked.sizes, asked.replaced  # what is wrong with them is said before anything is loaded
    if (folder := _folder(home, asked.target)) is None:
        _of_study(home, asked)
    else:
        _of_folder(home, folder, asked)


def _of_study(home: Home, asked: Asked) -> None:
    if asked.rows is not None or asked.saves or asked.trusts_code:
        raise click.UsageError("--rows, --save and --trust-code are for an exported folder, not for a study")
    from sweeper.serving import record
    from sweeper.serving.served import of_study, trial_of

    trial, config = trial_of(home, asked.target, asked.number)
    gpu = pricing.gpu_of(config.gpu, asked.gpu, asked.overrides)
    paths = home.study(asked.target)
    whose = {"study": asked.target, "trial": trial.number}
    serving = of_study(home, trial, config, asked.announce)
    found = _measured(serving, whose, gpu, asked)
    before = record.kept(paths, trial.number)
    file = record.keep(paths, trial.number, found.as_dict())
    _print(found, asked.as_json, file)
    had_price = before is not None and before.get("price") is not None
    metrics = inference.metrics(found.measured.speeds, found.cost, had_price)
    record.log(paths, config, trial.number, trial.examples_seen or 0, metrics, asked.announce)


def _of_folder(home: Home, folder: Path, asked: Asked) -> None:
    if asked.number is not None:
        raise click.UsageError("--trial is for a study; an exported folder has one adapter")
    gpu = pricing.gpu_of(None, asked.gpu, asked.overrides)
    from sweeper.serving import record
    from sweeper.serving.served import of_folder

    serving = of_folder(folder, home, asked.rows, asked.trusts_code, asked.announce)
    found = _measured(serving, {"folder": str(folder)}, gpu, asked)
    _print(found, asked.as_json, record.save(folder, found.as_dict()) if asked.saves else None)


def _measured(serving: AbstractContextManager[Served], whose: dict[str, Any], gpu: GpuSection, asked: Asked) -> _Priced:
    from sweeper.serving.speed import measure

    price = Price.of(gpu)
    with serving as served:
        found = measure(served, asked.sizes, asked.requests, asked.announce)
        note = _note(gpu, price, served.device)
        watts = gpu.watts if price is not None and price.tariff_usd_per_kwh is not None else None
        return _Priced(
            whose,
            served.words,
            served.form,
            served.device,
            Cost(price, watts, asked.per_day),
            note,
            found,
            asked.replaced,
        )


def _note(gpu: GpuSection, price: Price | None, device: str) -> str | None:
    """What a reader of the dollars must know of them."""
    if price is None:
        return f"No price, so no dollars: {advice(device)}."
    if gpu.card is not None and gpu.card != device:
        return f"The price is that of {gpu.card}, but it was measured on {device}: run it there for its speed."
    if price.tariff_usd_per_kwh is not None and gpu.watts is None:
        return "Electricity is not in it: gpu.watts says what the card draws."
    return None


def _folder(home: Home, target: str) -> Path | None:
    """The folder that is meant; None where a study of the store is."""
    folder = Path(target).expanduser()
    if is_valid_name(target) and (home.study(target).config.is_file() or not folder.is_dir()):
        return None
    if not folder.is_dir():
        raise ExportError(f"must be a study of the store or a folder that `sweeper export` wrote, but got {target}")
    return folder


def _print(found: _Priced, as_json: bool, file: Path | None) -> None:
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    console, measured, cost = terminal(), found.measured, found.cost
    click.echo(
        f"{found.words}, on {found.device}; the adapter is {found.form}; "
        f"{measured.requests} requests of {measured.prompt_tokens:.0f} tokens (median) with answers of "
        f"{measured.answer_tokens:.1f} (mean), from tokens to text, without a network"
    )
    console.print(_speeds(measured, cost))
    fastest = inference.best(measured.speeds)
    click.echo(f"Best batch: {fastest.batch} ({measured.ended}).")
    if cost.price is not None:
        click.echo(f"Price: {cost.price.in_words()}; per 1,000 with the card always busy.")
    if found.note is not None:
        click.echo(found.note)
    months = [cost.month(speed) for speed in dict.fromkeys((measured.speeds[0], fastest))]
    click.echo(
        f"\nA month of {DAYS} days, {cost.per_day:,} requests a day ({cost.per_month:,.0f}), if they come evenly:"
    )
    console.print(_months(months, cost))
    if found.replaces:
        click.echo(f"What it replaces, beside batch {fastest.batch}:")
        console.print(_replaced([cost.instead(name, usd, fastest) for name, usd in found.replaces.items()]))
    if file is not None:
        click.echo(f"kept: {file}")
    sys.stdout.flush()


def _speeds(measured: Measured, cost: Cost) -> Table:
    has_price = cost.price is not None
    table = _table("batch", "ms (95 %)", "requests/s", "tokens/s", "s per 1,000", *(["$ per 1,000"] * has_price))
    for speed in measured.speeds:
        usd = [_usd(cost.usd_per_1000(speed))] * has_price
        table.add_row(
            str(speed.batch),
            f"{_number(speed.latency_s * 1000)} ({_number(speed.latency_p95_s * 1000)})",
            f"{_number(speed.requests_per_s)} ({_number(speed.low)} to {_number(speed.high)})",
            f"{speed.tokens_per_s:,.0f}",
            _number(speed.seconds_per_1000),
            *usd,
        )
    return table


def _months(months: Sequence[Month], cost: Cost) -> Table:
    has_price = cost.price is not None
    table = _table("batch", "cards", "busy", "card hours", *(["$, rented all month", "$, busy alone"] * has_price))
    for month in months:
        usd = [_usd(month.usd_rented), _usd(month.usd_busy)] * has_price
        busy = f"{month.utilisation:.1%}"
        table.add_row(str(month.batch), str(month.cards), busy, _number(month.busy_s / 3600), *usd)
    return table


def _replaced(entries: Sequence[Replaced]) -> Table:
    table = _table("", "$ per 1,000", "$ a month", "× rented", "× busy alone", "rented pays from")
    for entry in entries:
        times = [_number(value) if value is not None else "–" for value in (entry.times_rented, entry.times_busy)]
        calls = f"{entry.pays_from_per_day:,} a day" if entry.pays_from_per_day is not None else "–"
        table.add_row(entry.name, _usd(entry.usd_per_1000), _usd(entry.usd_per_month), *times, calls)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 and not column else "right")
    return table


def _number(value: float) -> str:
    """A figure to three digits at the least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _usd(value: float | None) -> str:
    """Dollars, small ones to three digits."""
    if value is None:
        return "–"
    if value >= 1 or value == 0:
        return f"{value:,.2f}"
    return f"{value:#.3g}"
