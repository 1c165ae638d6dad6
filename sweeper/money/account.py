"""What studies have cost so far, read from their database. Reading makes no tables, and changes nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import Engine

from sweeper.money.apart import Apart, apart
from sweeper.money.bill import Bill, Label, Line, bill, labels, lines_of, usd_per_second
from sweeper.money.booking import Whose
from sweeper.money.budget import Spent
from sweeper.money.ledger import Ledger, has_ledger
from sweeper.money.pace import Pace
from sweeper.money.price import Price
from sweeper.money.statement import Statement, TrialCost, in_progress
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason, RunKind


def account(ledger: Ledger, seen: StudyView) -> Bill:
    """The bill of a study as it stands."""
    bookings = ledger.bookings(seen.name)  # before the sessions: each of theirs is then among those
    return bill(seen.name, ledger.sessions(seen.name), bookings, labels(_outcomes(seen)))


def statement(engine: Engine, seen: StudyView, price: Price | None) -> Statement:
    """The account of a study as it stands, live sessions up to their last heartbeat.

    Args:
        engine: of the store's database.
        price: of the study's settings.
    """
    ledger = Ledger(engine, makes_tables=False) if has_ledger(engine) else None
    found = account(ledger, seen) if ledger is not None else Bill(())
    sessions = ledger.sessions(seen.name) if ledger is not None else []
    outcomes = _outcomes(seen)
    return Statement(
        study=seen.name,
        bill=found,
        sessions=tuple(one for one in sessions if one.study == seen.name),
        trials=tuple(_trial(trial, outcomes[trial.number], found, price) for trial in seen.trials),
        price=price,
        in_progress=in_progress(sessions, seen.name),
        apart=_apart(found, seen),
    )


def trial_cost(ledger: Ledger, study: str, trial: TrialView, price: Price | None) -> TrialCost:
    """What one trial of a study has cost, without reading what is booked of the others.

    Args:
        price: of the study's settings.
    """
    whose, label = Whose(RunKind.TRIAL, trial.number), _label(trial, None)
    bookings = ledger.bookings_of(study, whose)  # before the sessions: each of theirs is then among those
    found = bill(study, ledger.sessions(study), bookings, labels({trial.number: label}))
    return _trial(trial, label, found, price)


@dataclass(frozen=True)
class Beside:
    """What a study has taken beside the seconds of one session, which go on.

    Attributes:
        spent: with the electricity of that session so far.
        usd_per_s: what a second of it costs; None: nothing is known of a price.
        usd_per_s_ahead: with the electricity, which is booked only as it is measured.
    """

    spent: Spent
    usd_per_s: float | None
    usd_per_s_ahead: float | None


def beside_session(ledger: Ledger, study: str, own: int, is_priced: bool) -> Beside:
    """What a study has taken until this moment, without the seconds of session `own`."""
    bookings = ledger.sums(study)  # before the sessions: each of theirs is then among those
    sessions = ledger.sessions(study)
    found = bill(study, sessions, bookings, labels({}))
    rates = usd_per_second(sessions)
    usd = found.usd if is_priced else None
    seconds = sum(one.us for one in bookings if one.session != own) / 1e6
    if usd is not None:
        usd -= sum(one.us for one in bookings if one.session == own) / 1e6 * rates[own]
    for number, (open_s, open_usd) in in_progress(sessions, study).items():
        if number != own:  # what others do at this moment is not booked yet
            seconds += open_s
            usd = usd + (open_usd or 0.0) if usd is not None else None
    per_s = ahead = rates.get(own)
    if per_s is not None and found.energy_usd is not None and found.worked_s:
        ahead = per_s + found.energy_usd / found.worked_s
    return Beside(Spent(seconds, (usd or 0.0) if is_priced else None), per_s, ahead)


def sums(engine: Engine) -> dict[str, Bill]:
    """What each study of a store has cost, by name; its lines are sums over a session."""
    if not has_ledger(engine):
        return {}
    sessions, bookings = Ledger(engine, makes_tables=False).everything()
    studies = {session.id: session.study for session in sessions}
    lines: dict[str, list[Line]] = defaultdict(list)
    for line in lines_of(sessions, bookings, labels({})):
        lines[studies[line.session]].append(line)
    return {study: Bill(tuple(own)) for study, own in lines.items()}


def _trial(trial: TrialView, label: Label, found: Bill, price: Price | None) -> TrialCost:
    own = found.of_run(Whose(RunKind.TRIAL, trial.number))
    watts = own.energy_j / own.seconds if own.energy_j else None
    return TrialCost(
        number=trial.number,
        state=trial.state,
        label=label,
        params=trial.params,
        bill=own,
        solo_s=trial.solo_s,
        solo_usd=price.usd(trial.solo_s, watts) if price is not None and trial.solo_s is not None else None,
    )


def _apart(found: Bill, seen: StudyView) -> Apart | None:
    """By the pace that was last measured."""
    if (known := seen.attributes.get("pace")) is None:
        return None
    solo_s = {trial.number: trial.solo_s for trial in seen.trials if trial.solo_s is not None}
    return apart(found, solo_s, Pace.from_dict(known).setup_s)


def _outcomes(seen: StudyView) -> dict[int, Label]:
    best = seen.best.number if seen.best is not None else None
    return {trial.number: _label(trial, best) for trial in seen.trials}


def _label(trial: TrialView, best: int | None) -> Label:
    """What came of a trial."""
    if not trial.is_told:
        return Label.UNFINISHED
    if trial.number == best:
        return Label.WINNER
    if trial.state == "FAIL":
        return Label.FAILED
    if trial.reason == Reason.INFEASIBLE or not trial.is_feasible:
        return Label.INFEASIBLE
    return Label.COMPLETED if trial.state == "COMPLETE" else Label.PRUNED
