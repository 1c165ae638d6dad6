"""The answer in a few sentences, and the trials beside each other: what whoever opens a report reads first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeper.money.statement import sum_in_words
from sweeper.report.content import Table
from sweeper.report.facts import Facts
from sweeper.report.sentences import number_text, plus_minus, score, why_chosen
from sweeper.retention.measure import CONSTRAINT, FULL, PREFIX
from sweeper.search.advice import shortfall
from sweeper.search.views import TrialView
from sweeper.trial import Reason
from sweeper.units import usd_text

NONE = "–"


def answer(facts: Facts) -> str:
    """What came of the study, and what it cost; where the winner is nothing to use, that too."""
    lines = [_winner(facts)]
    if facts.cost.bill.lines:
        tense = "has cost" if facts.is_running else "cost"
        so_far = " so far" if facts.is_running else ""
        lines.append(f"It {tense} {sum_in_words(facts.cost.bill)}{so_far}.")
    if facts.best is not None and (line := shortfall(facts.seen, facts.config)):
        lines.append(line)
    return " ".join(lines)


def _winner(facts: Facts) -> str:
    best, metric = facts.best, facts.metric
    if best is None:
        if not facts.is_finished and not any(trial.value is not None for trial in facts.seen.trials):
            return "No trial is complete yet, so there is nothing to say of the best."
        return shortfall(facts.seen, facts.config) or ""
    params = ", ".join(f"{name} {number_text(value)}" for name, value in best.params.items())
    head = "The best is" if facts.is_finished else "So far the best is"
    test: dict[str, Any] = facts.seen.attributes.get("test", {})
    if test.get("trial") == best.number:
        scores = f"test {metric} {plus_minus(test['winner'], metric)} over {test['rows']:,} rows"
        base: dict[str, float] | None = test["base"]
    else:
        scores, base = f"validation {metric} {plus_minus(best.metrics, metric)}", facts.seen.attributes.get("baseline")
    beside = f" (untuned base {plus_minus(base, metric)})" if base is not None else ""
    return f"{head} trial {best.number} ({params}) with {scores}{beside}, {_standing(facts)}."


def _standing(facts: Facts) -> str:
    """Whether the best is sure to be that."""
    found = facts.seen.confirmation
    if found is None:
        return "not confirmed yet" if facts.seen.must_be_confirmed(facts.config) else "not confirmed on fresh seeds"
    seeds = f"{len(found['seeds'])} fresh seed{'s' * (len(found['seeds']) != 1)}"
    if found["tied"]:
        others = ", ".join(map(str, found["tied"]))
        return f"a tie with trial{'s' * (len(found['tied']) > 1)} {others} on {seeds}; it {why_chosen(found)}"
    if not found["versus"]:
        return f"trained again on {seeds}, with no other configuration to be told from"
    return f"confirmed as the winner on {seeds}"


def state_of(trial: TrialView) -> str:
    """A trial's state with its reason, such as `pruned (wrecked)`."""
    if trial.is_rejected:
        return "infeasible, not trained"
    words = trial.state.lower() + (f" ({trial.reason})" if trial.reason not in (None, Reason.PRUNER) else "")
    if trial.same_as is not None:
        words += f" (as {trial.same_as})"
    if trial.state == "COMPLETE" and not trial.is_feasible:
        words += " (forgets too much)" if trial.constraints.get(CONSTRAINT, 0.0) > 0 else " (breaks a constraint)"
    return words


def trial_table(facts: Facts, trials: Sequence[TrialView], caption: str, with_states: bool = False) -> Table:
    """Trials beside each other: parameters, score, what they keep of the base and what they cost."""
    metric, total = facts.metric, facts.cost.bill.usd
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    drop = _drops(trials)
    confirmed = _confirmed(facts)
    in_dollars = total is not None
    columns: dict[str, Any] = {"trial": lambda trial: str(trial.number)}
    if with_states:
        columns["state"] = state_of
    for name in names:
        columns[name] = lambda trial, name=name: number_text(trial.params[name]) if name in trial.params else NONE
    columns[f"validation {metric}"] = lambda trial: (
        plus_minus(trial.metrics, metric) if trial.value is not None and metric in trial.metrics else NONE
    )
    if confirmed:
        columns["fresh seeds"] = lambda trial: confirmed.get(trial.number, NONE)
    if drop:
        columns["retention drop"] = lambda trial: drop.get(trial.number, NONE)
    columns["examples"] = lambda trial: f"{trial.examples_seen:,}" if trial.examples_seen else NONE
    if facts.cost.bill.lines:
        bills = {one.number: one.bill for one in facts.cost.trials}
        columns["cost" if in_dollars else "device s"] = lambda trial: _cost(bills[trial.number], total)
    texts = {name for name in names if any(not _is_number(trial.params.get(name)) for trial in trials)} | {"state"}
    best = facts.best
    return Table(
        caption=caption,
        columns=tuple(columns),
        rows=tuple(tuple(cell(trial) for cell in columns.values()) for trial in trials),
        numbers=frozenset(place for place, name in enumerate(columns) if name not in texts),
        strong=next((place for place, trial in enumerate(trials) if best and trial.number == best.number), None),
    )


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _drops(trials: Sequence[TrialView]) -> dict[int, str]:
    """What each has lost of the base's abilities, by the whole suite where that was measured."""
    found = {}
    for trial in trials:
        drop = trial.metrics.get(f"{FULL}drop", trial.metrics.get(f"{PREFIX}drop"))
        if drop is not None:
            found[trial.number] = f"{drop:+.3f}"
    return found


def _confirmed(facts: Facts) -> dict[int, str]:
    """The mean over fresh seeds of those that were trained again."""
    found = {}
    for one in (facts.seen.confirmation or {}).get("candidates", ()):
        if one["mean"] is not None:
            spread = f" ± {score(one['spread'])}" if one["spread"] is not None else ""
            found[one["trial"]] = f"{score(one['mean'])}{spread}"
    return found


def _cost(bill: Any, total: float | None) -> str:
    if not bill.lines:
        return NONE
    if total is None:
        return f"{bill.seconds:,.1f}"
    return usd_text(bill.usd, total) if bill.usd is not None else NONE
