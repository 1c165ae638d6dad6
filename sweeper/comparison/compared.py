"""Two sides compared on the same rows, with all that is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.comparison import scores
from sweeper.comparison.costs import Costs, costs
from sweeper.comparison.paired import Change, Pair, RightWrong, changed, paired
from sweeper.comparison.scores import SHARES, Difference
from sweeper.comparison.sides import Side, side_of
from sweeper.data.row import Row
from sweeper.errors import ConfigError, StoreError, SweeperError, unknown
from sweeper.mistakes.joined import rows_by_hash
from sweeper.paths import TEST, VALIDATION, Home
from sweeper.search.looks import Looks, count_pair, looks

_FLATTERED = (
    "The validation rows chose the winner, and of each trial the evaluation that counts, so they flatter it; --split "
    "test compares on rows that chose nothing"
)
_OTHER_SEEDS = (
    "This is of two trained adapters on these rows; whether the settings of one are better, on other seeds too, is "
    "what confirmation tells"
)


@dataclass(frozen=True)
class Asked:
    """What is to be compared, and how.

    Attributes:
        metric: None: the one that both searches went by.
        is_common: leave out the rows that only one of both has.
        every_metric: all that both have, beside the one that is asked for.
        with_text: the rows' texts are read.
    """

    a: str
    b: str
    split: str
    metric: str | None = None
    is_common: bool = False
    every_metric: bool = False
    with_text: bool = False


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Attributes:
        differences: by metric; the one that was asked for is first.
        left_out: metrics that could not be compared, and why.
        rows: by their hash, where texts were read.
        uses: how often the test split of each study was used; empty on validation rows.
    """

    split: str
    a: Side
    b: Side
    pairs: list[Pair]
    differences: dict[str, Difference]
    left_out: dict[str, str]
    right_wrong: RightWrong
    costs: tuple[Costs, Costs]
    rows: dict[str, Row]
    uses: dict[str, Looks]
    notes: list[str]

    @property
    def metric(self) -> str:
        return next(iter(self.differences))

    @property
    def changed(self) -> list[Pair]:
        return changed(self.pairs)

    @property
    def is_written(self) -> bool:
        """Whether answers are written, which are texts."""
        return self.pairs[0].a.truth is None

    def count(self, change: Change) -> int:
        return sum(pair.change is change for pair in self.pairs if pair.differs)


def compare(home: Home, asked: Asked) -> Comparison:
    """Compares two sides on the rows of one split; on the test split this counts as a use of it.

    Raises:
        StoreError: if their rows or metrics differ, or nothing is kept of one of them.
        ExportError: if a folder is no export, or has no predictions for these rows.
        ConfigError: if the metric is none that both have.
        CustomCodeError: if a metric of the user's own raises.
    """
    a, b = side_of(home, asked.a, asked.split), side_of(home, asked.b, asked.split)
    if a.key == b.key:
        raise StoreError(f"A and B must be two, but both have the predictions of {', '.join(a.key)}")
    pairs = paired(a.kept, b.kept, asked.is_common)
    notes = [*dict.fromkeys([*a.notes, *b.notes])]
    if len(pairs) < max(len(a.kept), len(b.kept)):
        notes.append(f"compared on the {len(pairs)} rows that both have, of {len(a.kept)} of A and {len(b.kept)} of B")
    common = _common(a, b)
    metric = _metric(a, b, common, asked.metric)
    wanted = [metric, *(name for name in common if name != metric and asked.every_metric)]
    needs_rows = asked.with_text or any(not _is_of_kept(name, a, pairs) for name in wanted)
    rows, problems = _rows(a, b, asked.split) if needs_rows else ({}, [])
    right_wrong = RightWrong.of(pairs)
    differences: dict[str, Difference] = {}
    left_out: dict[str, str] = {}
    for name in wanted:
        try:
            differences[name] = _difference(name, a, b, pairs, rows, problems, right_wrong)
        except SweeperError as error:
            if name == metric:
                raise
            left_out[name] = str(error)
    if asked.with_text and not rows:
        notes += problems
    if asked.split == VALIDATION:
        notes.append(_FLATTERED)
    if a.trial is not None and b.trial is not None and (a.study, a.owner) != (b.study, b.owner):
        notes.append(_OTHER_SEEDS)
    uses, uncounted = _used(a, b) if asked.split == TEST else ({}, [])
    found = rows if asked.with_text else {}
    both = costs(home, a), costs(home, b)
    return Comparison(
        asked.split, a, b, pairs, differences, left_out, right_wrong, both, found, uses, [*notes, *uncounted]
    )


def _common(a: Side, b: Side) -> list[str]:
    """The metrics by which both can be scored in the same way."""
    return [name for name in a.metrics if name in b.metrics and _is_same(name, a, b)]


def _is_same(metric: str, a: Side, b: Side) -> bool:
    """Whether a metric of that name is the same for both: of the user's own, whether its code and settings are."""
    if not a.is_own(metric) and not b.is_own(metric):
        return True
    if not (a.is_own(metric) and b.is_own(metric)) or a.studied is None or b.studied is None:
        return False
    one, other = a.studied, b.studied
    is_same_code = one.seen.attributes.get("code_sha256") == other.seen.attributes.get("code_sha256")
    is_same_metric = one.config.objective.metric == other.config.objective.metric
    return is_same_code and is_same_metric and one.config.task == other.config.task


def _metric(a: Side, b: Side, common: list[str], asked: str | None) -> str:
    """The metric to go by.

    Raises:
        ConfigError: if it is none that both have.
        StoreError: if they have none in common, or nobody says which one is meant.
    """
    if not common:
        raise StoreError(
            f"A and B must have a metric in common, but {a.name} has {', '.join(a.metrics)}, and {b.name} "
            f"{', '.join(b.metrics)}"
        )
    if asked is not None:
        if asked not in common:
            raise ConfigError(f"--metric must be one that both have: {unknown('metric', asked, common)}")
        return asked
    wanted = list(dict.fromkeys(name for name in (a.objective, b.objective) if name is not None))
    if len(wanted) > 1:
        raise StoreError(
            f"the searches of A and B went by {' and '.join(wanted)}: --metric must say which one, of "
            f"{', '.join(common)}"
        )
    if wanted and wanted[0] not in common:
        raise StoreError(
            f"the search went by {wanted[0]}, by which both cannot be scored in the same way: --metric must say "
            f"another one, of {', '.join(common)}"
        )
    return wanted[0] if wanted else common[0]


def _is_minimized(metric: str, a: Side, b: Side) -> bool | None:
    """Whether less is better: as the searches have it that went by this metric.

    Raises:
        StoreError: if one search has it so and the other one otherwise.
    """
    said = {
        side.studied.config.objective.is_minimized
        for side in (a, b)
        if side.studied is not None and side.objective == metric
    }
    if len(said) > 1:
        raise StoreError(
            f"A and B must agree on which {metric} is better, but one search maximizes it and the other one minimizes "
            "it"
        )
    if said:
        return said.pop()
    return None if a.is_own(metric) else False


def _is_of_kept(metric: str, a: Side, pairs: list[Pair]) -> bool:
    return not a.is_own(metric) and scores.is_of_kept(metric, pairs)


def _difference(
    metric: str,
    a: Side,
    b: Side,
    pairs: list[Pair],
    rows: dict[str, Row],
    problems: list[str],
    right_wrong: RightWrong,
) -> Difference:
    is_minimized = _is_minimized(metric, a, b)
    if _is_of_kept(metric, a, pairs):
        both = scores.from_kept(metric, pairs)
        return Difference.of(metric, *both, is_minimized, right_wrong if metric in SHARES else None)
    studied = a.studied or b.studied
    if studied is None or not rows:
        why = "; ".join(problems) or "neither study is in the store"
        raise StoreError(f"{metric} is computed from the rows' texts, but these cannot be read: {why}")
    both = scores.from_rows(metric, pairs, rows, studied.config, studied.paths)
    return Difference.of(metric, *both, is_minimized)


def _rows(a: Side, b: Side, split: str) -> tuple[dict[str, Row], list[str]]:
    """The rows with their texts, where the data of either study can be read; and why not."""
    problems: list[str] = []
    for side in (a, b):
        if side.studied is not None:
            found, why = rows_by_hash(side.studied.config, side.studied.paths, split)
            if found:
                return found, []
            problems += why
    return {}, list(dict.fromkeys(problems)) or ["neither study is in the store, and so its rows are not known"]


def _used(a: Side, b: Side) -> tuple[dict[str, Looks], list[str]]:
    """Counts the comparison in the studies that are here; how often their test splits were used, and what was not."""
    uses: dict[str, Looks] = {}
    notes: list[str] = []
    for side in {side.study: side for side in (a, b)}.values():
        if side.studied is None:
            notes.append(f"not counted as a use of the test split: study {side.study!r} is not in the store")
            continue
        names = [one.key[1] if one.study == side.study else ", ".join(one.key) for one in (a, b)]
        try:
            count_pair(side.studied.paths, *names)
        except StoreError as error:
            notes.append(f"not counted as a use of the test split: {error}")
        uses[side.study] = looks(side.studied.seen.attributes, side.studied.paths)
    return uses, notes
