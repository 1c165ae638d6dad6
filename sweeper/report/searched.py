"""What was searched: the base, the task, the rows, the space, and how."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from sweeper.config.space import Parameter, Range, condition_of, values_of
from sweeper.money.statement import started
from sweeper.report.content import Block, Folded, Section, Table, pairs
from sweeper.report.facts import Facts
from sweeper.report.sentences import number_text
from sweeper.search.views import HELD_BACK
from sweeper.units import time_text

MOST_LABELS = 30  # that are named


def section(facts: Facts) -> Section:
    return Section("searched", "What was searched", (_settings(facts), _space(facts), *_labels(facts)))


def _settings(facts: Facts) -> Table:
    config, attributes = facts.config, facts.seen.attributes
    objective = config.objective
    of_data = facts.data.get("sha256") or attributes.get("data_sha256")
    return pairs(
        "What it consists of",
        {
            "base": _base(facts),
            "task": f"{config.task.name}; {objective.direction} {facts.metric}, a trial's {objective.value}",
            "data": f"{config.data.source}" + (f", {last_part(config.data.path)}" if config.data.path else ""),
            "rows": _rows(facts),
            "sha256 of the rows": of_data,
            "each trial": _trial_words(facts),
            "sampler, pruner": f"{config.sampler.name}, {config.pruner.name}; seed {config.search.seed}",
            "trials": f"{sum(trial.counts for trial in facts.seen.trials)} of {config.search.trials}",
            "constraints": _constraints(facts),
            "time": _time(facts),
        },
    )


def _base(facts: Facts) -> str:
    model = facts.config.model
    known = facts.seen.attributes.get("model") or {}
    revision = known.get("commit") or model.revision
    where = f" ({last_part(model.path)})" if model.path is not None else ""
    words = [f"{model.name}{where}", f"quantisation {model.quant}"]
    words.append(f"computes in {facts.seen.attributes.get('dtype', model.dtype)}")
    return ", ".join(words) + (f", at {revision}" if revision else "")


def last_part(path: str) -> str:
    """The name of a file or folder: where on this machine it is tells whoever gets the report nothing."""
    return Path(path).name if Path(path).is_absolute() else path


def _rows(facts: Facts) -> str | None:
    splits = facts.data.get("splits", {})
    if not splits:
        rows = facts.seen.attributes.get("train_rows")
        return f"{rows:,} to train on" if rows is not None else None
    words = ", ".join(f"{split['rows']:,} {name}" for name, split in splits.items())
    held_back = facts.seen.attributes.get(HELD_BACK, 0)
    return words + (f"; {held_back:,} of validation held back for confirmation" if held_back else "")


def _trial_words(facts: Facts) -> str:
    train, evaluation = facts.config.train, facts.config.evaluation
    length = f"{train.examples:,} examples" if train.examples is not None else f"{train.epochs:g} epochs"
    rows = f"{evaluation.rows:,} validation rows" if evaluation.rows is not None else "the validation rows"
    chosen = facts.seen.attributes.get("packing", {}) if facts.config.engine.slots == "auto" else {}
    together = max((one["slots"] for one in chosen.values()), default=facts.config.most_slots)
    return f"{length}; {evaluation.count} evaluations on {rows}; up to {together} trials train together"


def _constraints(facts: Facts) -> str | None:
    words = []
    if budget := facts.seen.attributes.get("budget_bytes"):
        words.append(f"memory within {budget / 1024**3:.3g} GiB")
    base = facts.seen.attributes.get("retention")
    if base is not None and base["constrains"] is not None:
        words.append(f"retention: a drop of at most {base['tolerance']:.3f} in {base['constrains']}")
    return "; ".join(words) or None


def _time(facts: Facts) -> str | None:
    sessions = facts.cost.sessions
    if not sessions:
        return None
    began = min(map(started, sessions)).astimezone()
    device = f"{time_text(facts.cost.bill.seconds)} of the device"
    count = f"{len(sessions)} session{'s' * (len(sessions) != 1)}"
    told = [trial.told_at for trial in facts.seen.trials if trial.told_at is not None]
    last = f", last trial ended {datetime.fromtimestamp(max(told)):%Y-%m-%d %H:%M}" if told else ""
    return f"began {began:%Y-%m-%d %H:%M}{last}; {device}, {count}"


def _space(facts: Facts) -> Table:
    rows = tuple((name, _over(parameter), _when(parameter)) for name, parameter in facts.config.search.space.items())
    if not any(when for _, _, when in rows):
        return Table("The search space", ("parameter", "over"), tuple(row[:2] for row in rows))
    return Table("The search space", ("parameter", "over", "only with"), rows)


def _over(parameter: Parameter) -> str:
    if isinstance(parameter, Range):
        scale = ", logarithmic" if parameter.log else ""
        step = f", in steps of {number_text(parameter.step)}" if parameter.step is not None else ""
        return f"{number_text(parameter.low)} to {number_text(parameter.high)}{scale}{step}"
    return ", ".join(map(number_text, values_of(parameter) or []))


def _when(parameter: Parameter) -> str:
    conditions = condition_of(parameter).items()
    return "; ".join(f"{name} {' or '.join(map(number_text, values))}" for name, values in conditions)


def _labels(facts: Facts) -> tuple[Block, ...]:
    labels = facts.data.get("labels") or {}
    if not labels:
        return ()
    shown = list(labels.items())[:MOST_LABELS]
    more = f" The first {MOST_LABELS} of {len(labels)}." if len(labels) > MOST_LABELS else ""
    rows = tuple((str(label), f"{count:,}") for label, count in shown)
    table = Table(f"Training rows by label.{more}", ("label", "rows"), rows, frozenset({1}))
    return (Folded(f"{len(labels)} labels", (table,)),)
