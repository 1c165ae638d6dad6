"""`sweeper cost` in tables, JSON and CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

from sweeper.errors import StoreError
from sweeper.launching.screen import terminal
from sweeper.money.apart import Apart
from sweeper.money.bill import Bill, Label
from sweeper.money.booking import SECOND_US, WorkerSession
from sweeper.money.price import KWH_J, Price, advice
from sweeper.money.statement import Statement, TrialCost, percent, started
from sweeper.paths import write_atomically
from sweeper.trial import run_name
from sweeper.units import usd_text

_COSTS, _TIMES = ("$", "$ alone"), ("s alone",)
_MAY_WRAP = ("params", "device", "ended")


def show(found: Statement, file: Path | None, as_json: bool, shown: int | None) -> None:
    """Prints where the dollars of a study went.

    Args:
        file: where every line of the bill is to be written, too.
        shown: of more trials than that, only so many, the dearest; None: all.

    Raises:
        StoreError: if the file cannot be written.
    """
    if file is not None:
        try:
            write_atomically(file.expanduser().absolute(), found.csv())
        except OSError as error:
            raise StoreError(f"--csv must be a file that can be written, but {file}: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    if found.is_empty:
        click.echo(f"nothing is booked of {found.study}: it has not begun, or ran before its time was booked")
        return
    console = terminal()
    console.print(Text(f"{found.study}: {found.sentence()}", style="bold"))
    labels = {label.value: part for label, part in found.bill.by_label().items()}
    console.print(_shares("label", labels, found))
    console.print(_shares("activity", found.by_activity(), found))
    if found.trials:
        console.print(_trials(found, shown))
    console.print(_sessions(found))
    for line in _notes(found):
        click.echo(line)
    if file is not None:
        click.echo(f"every line of the bill: {file}")


def _shares(what: str, parts: dict[str, Bill], found: Statement) -> Table:
    table = _table(f"By {what}", [what], ["seconds", *_in_usd(found, "$"), "share"])
    for name, part in parts.items():
        share = percent(found.bill.share(part))
        table.add_row(name, _seconds(part.seconds), *_in_usd(found, _usd(part.usd, found)), share)
    return table


def _trials(found: Statement, shown: int | None) -> Table:
    is_priced = found.bill.usd is not None
    trials: Sequence[TrialCost] = found.trials
    title = "By trial"
    if shown is not None and len(trials) > shown:
        title = f"By trial, the {shown} dearest of {len(trials)}; --all shows all"
        trials = sorted(trials, key=lambda trial: -trial.bill.seconds)[:shown]
    table = _table(title, ["trial", "label", "params"], ["train s", "score s", *(_COSTS if is_priced else _TIMES)])
    for trial in trials:
        own = trial.bill
        times = (trial.train_s, trial.eval_s) if own.lines else (None, None)
        costs = [_usd(own.usd, found), _usd(trial.solo_usd, found)] if is_priced else [_seconds(trial.solo_s)]
        params = run_name(trial.number, trial.params).partition(" ")[2]
        table.add_row(str(trial.number), trial.label.value, params, *map(_seconds, times), *costs)
    return table


def _sessions(found: Statement) -> Table:
    numbers = ["seconds", *_in_usd(found, "$"), "in progress s"]
    table = _table("Sessions", ["", "began", "device", "ended"], numbers)
    for place, session in enumerate(found.sessions, start=1):
        own = found.bill.of_session(session.id)
        began = started(session).astimezone().strftime("%Y-%m-%d %H:%M")
        open_s, _ = found.in_progress.get(session.id, (None, None))
        dollars = _in_usd(found, _usd(own.usd, found))
        table.add_row(
            str(place), began, session.device, _ended(session, own), _seconds(own.seconds), *dollars, _seconds(open_s)
        )
    return table


def _ended(session: WorkerSession, own: Bill) -> str:
    if not session.is_ended:
        heard = session.started_s + session.heartbeat_us / SECOND_US
        return f"no, heard of {datetime.fromtimestamp(heard):%H:%M:%S}"
    lost_s = own.of(Label.LOST).seconds
    return f"yes, {lost_s:.1f} s lost" if lost_s else "yes"


def _notes(found: Statement) -> list[str]:
    lines = [_sum(found)]
    by_price: dict[str, list[str]] = {}
    for place, session in enumerate(found.sessions, start=1):
        if session.price is not None:
            by_price.setdefault(session.price.in_words(), []).append(str(place))
    for words, places in by_price.items():
        is_all = len(places) == len(found.sessions)
        whose = "" if is_all else f" of session{'s' * (len(places) > 1)} {', '.join(places)}"
        lines.append(f"Price{whose}: {words}")
    if found.bill.energy_usd is not None:
        lines.append(f"Electricity: {usd_text(found.bill.energy_usd)} of it, {found.bill.energy_j / KWH_J:.3g} kWh")
    if found.bill.unpriced_s:
        lines.append(
            f"Without a price: {found.bill.unpriced_s:,.1f} s, which are in no sum of dollars. At the next "
            f"launch: {advice(None)}"
        )
    if any(seconds for seconds, _ in found.in_progress.values()):
        seconds = sum(seconds for seconds, _ in found.in_progress.values())
        lines.append(f"In progress: {seconds:,.1f} s more, not booked yet; lost, if their worker is dead")
    if (apart := found.apart) is not None:
        lines.append(_apart(apart, found.price))
    return lines


def _sum(found: Statement) -> str:
    """The sum, and that the bookings are those of the sessions."""
    sessions_s = sum(session.booked_us for session in found.sessions) / SECOND_US
    boot_s = sum(line.seconds for line in found.bill.lines if line.activity is None)
    dollars = f" = {usd_text(found.bill.usd)}" if found.bill.usd is not None else ""
    boot = f" and {boot_s:,.3f} s of booting" if boot_s else ""
    count = len(found.sessions)
    return f"Sum: {found.bill.seconds:,.3f} s{dollars}; the session{'s' * (count != 1)} took {sessions_s:,.3f} s{boot}"


def _apart(apart: Apart, price: Price | None) -> str:
    def words(seconds: float) -> str:
        return f"{seconds:,.1f} s" + (f", {usd_text(price.usd(seconds))}" if price is not None else "")

    verdict = "" if apart.factor >= 1 else ": packing did not pay here"
    each = f"{apart.trials} times {apart.setup_s:,.1f} s of set-up, and {apart.alone_s:,.1f} s of work"
    return (
        f"One process each, an estimate: {words(apart.seconds)} ({each}), where the pack took "
        f"{words(apart.packed_s)}: {apart.factor:.2g} times as long{verdict}"
    )


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:,.1f}"


def _in_usd(found: Statement, *cells: str) -> tuple[str, ...]:
    """Cells of dollars, where there are any."""
    return cells if found.bill.usd is not None else ()


def _usd(usd: float | None, found: Statement) -> str:
    return "–" if usd is None else usd_text(usd, found.bill.usd).replace("$", "")


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=name not in _MAY_WRAP)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
