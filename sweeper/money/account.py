"""What a study has cost so far, read from its database."""

from __future__ import annotations

from sweeper.money.bill import Bill, Label, bill, labels
from sweeper.money.ledger import Ledger
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason


def account(ledger: Ledger, seen: StudyView) -> Bill:
    """The bill of a study as it stands."""
    best = seen.best.number if seen.best is not None else None
    outcomes = {trial.number: _label(trial, best) for trial in seen.trials}
    bookings = ledger.bookings(seen.name)  # before the sessions: each of theirs is then among those
    return bill(seen.name, ledger.sessions(seen.name), bookings, labels(outcomes))


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
