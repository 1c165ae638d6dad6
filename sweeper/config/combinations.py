"""Which sampler, pruner and space go together.

What makes no sense is refused with the reason; what makes sense but surprises is said when a study
starts.
"""

from __future__ import annotations

import math

from sweeper.config.sampling import (
    CmaEsSection,
    GPSection,
    GridSection,
    HyperbandSection,
    MedianSection,
    NoPrunerSection,
    NSGAIISection,
    PatientSection,
    PercentileSection,
    QMCSection,
    RandomSection,
    SuccessiveHalvingSection,
    TPESection,
)
from sweeper.config.schema import Config
from sweeper.config.space import (
    contains,
    exists,
    grid_size,
    grid_values,
    is_conditional,
    limit_problems,
    values_of,
)
from sweeper.errors import unknown


def problems(config: Config) -> list[str]:
    """Why a configuration cannot be searched as it says, a line each."""
    return [*_sampler_problems(config), *_pruner_problems(config), *_enqueued_problems(config)]


def notes(config: Config) -> list[str]:
    """What a person should know before a study begins, a line each."""
    return [*_sampler_notes(config), *_pruner_notes(config)]


def is_blind(config: Config) -> bool:
    """Whether the sampler learns nothing from results."""
    return isinstance(config.sampler, RandomSection | GridSection | QMCSection)


def brackets(config: Config) -> int:
    """Hyperband's brackets: the first prunes from `min_evaluations` on, each further one a factor later."""
    assert isinstance(config.pruner, HyperbandSection)
    ratio = config.most_evaluations() / config.pruner.min_evaluations
    return 0 if ratio < 1 else math.floor(math.log(ratio, config.pruner.reduction_factor) + 1e-9) + 1


def is_allowed(config: Config, name: str, value: object) -> bool:
    """Whether the search could choose a value for a parameter of its space."""
    if isinstance(config.sampler, GridSection):
        return value in grid_values(name, config.search.space[name], config.sampler.points)
    return contains(name, config.search.space[name], value)


def _sampler_problems(config: Config) -> list[str]:
    section, space = config.sampler, config.search.space
    found = []
    if is_conditional(space) and isinstance(section, GPSection | CmaEsSection | NSGAIISection | QMCSection):
        found.append(
            f"sampler: {section.name} needs every parameter in every trial, but the space has conditions (`when`); "
            "take sampler=tpe, random or grid"
        )
    if isinstance(section, GPSection) and config.search.deterministic:
        found.append(
            "sampler: gp has been seen to ask otherwise after an interruption, so search.deterministic=true cannot be "
            "promised; take sampler=tpe"
        )
    if isinstance(section, CmaEsSection):
        ranges = [name for name, parameter in space.items() if values_of(parameter) is None]
        if len(ranges) < 2:
            found.append(
                f"sampler: cmaes adapts ranges and needs at least two, but got {ranges or 'none'}; "
                "take sampler=tpe, or gp"
            )
    if isinstance(section, GridSection):
        size = grid_size(space, section.points)
        if config.search.trials > size:
            found.append(
                f"search.trials: the grid has {size} configurations, but got {config.search.trials}; "
                f"set search.trials={size}, or more sampler.points"
            )
    return found


def _pruner_problems(config: Config) -> list[str]:
    section, most = config.pruner, config.most_evaluations()
    where = f"pruner: {section.name}"
    cure = "raise evaluation.count, or take pruner=none"
    if isinstance(section, NoPrunerSection):
        return []
    if isinstance(section, PatientSection | MedianSection | PercentileSection):
        first = section.warmup_evaluations + 1
        if isinstance(section, PatientSection):
            first = max(first, section.patience + 2)
        if first >= most:
            return [
                f"{where} decides first at evaluation {first}, but a trial has {most} and is complete at its last; "
                f"{cure}"
            ]
        return []
    assert isinstance(section, SuccessiveHalvingSection | HyperbandSection)
    if section.min_evaluations >= most:
        return [
            f"{where} decides first at evaluation {section.min_evaluations}, but a trial has {most} and is complete at "
            f"its last; {cure}"
        ]
    if isinstance(section, HyperbandSection) and brackets(config) < 2:
        return [
            f"{where} needs at least two brackets, min_evaluations × reduction_factor <= evaluations, but got "
            f"{section.min_evaluations} × {section.reduction_factor} > {most}; take pruner=successive-halving"
        ]
    return []


def _enqueued_problems(config: Config) -> list[str]:
    found, space = [], config.search.space
    for index, params in enumerate(config.search.enqueue):
        where = f"search.enqueue[{index}]"
        for name, value in params.items():
            if name not in space:
                found.append(f"{where}: {unknown('parameter of the space', name, space)}")
            elif limits := limit_problems(name, value):
                found += [f"{where}.{name}: {message}" for message in limits]
            elif not is_allowed(config, name, value):
                found.append(f"{where}.{name}: must be one that search.space.{name} allows, but got {value!r}")
            elif not exists(space[name], params):
                found.append(f"{where}.{name}: does not exist beside these choices; see search.space.{name}.when")
    starts = len(config.search.enqueue)
    if starts > config.search.trials:
        found.append(f"search.enqueue: at most search.trials={config.search.trials} may be given, but got {starts}")
    return found


def _sampler_notes(config: Config) -> list[str]:
    section, trials = config.sampler, config.search.trials
    found = []
    others = config.most_slots - 1  # in flight at an ask, so not known to the sampler
    begins = TPESection | GPSection | CmaEsSection
    startup = {
        "sampler.startup_trials": section.startup_trials if isinstance(section, begins) else 0,
        "sampler.population_size": section.population_size if isinstance(section, NSGAIISection) else 0,
    }
    for key, count in startup.items():
        if count and count + others >= trials:
            found.append(
                f"sampler: all {trials} trials are drawn at random, since {section.name} begins to learn when "
                f"{key}={count} have ended, and {others} more are in flight then"
            )
    if isinstance(section, CmaEsSection):
        choices = [name for name, parameter in config.search.space.items() if values_of(parameter) is not None]
        if choices:
            found.append(f"sampler: cmaes draws {', '.join(choices)} at random; it adapts ranges only")
    if isinstance(section, CmaEsSection | NSGAIISection | RandomSection | QMCSection | GridSection):
        found.append(
            f"sampler: {section.name} does not avoid infeasible configurations; they are told without training"
        )
    return found


def _pruner_notes(config: Config) -> list[str]:
    section, trials = config.pruner, config.search.trials
    if isinstance(section, PatientSection | MedianSection | PercentileSection) and section.startup_trials >= trials:
        return [
            f"pruner: {section.name} prunes nothing before {section.startup_trials} trials are complete, but there are "
            f"{trials}"
        ]
    if isinstance(section, HyperbandSection) and not is_blind(config):
        return [
            f"pruner: hyperband keeps {brackets(config)} brackets apart, and {config.sampler.name} learns in each by "
            "itself"
        ]
    return []
