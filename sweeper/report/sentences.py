"""A study in sentences, each with its figures: what `status` and `best` print, and reports say."""

from __future__ import annotations

from typing import Any

from sweeper.config.schema import Config
from sweeper.money.statement import Statement
from sweeper.retention.measure import CONSTRAINT, FULL, MEASURES, PREFIX
from sweeper.search.advice import shortfall
from sweeper.search.cheaper import cheaper_tie
from sweeper.search.ended import ENDED, holds
from sweeper.search.looks import Looks
from sweeper.search.views import StudyView, TrialView
from sweeper.units import time_text, usd_text

MAX_TIES = 8  # that are named


def sentences(study: StudyView, config: Config, looks: Looks | None = None, cost: Statement | None = None) -> list[str]:
    """The result in sentences: the winner, the base and the majority on the same rows.

    Args:
        looks: how often the test split was used, where that is known.
        cost: of the study, where that is known.
    """
    best = study.best
    metric = config.objective.metric_name
    if best is None:
        return [line] if (line := shortfall(study, config)) else []
    params = ", ".join(f"{name} {number_text(value)}" for name, value in best.params.items())
    lines = [f"Best: trial {best.number} ({params}), validation {metric} {plus_minus(best.metrics, metric)}"]
    baseline = study.attributes.get("baseline")
    if baseline:
        lines[0] += f"; untuned base {plus_minus(baseline, metric)}"
    ties = study.ties(metric)
    if study.confirmation is not None:
        lines += _confirmed(study.confirmation)
    elif ties:
        named = ", ".join(str(trial.number) for trial in ties[:MAX_TIES]) + (", …" if len(ties) > MAX_TIES else "")
        lines.append(
            f"Within noise of it (one standard error of the difference): trial{'s' if len(ties) > 1 else ''} {named}. "
            "These rows cannot tell which is best."
        )
    if line := cheaper_line(study, config.objective.metric_name, cost):
        lines.append(line)
    ended = study.attributes.get(ENDED)
    if ended is not None and holds(ended, config):
        lines.append(f"Ended before its total of {config.search.trials}: {ended['message']}.")
    lines += _tested(study, config, looks)
    if line := retention_line(study, best):
        lines.append(line)
    if curve := study.attributes.get("learning_curve"):
        whose = f"trial {curve['trial']}" if curve["trial"] is not None else "the start of the search"
        lines.append(f"Learning curve of {whose}: {curve['sentences'][0]}")
    if line := shortfall(study, config):
        lines.append(line)
    if line := memory_line(study):
        lines.append(line)
    return lines


def cheaper_line(study: StudyView, metric: str, cost: Statement | None = None) -> str | None:
    """That something cheaper than the winner may be as good; None where nothing is.

    Args:
        cost: of the study; None: nothing is said of dollars.
    """
    trial, best = cheaper_tie(study, metric), study.best
    if trial is None or best is None or not trial.solo_s or not best.solo_s:
        return None
    words = f"{time_text(trial.solo_s)} alone instead of {time_text(best.solo_s)}"
    usd = {one.number: one.solo_usd for one in cost.trials} if cost is not None else {}
    if (less := usd.get(trial.number)) and (more := usd.get(best.number)):
        words += f", {usd_text(less)} instead of {usd_text(more)}"
    saved = 1 - trial.solo_s / best.solo_s
    return f"Trial {trial.number} takes {saved:.0%} less and is within noise on the search's own rows ({words})."


def cost_line(cost: Statement | None) -> str | None:
    """What the study cost and what for; None where nothing is booked."""
    return f"Cost: {cost.sentence()}" if cost is not None and cost.bill.lines else None


def retention_json(study: StudyView) -> dict[str, Any] | None:
    """What the base could do, what was tolerated, and which trials lost more; None where it is not measured."""
    if (base := study.attributes.get("retention")) is None:
        return None
    return {
        **base,
        "violating": [trial.number for trial in study.trials if trial.constraints.get(CONSTRAINT, 0.0) > 0],
        "in_full": {trial.number: found for trial in study.trials if (found := _in_full(trial))},
    }


def retention_line(study: StudyView, best: TrialView) -> str | None:
    """What the winner keeps of the base's abilities, and how many trials lost too much."""
    if (base := study.attributes.get("retention")) is None:
        return None
    full = _in_full(best)
    of_base, where = (base, "in full") if full else (base["sample"], "on the sample")
    own = {name: value for name, value in best.metrics.items() if name.startswith(PREFIX)}
    values = full or {name.removeprefix(PREFIX): value for name, value in own.items()}
    words = [f"{name} {values[name]:.4g} (base {of_base[name]:.4g})" for name in MEASURES if name in values]
    if base["constrains"] is not None and "drop" in values:
        drop = f"drop {values['drop']:+.3f} ± {values['drop_se']:.3f} in {base['constrains']}"
        words.append(f"{drop}, tolerated {of_base['tolerance']:.3f}")
    count = len((retention_json(study) or {})["violating"])
    return f"Retention {where}: {', '.join(words)}; {count} trial{'s' * (count != 1)} lost more"


def _in_full(trial: TrialView) -> dict[str, float]:
    """What a trial keeps by the whole suite; empty where that was not measured."""
    return {name.removeprefix(FULL): value for name, value in trial.metrics.items() if name.startswith(FULL)}


def why_chosen(found: dict[str, Any]) -> str:
    """Why this one, of those that are tied."""
    if found["chosen"] == found["leader"]:
        return "has the best mean, and no cheaper one is within a standard error of it"
    return "is the cheapest within a standard error of the best mean"


def _confirmed(found: dict[str, Any]) -> list[str]:
    """Whether the choice among the best is a winner or a tie, and what each scored."""
    seeds, rows, metric = len(found["seeds"]), found["rows"], found["metric"]
    words = []
    for one in found["candidates"]:
        mean = "none" if one["mean"] is None else score(one["mean"])
        spread = f" ± {score(one['spread'])}" if one["spread"] is not None else ""
        failed = f" ({', '.join(one['failures'])})" if one["failures"] else ""
        words.append(f"trial {one['trial']} {mean}{spread}{failed}")
    lines = [
        f"Confirmed on {seeds} fresh seed{'s' if seeds != 1 else ''} and {rows} validation rows that the search did "
        f"not score: {metric} {', '.join(words)}{' (± over seeds)' if seeds > 1 else ''}"
    ]
    if found["tied"]:
        named = ", ".join(map(str, found["tied"]))
        trials = f"trial{'s' if len(found['tied']) > 1 else ''} {named}"
        lines.append(f"A tie: these rows and seeds cannot tell it from {trials}; it {why_chosen(found)}.")
    elif found["versus"]:
        nearest = min(found["versus"], key=lambda one: one["low"])
        lines.append(
            f"The winner: better than trial {nearest['trial']} by {score(nearest['difference'])} "
            f"(95 %: {score(nearest['low'])} to {score(nearest['high'])}), with a probability of "
            f"{nearest['probability']:.1%}."
        )
    return lines


def _tested(study: StudyView, config: Config, looks: Looks | None) -> list[str]:
    """What the test split says of winner, runner-up, base and the trivial answer; nothing before it was scored."""
    test, metric = study.attributes.get("test"), config.objective.metric_name
    if not test or study.best is None or test["trial"] != study.best.number:
        return []
    trivial = "majority class" if config.task.name == "classification" else "most common answer"
    winner, base, majority = (plus_minus(test[who], metric) for who in ("winner", "base", "majority"))
    second = ""
    if runner_up := test.get("runner_up"):
        second = f"runner-up (trial {runner_up['trial']}) {plus_minus(runner_up['scores'], metric)}, "
    lines = [
        f"Test {metric} over {test['rows']} rows: winner {winner}, {second}untuned base {base}, {trivial} {majority}"
    ]
    if "optimism" in test:
        word = "better" if test["optimism"] >= 0 else "worse"
        lines.append(
            f"Optimism of the search: its best validation {metric} is {score(abs(test['optimism']))} {word} than what "
            "the same adapter has on the test split."
        )
    if looks is not None:
        lines.append(looks.sentence())
    return lines


def memory_line(study: StudyView) -> str | None:
    """What the study took of its device, and what went wrong with that; None where nothing read it."""
    memory = study.attributes.get("memory")
    if not memory or not memory["steps"]:
        return None
    rescues = sum(memory["rescues"].values())
    return (
        f"Memory: peak {memory['peak_gib']:.3g} of {memory['budget_gib']:.3g} GiB ({memory['backend']}), steps took "
        f"{memory['mean_ratio']:.0%} of what was foretold, at most {memory['highest_ratio']:.0%}; "
        f"{study.rejections} asks rejected untrained, {rescues} steps rescued, {memory['evictions']} trials evicted, "
        f"{memory['prunes']} pruned for memory"
    )


def of_base(words: str, config: Config) -> str:
    """Words about the 4-bit base, of a study whose base may not be one."""
    return words if config.model.quant == "nf4" else words.replace("4-bit base", "base")


def plus_minus(scores: dict[str, float], metric: str) -> str:
    """A score with its standard error, where it has one."""
    error = scores.get(f"{metric}_se")
    return score(scores[metric]) + (f" ± {score(error)}" if error is not None else "")


def score(value: float) -> str:
    """A value of a metric, which may be of any size."""
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.6g}" if abs(value) >= 1000 else f"{value:.3g}"


def number_text(value: object) -> str:
    """A value of a parameter: a number in three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
