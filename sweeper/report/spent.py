"""What the study took: dollars by what came of them, and memory."""

from __future__ import annotations

from sweeper.money.price import HOUR_S
from sweeper.money.statement import percent
from sweeper.report.content import Block, Section, Table, bullets, paragraphs
from sweeper.report.facts import Facts
from sweeper.report.sentences import cost_line, memory_line
from sweeper.units import usd_text


def section(facts: Facts) -> Section:
    blocks: tuple[Block, ...] = paragraphs([cost_line(facts.cost) or "What it cost was not booked."])
    if facts.cost.bill.lines:
        blocks += (_labels(facts),)
    return Section("cost", "What it cost", (*blocks, *bullets([*_prices(facts), *_budget(facts), *_memory(facts)])))


def _labels(facts: Facts) -> Table:
    bill = facts.cost.bill
    is_priced = bill.usd is not None
    rows = []
    for label, part in bill.by_label().items():
        usd = "–" if part.usd is None else usd_text(part.usd, bill.usd)
        rows.append((label.value, f"{part.seconds:,.1f}", *([usd] if is_priced else []), percent(bill.share(part))))
    columns = ("what came of it", "device s", *(["cost"] if is_priced else []), "share")
    return Table("Where it went", columns, tuple(rows), frozenset(range(1, len(columns))))


def _prices(facts: Facts) -> list[str]:
    words = dict.fromkeys(one.price.in_words() for one in facts.cost.sessions if one.price is not None)
    return [f"Price: {one}" for one in words]


def _budget(facts: Facts) -> list[str]:
    budget, bill = facts.config.budget, facts.cost.bill
    lines = []
    if budget.usd is not None:
        spent = usd_text(bill.usd) if bill.usd is not None else "nothing that has a price"
        lines.append(f"Budget: {spent} of `budget.usd={budget.usd:g}`")
    if budget.hours is not None:
        lines.append(f"Budget: {bill.worked_s / HOUR_S:.3g} device hours of `budget.hours={budget.hours:g}`")
    if budget.trials is not None:
        lines.append(
            f"Budget: {sum(trial.is_trained for trial in facts.seen.trials)} of {budget.trials} trained trials"
        )
    return lines or ["No budget was set."]


def _memory(facts: Facts) -> list[str]:
    if line := memory_line(facts.seen):
        return [line]
    memory = facts.seen.attributes.get("memory")
    if not memory:
        return []
    return [
        f"Memory: peak {memory['peak_gib']:.3g} of {memory['budget_gib']:.3g} GiB ({memory['backend']}); "
        "the steps were not read one by one"
    ]
