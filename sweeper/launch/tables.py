"""A study in words and tables: what `status`, `best` and the end of `launch` print."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.config.schema import Config
from sweeper.launch.pareto import cheaper_line
from sweeper.money.statement import Statement
from sweeper.retention.measure import CONSTRAINT, FULL, MEASURES, PREFIX
from sweeper.search.advice import shortfall
from sweeper.search.ended import ENDED, holds
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason, run_name
from sweeper.units import usd_text

MAX_TIES = 8  # that are named
SHOWN = 20  # trials that `status` shows of a large study


def study_json(study: StudyView, config: Config, cost: Statement | None = None) -> dict[str, Any]:
    """`status --json`."""
    return {
        "study": study.name,
        "direction": config.objective.direction,
        "metric": config.objective.metric_name,
        "total": config.search.trials,
        "counts": study.counts(),
        "trained": sum(trial.counts and trial.same_as is None for trial in study.trials),
        "rejected": study.rejections,
        "informed": sum(trial.is_informed for trial in study.trials),
        "baseline": study.attributes.get("baseline"),
        "test": study.attributes.get("test"),
        "confirmation": study.confirmation,
        "learning_curve": study.attributes.get("learning_curve"),
        "long_rows": study.attributes.get("long_rows"),
        "code_sha256": study.attributes.get("code_sha256"),
        "memory": study.attributes.get("memory"),
        "retention": retention_json(study),
        "ended": study.attributes.get(ENDED),
        "best": study.best.number if study.best else None,
        "ties": [trial.number for trial in study.ties(config.objective.metric_name)],
        "pareto": [trial.number for trial in study.pareto],
        "cost": cost.summary() if cost is not None else None,
        "trials": [trial_json(trial, cost) for trial in study.trials],
    }


def trial_json(trial: TrialView, cost: Statement | None = None) -> dict[str, Any]:
    """One trial of `status --json`."""
    return {
        "number": trial.number,
        "state": trial.state,
        "params": trial.params,
        "value": trial.value,
        "metrics": trial.metrics,
        "duration_s": trial.duration_s,
        "solo_s": trial.solo_s,
        "reason": trial.reason,
        "detail": trial.detail,
        "examples_seen": trial.examples_seen,
        "is_informed": trial.is_informed,
        "evaluations": list(trial.evaluations),
        "curve": list(trial.curve),
        "constraints": trial.constraints,
        "is_feasible": trial.is_feasible,
        "same_as": trial.same_as,
        "start": trial.start,
        "cost": cost.trial(trial.number).cost() if cost is not None else None,
    }


def study_table(
    study: StudyView, config: Config, cost: Statement | None = None, shown: int | None = None
) -> RenderableType:
    """`status`: the trials, the best first, then the others by number.

    Args:
        shown: no more than so many of them, and those in flight; None: all.
    """
    best = study.best
    if not study.trials:
        return Text(f"{study.name}: {_counts(study, config)}")
    table = Table(
        padding=(0, 1, 0, 0),
        title=f"{study.name}: {_counts(study, config)}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
    )
    costs, unit = trial_costs(cost)
    columns = ("trial", "state", "params", config.objective.metric_name, "evaluations", "s", *([unit] if costs else []))
    for column in columns:
        table.add_column(column, justify="left" if column in ("state", "params") else "right")
    ranked = sorted(study.trials, key=lambda trial: (trial.merit is None, -(trial.merit or 0.0), trial.number))
    rows = ranked[:shown]
    rows += [trial for trial in ranked[len(rows) :] if trial.state == "RUNNING"]
    for trial in rows:
        is_plain = trial.reason in (None, Reason.PRUNER)
        state = trial.state.lower() + ("" if is_plain else f" ({trial.reason})")
        if trial.same_as is not None:
            state += f" (as {trial.same_as})"
        if not trial.is_feasible and trial.reason not in (Reason.INFEASIBLE, Reason.WRECKED):
            state += " (forgets too much)" if trial.constraints.get(CONSTRAINT, 0.0) > 0 else " (infeasible)"
        value = plus_minus(trial.metrics, config.objective.metric_name) if trial.value is not None else "–"
        course = " ".join(f"{score:.2f}" for score in trial.evaluations) or "–"
        seconds = f"{trial.duration_s:.0f}" if trial.duration_s is not None else "–"
        style = "bold" if best is not None and trial.number == best.number else None
        params = run_name(trial.number, trial.params).partition(" ")[2]
        own = [costs[trial.number]] if costs else []
        table.add_row(str(trial.number), state, params, value, course, seconds, *own, style=style)
    parts: list[RenderableType] = [table]
    if len(rows) < len(ranked):
        parts.append(Text(f"… {len(ranked) - len(rows)} trials more: sweeper status {study.name} --all\n"))
    parts.append(answer(study, config))
    if line := cost_line(cost):
        parts.append(Text(line))
    return Group(*parts)


def trial_costs(cost: Statement | None) -> tuple[dict[int, str], str]:
    """What each trial cost, and in which unit: dollars, or device seconds where there is no price."""
    if cost is None or cost.is_empty:
        return {}, "$"
    total = cost.bill.usd
    found = {}
    for trial in cost.trials:
        own = trial.bill
        if total is None:
            found[trial.number] = f"{own.seconds:.1f}" if own.lines else "–"
        else:
            found[trial.number] = usd_text(own.usd, total).replace("$", "") if own.usd is not None else "–"
    return found, "$" if total is not None else "device s"


def cost_line(cost: Statement | None) -> str | None:
    """What the study cost and what for; None where nothing is booked."""
    return f"Cost: {cost.sentence()}" if cost is not None and cost.bill.lines else None


def answer(study: StudyView, config: Config) -> RenderableType:
    """The result in sentences: the winner, the base and the majority on the same rows."""
    best = study.best
    metric = config.objective.metric_name
    if best is None:
        return Text(shortfall(study, config) or "")
    params = ", ".join(f"{name} {_number(value)}" for name, value in best.params.items())
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
    if line := cheaper_line(study, config):
        lines.append(line)
    ended = study.attributes.get(ENDED)
    if ended is not None and holds(ended, config):
        lines.append(f"Ended before its total of {config.search.trials}: {ended['message']}.")
    lines += _tested(study, config)
    if line := retention_line(study, best):
        lines.append(line)
    if curve := study.attributes.get("learning_curve"):
        whose = f"trial {curve['trial']}" if curve["trial"] is not None else "the start of the search"
        lines.append(f"Learning curve of {whose}: {curve['sentences'][0]}")
    if line := shortfall(study, config):
        lines.append(line)
    if line := memory_line(study):
        lines.append(line)
    return Text("\n".join(lines))


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
        lines.append(f"A tie: these rows and seeds cannot tell it from {trials}; it is the cheapest of them.")
    elif found["versus"]:
        nearest = min(found["versus"], key=lambda one: one["low"])
        lines.append(
            f"The winner: better than trial {nearest['trial']} by {score(nearest['difference'])} "
            f"(95 %: {score(nearest['low'])} to {score(nearest['high'])}), with a probability of "
            f"{nearest['probability']:.1%}."
        )
    return lines


def _tested(study: StudyView, config: Config) -> list[str]:
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


def plus_minus(scores: dict[str, float], metric: str) -> str:
    """A score with its standard error, where it has one."""
    error = scores.get(f"{metric}_se")
    return score(scores[metric]) + (f" ± {score(error)}" if error is not None else "")


def score(value: float) -> str:
    """A value of a metric, which may be of any size."""
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.6g}" if abs(value) >= 1000 else f"{value:.3g}"


def _counts(study: StudyView, config: Config) -> str:
    informed = sum(trial.is_informed for trial in study.trials)
    return f"{study.summary()}; total {config.search.trials}; {informed} asks informed by the sampler"


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
