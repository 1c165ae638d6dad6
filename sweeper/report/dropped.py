"""What was stopped and why: by reason, with what each means; and what failed."""

from __future__ import annotations

from collections import Counter

from sweeper.report.content import Block, Folded, Section, Table, bullets, paragraphs
from sweeper.report.facts import Facts
from sweeper.report.sentences import number_text
from sweeper.search.views import TrialView
from sweeper.trial import Reason

MOST_DETAILS = 30  # trials whose own words are shown
_REJECTED, _REPEATED, _BREAKS, _UNFINISHED = "infeasible, not trained", "repeated", "breaks a constraint", "unfinished"


def section(facts: Facts) -> Section:
    counts = Counter(kind for trial in facts.seen.trials if (kind := _kind(trial)) is not None)
    said = _meanings(facts)
    rows = tuple((kind, str(counts[kind]), said[kind]) for kind in said if counts[kind])
    blocks: tuple[Block, ...] = ()
    if rows:
        blocks = (
            Table("Trials without a place among the best", ("why", "trials", "what it means"), rows, frozenset({1})),
        )
    elif facts.seen.trials:
        blocks = paragraphs(["Every trial came to its end and keeps to the constraints."])
    lines = _failures(facts)
    if facts.last_error is not None:
        lines.append(f"The last session ended with an error. {facts.last_error}")
    return Section("stopped", "What was stopped, and why", (*blocks, *bullets(lines), *_details(facts)))


def _failures(facts: Facts) -> list[str]:
    """Those that failed with the same words in a line."""
    failed: dict[str, list[str]] = {}
    for trial in facts.seen.trials:
        if trial.state == "FAIL":
            failed.setdefault(trial.detail or "no word on why", []).append(str(trial.number))
    return [
        f"Trial{'s' * (len(numbers) > 1)} {', '.join(numbers)} failed: {detail}."
        for detail, numbers in list(failed.items())[:MOST_DETAILS]
    ]


def _kind(trial: TrialView) -> str | None:
    """Why a trial is not among the best; None where it may be."""
    if not trial.is_told:
        return _UNFINISHED
    if trial.is_rejected:
        return _REJECTED
    if trial.same_as is not None:
        return _REPEATED
    if trial.state == "FAIL":
        return Reason.DEFECT.value
    if trial.reason is not None:
        return trial.reason
    return None if trial.is_feasible else _BREAKS


def _meanings(facts: Facts) -> dict[str, str]:
    names = sorted({name for trial in facts.seen.trials for name, value in trial.constraints.items() if value > 0})
    return {
        Reason.PRUNER.value: f"behind at the same evaluation, by the rule of the {facts.config.pruner.name} pruner",
        Reason.WRECKED.value: "had certainly lost more of the base's own abilities than is tolerated",
        Reason.DIVERGED.value: "its loss or its weights were no finite numbers any more",
        Reason.INFEASIBLE.value: "did not fit into memory, however its steps were cut",
        _REJECTED: "foretold to break a constraint, so it cost nothing; it comes on top of the total",
        _BREAKS: f"came to its end, and is above the limit of {', '.join(names)}",
        _REPEATED: "the same configuration as an earlier trial, whose result it has",
        Reason.DEFECT.value: "an error that no hyperparameter caused; the search learns nothing from it",
        _UNFINISHED: "in training or waiting to go on",
    }


def _details(facts: Facts) -> tuple[Block, ...]:
    """What is known of each trial that was stopped."""
    own = [trial for trial in facts.seen.trials if trial.detail and trial.state != "FAIL"]
    if not own:
        return ()
    rows = tuple(
        (
            str(trial.number),
            ", ".join(f"{name} {number_text(value)}" for name, value in trial.params.items()),
            trial.detail,
        )
        for trial in own[:MOST_DETAILS]
        if trial.detail
    )
    shown = f"the first {MOST_DETAILS} of {len(own)}" if len(own) > MOST_DETAILS else f"{len(own)}"
    table = Table("Trials that were stopped", ("trial", "parameters", "what happened"), rows)
    return (Folded(f"In their own words ({shown})", (table,)),)
