"""All pictures of a study, in the order in which they are of use.

| name | what |
|---|---|
| interaction | the metric by two searched parameters: learning rate and rank, or the two that matter most |
| cost_front | the metric against what a trial costs alone |
| learning_curves | the course of every trial |
| confusion | which label the winner takes for which |
| retention | what is forgotten of the base, against the metric |
| memory | the memory that was foretold, against what was taken |
| dollars | where the dollars went |
| importance | what share of the metric's variance each parameter explains |
| learning_curve | what parts of the training rows give |
"""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.config.schema import Config
from sweeper.money.statement import Statement
from sweeper.paths import StudyPaths
from sweeper.plots.confusion import confusion
from sweeper.plots.cost import dollars
from sweeper.plots.cost_front import cost_front
from sweeper.plots.importance import Importance, importance, importances
from sweeper.plots.interaction_picture import interaction
from sweeper.plots.learning_curve import learning_curve
from sweeper.plots.learning_curves import learning_curves
from sweeper.plots.memory import memory
from sweeper.plots.picture import LeftOut, Picture
from sweeper.plots.retention import retention
from sweeper.search.views import StudyView

__all__ = ["Album", "Picture", "album", "pictures"]


@dataclass(frozen=True)
class Album:
    """The pictures of a study, and those that would show nothing."""

    pictures: list[Picture]
    left_out: list[LeftOut]


def album(paths: StudyPaths, seen: StudyView, config: Config, cost: Statement | None) -> Album:
    """All pictures of a study as it stands; it may be running, and have no complete trial.

    Args:
        cost: where its dollars went; None where that is not known.
    """
    found = importances(seen, config)
    baseline = seen.attributes.get("baseline", {}).get(config.objective.metric_name)
    made = [
        interaction(seen, config, list(found.shares) if isinstance(found, Importance) else []),
        cost_front(seen, config, cost),
        learning_curves(seen, config),
        confusion(seen, paths),
        retention(seen, config),
        memory(seen),
        dollars(cost),
        importance(seen, config, found),
        learning_curve(seen.attributes.get("learning_curve"), seen.name, baseline),
    ]
    return Album([one for one in made if isinstance(one, Picture)], [one for one in made if isinstance(one, LeftOut)])


def pictures(paths: StudyPaths, seen: StudyView, config: Config, cost: Statement | None) -> list[Picture]:
    """The pictures alone."""
    return album(paths, seen, config, cost).pictures
