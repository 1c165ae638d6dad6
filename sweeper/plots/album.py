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

from collections.abc import Callable
from dataclasses import dataclass

from sweeper.config.schema import Config
from sweeper.money.statement import Statement
from sweeper.paths import StudyPaths
from sweeper.plots.confusion import confusion
from sweeper.plots.cost import dollars
from sweeper.plots.cost_front import cost_front
from sweeper.plots.importance import NAME as IMPORTANCE
from sweeper.plots.importance import Importance, importance, importances
from sweeper.plots.interaction_picture import interaction
from sweeper.plots.learning_curve import learning_curve
from sweeper.plots.learning_curves import learning_curves
from sweeper.plots.memory import memory
from sweeper.plots.picture import LeftOut, Picture, attempted
from sweeper.plots.retention import retention
from sweeper.search.views import StudyView

__all__ = ["Album", "Picture", "album"]


@dataclass(frozen=True)
class Album:
    """The pictures of a study, and those that would show nothing or cannot be composed."""

    pictures: list[Picture]
    left_out: list[LeftOut]


def album(paths: StudyPaths, seen: StudyView, config: Config, cost: Statement | None) -> Album:
    """All pictures of a study as it stands; it may be running, and have no complete trial.

    Args:
        cost: where its dollars went; None where that is not known.
    """
    found = attempted(IMPORTANCE, lambda: importances(seen, config))
    baseline = seen.attributes.get("baseline", {}).get(config.objective.metric_name)
    important = list(found.shares) if isinstance(found, Importance) else []
    kept = seen.attributes.get("learning_curve")
    each: dict[str, Callable[[], Picture | LeftOut]] = {
        "interaction": lambda: interaction(seen, config, important),
        "cost_front": lambda: cost_front(seen, config, cost),
        "learning_curves": lambda: learning_curves(seen, config),
        "confusion": lambda: confusion(seen, paths),
        "retention": lambda: retention(seen, config),
        "memory": lambda: memory(seen),
        "dollars": lambda: dollars(cost),
        IMPORTANCE: lambda: importance(seen, config, found),
        "learning_curve": lambda: learning_curve(kept, seen.name, baseline),
    }
    made = [attempted(name, compose) for name, compose in each.items()]
    return Album([one for one in made if isinstance(one, Picture)], [one for one in made if isinstance(one, LeftOut)])
