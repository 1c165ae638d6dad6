"""What a study and its trials cost, on their runs in MLflow and in the study's folder.

What a trial cost is logged when it ends. At the end of each session all is logged again: another trial may be the
winner, a machine's price may have been shared otherwise, and a worker may have been killed before it had logged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sweeper.config.schema import Config
from sweeper.errors import StoreError
from sweeper.events import EventLog
from sweeper.money.bill import Label
from sweeper.money.price import Price, missing
from sweeper.money.statement import Statement, TrialCost
from sweeper.paths import StudyPaths, write_atomically
from sweeper.plots.cost import NAME as DOLLARS
from sweeper.plots.cost import dollars
from sweeper.plots.picture import LIGHT, Picture, attempted, write
from sweeper.search.study import Search
from sweeper.search.views import TrialView, examples_of
from sweeper.tracking.tracker import STUDY, RunKey, Tracker
from sweeper.trial import RunKind
from sweeper.worker.spending import Spending

PREFIX = "cost/"


def tags(config: Config) -> dict[str, str]:
    """The price by which a session books, or that there is none."""
    price = Price.of(config.gpu)
    return {"sweeper.price": price.in_words() if price is not None else f"none ({missing(config.gpu)})"}


def log_trial(tracker: Tracker, cost: TrialCost, trial: TrialView) -> None:
    """Logs what a trial cost until now; dollars only where there is a price."""
    metrics = cost.bill.metrics(PREFIX)
    if cost.solo_usd is not None:
        metrics[f"{PREFIX}usd_solo"] = cost.solo_usd
    if cost.solo_s is not None:
        metrics[f"{PREFIX}solo_s"] = cost.solo_s
    tracker.log(RunKey(RunKind.TRIAL, trial.number), metrics, trial.examples_seen or 0)


def log_study(tracker: Tracker, paths: StudyPaths, found: Statement, examples: int) -> None:
    """Logs what a study cost until now, with its table and its picture, which stay in its folder too."""
    bill = found.bill
    metrics = {**bill.metrics(PREFIX), f"{PREFIX}useful_share": found.useful_share}
    for label in Label:  # those that have nothing too: an earlier session may have logged more of them
        name, part = label.value.replace("-", "_"), bill.of(label)
        if bill.usd is not None and not bill.unpriced_s:
            metrics[f"{PREFIX}usd_{name}"] = part.usd or 0.0
        else:
            metrics[f"{PREFIX}device_s_{name}"] = part.seconds
    if found.apart is not None:
        metrics[f"{PREFIX}one_process_each_factor"] = found.apart.factor
    tracker.log(STUDY, metrics, step=examples)
    write_atomically(paths.cost, json.dumps(found.as_dict(), indent=1))
    write_atomically(paths.cost_table, found.csv())
    if isinstance(made := attempted(DOLLARS, lambda: dollars(found)), Picture):
        write(made, LIGHT, paths.cost_picture)
    for file in (paths.cost, paths.cost_table, paths.cost_picture):
        if file.is_file():
            tracker.log_file(STUDY, file)


def log_all(tracker: Tracker, paths: StudyPaths, found: Statement, trials: Sequence[TrialView]) -> None:
    """Logs what the study cost, and each of its trials that has ended."""
    for trial in trials:
        if trial.is_told:
            log_trial(tracker, found.trial(trial.number), trial)
    log_study(tracker, paths, found, examples_of(trials))


@contextmanager
def logged(
    paths: StudyPaths, tracker: Tracker, search: Search, spending: Spending, events: EventLog, is_due: object = True
) -> Iterator[None]:
    """Logs what the study has cost until then when a session leaves the block, unless by an error.

    Args:
        is_due: false at the end where another worker does it.

    After an error the tracker may be the very thing that is out of reach; the next session logs all again.
    """
    yield
    if not is_due:
        return
    try:
        if tracker.has(STUDY):
            log_all(tracker, paths, spending.account(), search.views())
    except (StoreError, OSError) as error:  # no reason for a study not to come to its end
        events.write("note", message=f"costs are not logged: {error}")
