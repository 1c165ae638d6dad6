"""`sweeper plan` in words and tables."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.preflight.cost import TRIALS, CostEstimate, Part, bought_in_words
from sweeper.preflight.plan import Cell, Plan
from sweeper.units import time_text, usd_text

NAMES = {
    "context": "context",
    "weights_4bit": "4-bit weights",
    "weights_other": "other weights",
    "adapters_and_optimizer": "adapters and optimizer",
    "checkpoints": "checkpoints",
    "activations": "activations",
    "logits": "supervised logits",
    "recompute": "recompute",
    "dequantisation": "dequantisation",
    "optimizer_scratch": "optimizer's scratch",
    "copies": "copies of a trial that leaves",
}


def plan_table(plan: Plan) -> RenderableType:
    """The whole plan."""
    measured = "measured" if plan.are_lengths_measured else "the most that prompt.max_tokens and the labels allow"
    context = (
        f"{plan.runtime_gib:.2f} GiB of it is what a worker here holds beside tensors"
        if plan.runtime_gib is not None
        else "what a worker holds beside tensors has not been measured on it yet, and comes on top"
    )
    head = (
        f"{plan.study}: {plan.model} on {plan.card.name}, {plan.card.total_gib:.2f} GiB\n"
        f"budget {plan.budget_gib:.2f} GiB, after a reserve of {plan.reserve_gib:g}; {context}\n"
        f"longest row {plan.longest_row_tokens} tokens, answer {plan.answer_tokens} ({measured})"
    )
    memory = (_peaks(plan), _terms(plan), Text(_words(plan)))
    return Group(Text(head), *memory, *cost_table(plan.cost), Text(_full_fine_tune(plan)), Text(_disks(plan)))


def _peaks(plan: Plan) -> Table:
    table = Table(title="Peak of one trial in GiB, by rank and rows at once", title_justify="left", box=box.SIMPLE)
    rows = sorted({cell.rows for cell in plan.cells})
    table.add_column("rank", justify="right")
    for count in rows:
        table.add_column(f"{count} × {plan.longest_row_tokens}", justify="right")
    table.add_column("rows that fit", justify="right")
    table.add_column("trials that fit", justify="right")
    for rank in sorted({cell.rank for cell in plan.cells}):
        cells = {cell.rows: cell for cell in plan.cells if cell.rank == rank}
        words = [_peak(cells[count]) for count in rows]
        table.add_row(str(rank), *words, str(plan.micro_batch_rows[rank]), str(plan.slots[rank]))
    table.caption = "↻ with gradient checkpointing · ✗ does not fit · trials that fit: together, one row at a time"
    table.caption_justify = "left"
    return table


def _peak(cell: Cell) -> str:
    return f"{cell.peak_gib:.2f}" + ("↻" if cell.is_checkpointed else "") + ("" if cell.fits else " ✗")


def _terms(plan: Plan) -> Table:
    """What makes up the peak of the largest part that fits, for each rank."""
    table = Table(title="What it is made of, at the most rows above that fit", title_justify="left", box=box.SIMPLE)
    chosen = []
    ranks = sorted({cell.rank for cell in plan.cells})
    for rank in sorted({ranks[0], ranks[len(ranks) // 2], ranks[-1]}):
        cells = [cell for cell in plan.cells if cell.rank == rank]
        chosen.append(max([cell for cell in cells if cell.fits] or cells[:1], key=lambda cell: cell.rows))
    table.add_column("GiB")
    for cell in chosen:
        table.add_column(f"rank {cell.rank}, {cell.rows} rows{'↻' if cell.is_checkpointed else ''}", justify="right")
    for term, name in NAMES.items():
        sizes = [cell.terms_gib.get(term) for cell in chosen]
        if any(sizes):
            table.add_row(name, *(f"{size:.3f}" if size else "–" for size in sizes))
    table.add_row("all", *(f"{cell.peak_gib:.3f}" for cell in chosen), style="bold")
    return table


def cost_table(cost: CostEstimate) -> list[RenderableType]:
    """What it will take in time and money."""
    if cost.source is None:
        return [Text(f"\nTime and money: {cost.basis}.\nPrice: {cost.price}.")]
    title = "What is left of it, in time and money" if cost.is_rest else "What it will take, in time and money"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for place, name in enumerate(("", "likely", "low", "high")):
        table.add_column(name, justify="right" if place else "left")
    if cost.trial is not None:
        table.add_row("one trial, alone", *_figures(cost.trial), end_section=True)
    for part in cost.parts:
        table.add_row(f"{cost.trials.likely:.0f} trials" if part.name == TRIALS else part.name, *_figures(part))
    if cost.parts:
        table.add_row("all", *_figures(cost.total), style="bold")
    else:
        table.add_row("nothing: the study is complete")
    words = [f"Price: {cost.price}.", f"These figures are {cost.basis}."]
    if cost.trained_share < 1:
        words.append(f"The pruner is taken to leave {cost.trained_share:.0%} of all trials' length; high: all of it.")
    words.append(_packing(cost))
    words += [f"{bought_in_words(one, cost.trials)}." for one in cost.bought]
    return [table, Text("\n".join(words))]


def _packing(cost: CostEstimate) -> str:
    """What trials together gain, on this device with this model and these rows."""
    if cost.packing is None:
        return "Packing: what training trials together gain is not known before a first session has measured it here."
    return f"Packing: {cost.packing.in_words(cost.slots)}."


def _figures(part: Part) -> list[str]:
    seconds, usd = part.seconds, part.usd
    times = [time_text(one) for one in (seconds.likely, seconds.low, seconds.high)]
    if usd is None:
        return times
    return [f"{time}\n{usd_text(one)}" for time, one in zip(times, (usd.likely, usd.low, usd.high), strict=True)]


def _full_fine_tune(plan: Plan) -> str:
    """What training all weights would need, for comparison."""
    full = plan.full_fine_tune
    kinds = [(full.large_cards, "of 80 GB")]
    if plan.card.is_cuda:
        kinds.insert(0, (full.cards, f"× {plan.card.name}"))
    cards = ", or ".join(f"{count} {name}" if count is not None else f"none {name}" for count, name in kinds)
    words = (
        f"For comparison, by the book: to train all {full.parameters / 1e9:.3g} billion weights takes "
        f"{full.state_gib:.3g} GiB in mixed precision, and on each card {full.activations_gib:.2g} GiB for a row's "
        f"activations: {cards}"
    )
    if full.device_seconds is not None:
        usd = f", {usd_text(full.usd)}" if full.usd is not None else ""
        words += f"; with the tokens of one trial {time_text(full.device_seconds)} of one card's time{usd}"
    return f"{words}."


def _disks(plan: Plan) -> str:
    return "\n".join([*(f"Disk: {room.in_words()}" for room in plan.disks), *(f"Note: {line}" for line in plan.notes)])


def _words(plan: Plan) -> str:
    if not plan.infeasible:
        return "Every configuration of the space fits."
    lines = [f"{plan.infeasible_share:.0%} of the space does not fit, not even alone and one row at a time:"]
    for part in plan.infeasible:
        ranks = f"rank {part.ranks[0]}" if len(part.ranks) == 1 else f"ranks from {part.ranks[0]}"
        lines.append(f"  {part.target_modules}: {ranks} (at least {part.smallest_peak_gib:.2f} GiB)")
    lines.append("A search tells these asks as infeasible at once, without training them.")
    return "\n".join(lines)
