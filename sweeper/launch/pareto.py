"""What a result costs beside what it is worth, in words."""

from __future__ import annotations

from sweeper.config.schema import Config
from sweeper.money.price import Price
from sweeper.search.pareto import cheaper_tie
from sweeper.search.views import StudyView


def cheaper_line(study: StudyView, config: Config) -> str | None:
    """That something cheaper than the winner may be as good; None where nothing is."""
    trial, best, price = cheaper_tie(study, config.objective.metric_name), study.best, Price.of(config.gpu)
    if trial is None or best is None or not trial.solo_s or not best.solo_s:
        return None
    cost = f"{trial.solo_s:.3g} s alone instead of {best.solo_s:.3g}"
    if price is not None and price.usd_per_hour:
        cost += f", ${price.usd(trial.solo_s):.2g} instead of ${price.usd(best.solo_s):.2g}"
    saved = 1 - trial.solo_s / best.solo_s
    return f"Trial {trial.number} takes {saved:.0%} less and is within noise on the search's own rows ({cost})."
