"""What a study tries first: the configurations that it names, and the best of past trials.

They are chosen once, at a study's first launch, and kept with it: what becomes of past trials later changes nothing.
"""

from __future__ import annotations

from typing import Any

from sweeper.config import combinations
from sweeper.config.schema import Config
from sweeper.config.space import exists, in_order
from sweeper.paths import Home
from sweeper.search.past import past_trials


def starts(home: Home, config: Config) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The configurations to try first, by where they come from.

    Returns:
        The configurations, and what was left out, and why, a line each.

    Raises:
        ConfigError: if past trials cannot be read.
        StoreError: if there is no such study in the store.
    """
    found: dict[str, dict[str, Any]] = {
        f"enqueue[{index}]": dict(params) for index, params in enumerate(config.search.enqueue)
    }
    if config.search.warm_start is None:
        return found, []
    space = config.search.space
    room = min(config.search.warm_start_trials, config.search.trials - len(found))
    trials, left_out = past_trials(home, config)
    looked_at: list[dict[str, Any]] = []  # a configuration that was told again is the same one
    for trial in trials:
        if trial.params in looked_at:
            continue
        if len(looked_at) == room:
            break
        looked_at.append(trial.params)
        params = {n: trial.params[n] for n in in_order(space) if n in trial.params}
        params = {n: value for n, value in params.items() if exists(space[n], params)}
        outside = [f"{n}={v!r}" for n, v in params.items() if not combinations.is_allowed(config, n, v)]
        if outside:
            left_out.append(f"{trial.name}: {', '.join(outside)} is outside search.space")
        elif not params:
            left_out.append(f"{trial.name}: has no parameter of search.space")
        elif params not in found.values():
            found[trial.name] = params
    return found, left_out
