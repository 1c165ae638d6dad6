"""A study in words and tables: what `status`, `best` and the end of `launch` print."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.config.schema import Config
from sweeper.money.statement import Statement
from sweeper.report.sentences import cost_line, plus_minus, retention_json, sentences
from sweeper.retention.measure import CONSTRAINT
from sweeper.search.ended import ENDED
from sweeper.search.looks import Looks
from sweeper.search.views import StudyView, TrialView
from sweeper.trial import Reason, run_name
from sweeper.units import usd_text

SHOWN = 20  # trials that `status` shows of a large study


def study_json(
    study: StudyView, config: Config, cost: Statement | None = None, looks: Looks | None = None
) -> dict[str, Any]:
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
        "test_use": looks.as_dict() if looks is not None else None,
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
    study: StudyView,
    config: Config,
    cost: Statement | None = None,
    shown: int | None = None,
    looks: Looks | None = None,
) -> RenderableType:
    """`status`: the trials, the best first, then the others by number.

    Args:
        shown: no more than so many of them, and those in flight; None: all.
        looks: how often the test split was used, where that is known.
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
    parts.append(answer(study, config, looks, cost))
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


def answer(
    study: StudyView, config: Config, looks: Looks | None = None, cost: Statement | None = None
) -> RenderableType:
    """The result in sentences: the winner, the base and the majority on the same rows."""
    return Text("\n".join(sentences(study, config, looks, cost)))


def _counts(study: StudyView, config: Config) -> str:
    informed = sum(trial.is_informed for trial in study.trials)
    return f"{study.summary()}; total {config.search.trials}; {informed} asks informed by the sampler"
