"""Whether something cheaper than the winner may be as good."""

from __future__ import annotations

from sweeper.search.choice import LIKE
from sweeper.search.views import StudyView, TrialView


def cheaper_tie(study: StudyView, metric: str) -> TrialView | None:
    """The cheapest trial that is within noise of the winner, and takes less time alone; None where there is none.

    Those that confirmation told from the winner are not within noise of it, whatever the search's own rows say.
    """
    best, confirmation = study.best, study.confirmation
    if best is None or best.solo_s is None:
        return None
    told_apart: set[int] = set()
    if confirmation is not None:
        told_apart = set(confirmation["finalists"]) - set(confirmation["tied"])
    cheaper = [
        trial
        for trial in study.ties(metric)
        if trial.solo_s is not None and trial.solo_s * (1 + LIKE) < best.solo_s and trial.number not in told_apart
    ]
    return min(cheaper, key=lambda trial: (trial.solo_s, trial.number), default=None)
