"""A report: everything that a study has to say, in the order in which a person asks."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.learning.curve import LearningCurve
from sweeper.report import again, dropped, history, searched, spent
from sweeper.report.answer import answer, trial_table
from sweeper.report.content import Block, Content, Figure, Folded, Paragraph, Section, Table, bullets, paragraphs
from sweeper.report.facts import Facts
from sweeper.report.sentences import of_base, plus_minus, score, sentences

BEST = 10  # trials that a report shows at once
MOST_TRIALS = 1000  # that it has at all


def content(facts: Facts, figures: Sequence[Figure | Paragraph] = ()) -> Content:
    """What a report says.

    Args:
        figures: in their order, with words for those that are missed; none: a report without pictures.
    """
    sections = (
        searched.section(facts),
        Section("won", "What won, and how sure we are", _won(facts)),
        Section("pictures", "Pictures", tuple(figures)),
        spent.section(facts),
        dropped.section(facts),
        history.data_section(facts),
        history.changes_section(facts),
        again.next_section(facts),
        again.export_section(facts),
        again.reproduce_section(facts),
    )
    return Content(
        title=facts.name,
        description=facts.config.study.description,
        state=facts.state,
        answer=answer(facts),
        sections=tuple(section for section in sections if section.blocks),
    )


def _won(facts: Facts) -> tuple[Block, ...]:
    seen = facts.seen
    blocks: tuple[Block, ...] = bullets(sentences(seen, facts.config, facts.looks, facts.cost))
    if (table := _test_table(facts)) is not None:
        blocks += (table,)
    if ranked := seen.ranked:
        count = min(BEST, len(ranked))
        blocks += (trial_table(facts, ranked[:count], f"The best {count} of {len(seen.trials)} trials"),)
    if (kept := seen.attributes.get("learning_curve")) is not None:
        blocks += (_curve_table(LearningCurve.from_dict(kept)),)
    if seen.trials:
        blocks += (_all_trials(facts),)
    return blocks or paragraphs(["No trial has begun yet."])


def _test_table(facts: Facts) -> Table | None:
    """Who scored what on the rows that chose nothing."""
    test, metric = facts.seen.attributes.get("test"), facts.metric
    if not test or facts.best is None or test["trial"] != facts.best.number:
        return None
    trivial = "majority class" if facts.config.task.name == "classification" else "most common answer"
    scored = {f"winner, trial {test['trial']}": test["winner"]}
    if second := test.get("runner_up"):
        scored[f"runner-up, trial {second['trial']}"] = second["scores"]
    scored |= {of_base("untuned 4-bit base", facts.config): test["base"], trivial: test["majority"]}
    names = [name for name in test["winner"] if not name.endswith("_se")]
    names.sort(key=lambda name: name != metric)
    rows = tuple((who, *(plus_minus(scores, name) for name in names)) for who, scores in scored.items())
    chose = "which chose nothing" if facts.looks.is_once else "by which the search chose nothing"
    caption = f"On the {test['rows']:,} rows of the test split, {chose} (± one standard error)"
    return Table(caption, ("", *names), rows, frozenset(range(1, len(names) + 1)), strong=0)


def _curve_table(curve: LearningCurve) -> Table:
    rows = tuple((f"{point.rows:,}", f"{score(point.value)} ± {score(point.error)}") for point in curve.points)
    return Table("The learning curve", ("training rows", f"validation {curve.metric}"), rows, frozenset({0, 1}))


def _all_trials(facts: Facts) -> Folded:
    """Every trial, the best first; of very many those."""
    trials = sorted(facts.seen.trials, key=lambda one: (one.merit is None, -(one.merit or 0.0), one.number))
    shown = trials[:MOST_TRIALS]
    count = (
        f"All {len(trials)} trials" if len(shown) == len(trials) else f"The best {len(shown)} of {len(trials)} trials"
    )
    table = trial_table(facts, shown, f"{count}; `sweeper status {facts.name} --json` has their courses", True)
    return Folded(count, (table,))
