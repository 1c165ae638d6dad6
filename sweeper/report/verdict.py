"""What to try next, from all that a study has left: its storage, and the predictions in its folder."""

from __future__ import annotations

from collections import Counter

from sweeper.config.schema import Config
from sweeper.errors import StoreError
from sweeper.mistakes import kept
from sweeper.paths import StudyPaths
from sweeper.search.advice import Confused, next_steps
from sweeper.search.views import StudyView, is_finished


def advice(study: StudyView, config: Config, paths: StudyPaths) -> list[str]:
    """The next steps for a study that has come to its end, a sentence each; none before."""
    return next_steps(study, config, _confused(study, paths)) if is_finished(study, config) else []


def _confused(study: StudyView, paths: StudyPaths) -> list[Confused]:
    """The labels that the best trial takes for each other on the validation rows, the most frequent first."""
    best = study.best
    if best is None:
        return []
    try:
        found = kept.read(paths.predictions(best.number))
    except StoreError:  # of a study from before they were kept
        return []
    pairs = Counter((one.truth, one.prediction) for one in found if not one.is_correct and one.truth is not None)
    return [Confused(truth, said, rows) for (truth, said), rows in pairs.most_common()]
