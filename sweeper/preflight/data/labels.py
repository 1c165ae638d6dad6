"""How the labels of a classification are spread, and which of them are doubtful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.config.schema import Config
from sweeper.data.row import Row
from sweeper.data.rows import TaskData
from sweeper.errors import number_of
from sweeper.preflight.data.finding import Finding
from sweeper.preflight.data.suspects import suspects
from sweeper.quoting import name_of

_FEW = 5  # training rows of a label
_UNEVEN = 3.0  # the commonest label, as a multiple of an even share
_SHOWN = 3


def findings(config: Config, data: TaskData) -> list[Finding]:
    """What is to be known of the labels; nothing where answers are written."""
    counts = data.label_counts
    if not counts:
        return []
    labelled = [row for row in data.train if not row.answers]
    found = []
    rare = sorted(label for label, count in counts.items() if count < _FEW)
    if rare:
        message = f"{number_of(len(rare), 'label has', 'labels have')} fewer than {_FEW} training rows: {_names(rare)}"
        found.append(Finding.warning("rare-labels", message, [row for row in labelled if row.label in rare]))
    unscored = sorted(set(counts) - {row.label for row in data.validation})
    if unscored:
        message = number_of(len(unscored), "label has", "labels have")
        message += f" no validation row, and no score knows of {'it' if len(unscored) == 1 else 'them'}"
        found.append(Finding.warning("unscored-labels", f"{message}: {_names(unscored)}"))
    return [*found, *_imbalance(config, counts), *_doubtful(labelled)]


def is_uneven(counts: Mapping[str, int]) -> bool:
    """Whether one label has so many of the rows that accuracy alone would say little."""
    return max(counts.values(), default=0) * len(counts) > _UNEVEN * sum(counts.values())


def _imbalance(config: Config, counts: Mapping[str, int]) -> list[Finding]:
    is_met = config.data.class_weight == "balanced" or config.objective.metric_name == "macro_f1"
    if is_met or not is_uneven(counts):
        return []
    label = max(counts, key=counts.__getitem__)
    share = counts[label] / sum(counts.values())
    message = (
        f"{share:.0%} of the training rows are {name_of(label)}, which alone gets that accuracy; "
        "objective.metric=macro_f1 or data.class_weight=balanced lets rare labels count"
    )
    return [Finding.warning("imbalance", message)]


def _doubtful(rows: Sequence[Row]) -> list[Finding]:
    looked_at, found = suspects(rows)
    if not found:
        return []
    message = (
        f"{len(found)} of {looked_at:,} training rows have a label that the words of the other rows speak against; "
        "look whether it is right"
    )
    return [Finding.warning("suspect-labels", message, found)]


def _names(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(map(name_of, labels[:_SHOWN])) + more
