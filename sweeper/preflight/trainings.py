"""The trainings of a study before any has begun: how many, how long, and how large their adapters are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from sweeper.config.sampling import GridSection
from sweeper.config.schema import Config
from sweeper.config.space import Range, grid_size
from sweeper.money.budget import tokens_of
from sweeper.preflight import choices
from sweeper.preflight.architecture import Widths
from sweeper.preflight.volume import Volume
from sweeper.search.views import StudyView
from sweeper.span import Span

POINTS = 9  # of a searched range
LONGER = ("epochs", "batch_size", "replay")  # the parameters on which a training's length depends


@dataclass(frozen=True)
class Training:
    """One training from its beginning to its end."""

    steps: float
    tokens: float
    evaluations: float

    @classmethod
    def mean(cls, many: Sequence[Training]) -> Training:
        """Of many, the mean."""
        count = len(many)
        return cls(
            sum(one.steps for one in many) / count,
            sum(one.tokens for one in many) / count,
            sum(one.evaluations for one in many) / count,
        )


def trials_left(config: Config, before: StudyView | None) -> Span:
    """How many trials are still to be trained; a configuration that was trained before gets its result without.

    Of a space with an end, the likely figure is that of draws at random.
    """
    told = [one for one in before.trials if one.counts] if before is not None else []
    trained = sum(one.same_as is None for one in told)
    asked = max(0, config.search.trials - len(told))
    likely = high = float(asked)
    if (size := _size(config)) is not None:
        high = min(high, max(0, size - trained))
        drawn = size * (1 - (1 - 1 / size) ** (len(told) + asked)) - trained
        likely = high if isinstance(config.sampler, GridSection) else min(high, max(0.0, drawn))
    if config.budget.trials is not None:
        most = float(max(0, config.budget.trials - trained))
        likely, high = min(likely, most), min(high, most)
    return Span(likely, likely, high)


def _size(config: Config) -> int | None:
    """How many configurations are trained at the most; None where there is no end of them."""
    space = config.search.space
    if isinstance(config.sampler, GridSection):
        return grid_size(space, config.sampler.points)
    has_end = all(not isinstance(one, Range) or one.step is not None for one in space.values())
    return grid_size(space, POINTS) if has_end and config.search.duplicates == "reuse" else None


def trainings(config: Config, volume: Volume) -> list[Training]:
    """One of each length that the space allows."""
    names = [name for name in LONGER if name in config.search.space]
    points = config.sampler.points if isinstance(config.sampler, GridSection) else POINTS
    found = []
    for chosen in product(*(choices.values(config, name, points) for name in names)):
        params = config.trial_params(dict(zip(names, chosen, strict=True)))
        rhythm = config.rhythm(params, volume.train_rows)
        tokens = tokens_of(params, rhythm, volume.train_tokens, volume.passage_tokens)
        found.append(Training(rhythm.total_steps, tokens, rhythm.evaluations))
    return found


def adapter_values(config: Config, widths: Widths) -> float:
    """The values of a trial's adapter, in the mean over ranks; of the choice of targets that has the most."""
    ranks = choices.values(config, "rank", POINTS)
    mean = sum(int(rank) for rank in ranks) / len(ranks)
    return mean * max(widths.adapter_values(choice) for choice in choices.target_choices(config))
