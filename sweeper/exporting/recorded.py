"""What a study knows of one trial's answers: the rows, what was predicted for them, and how much was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.config.teaching import METRICS
from sweeper.custom import own
from sweeper.data import long, rows
from sweeper.data.prompt import Conversations, Renderer, renderer
from sweeper.data.row import Row
from sweeper.errors import ExportError, SweeperError
from sweeper.mistakes import kept
from sweeper.mistakes.kept import Kept
from sweeper.models import origin
from sweeper.models.source import load_tokenizer
from sweeper.paths import TEST, VALIDATION
from sweeper.report.facts import Facts
from sweeper.retention.measure import FULL, Answers
from sweeper.retention.watch import Watch
from sweeper.search.views import TrialView
from sweeper.tasks.resampled import Resampler
from sweeper.tasks.task import Task, task_of

WITHOUT = "--no-parity exports without the check"


@dataclass(frozen=True)
class Recorded:
    """One trial as its study scored it.

    Attributes:
        split: test for a winner and its runner-up, else validation: no other trial is shown the test rows.
        rows: in the order of `predictions`, cut as `data.long` says.
        watch: the retention suite; None where there is none.
        resampler: scores answers to the rows, drawn again and again.
        forgotten: the drop in it that was recorded of the whole suite; None where that was not measured.
    """

    split: str
    rows: list[Row]
    predictions: list[Kept]
    rendered: Renderer | Conversations
    task: Task
    metric: str
    is_minimized: bool
    watch: Watch | None
    forgotten: float | None
    resampler: Resampler

    @property
    def texts(self) -> list[str]:
        """What was predicted, row by row."""
        return [one.prediction for one in self.predictions]

    @property
    def labels(self) -> list[str]:
        return self.rendered.labels

    def judged(self, answers: Sequence[tuple[str, float]], has_texts: bool) -> list[Kept]:
        """Other answers to the same rows, as predictions are kept.

        Args:
            has_texts: whether what was written may leave the study's folder; else it is kept as its hash.
        """
        is_shown = has_texts or bool(self.labels)
        return [
            Kept(
                row=one.row,
                sha256=one.sha256,
                tokens=one.tokens,
                prediction=text if is_shown else kept.hashed(text),
                confidence=confidence,
                **self.task.judged(row, text),
            )
            for one, row, (text, confidence) in zip(self.predictions, self.rows, answers, strict=True)
        ]

    @property
    def room_tokens(self) -> int:
        """The most tokens of an answer."""
        if isinstance(self.rendered, Conversations):
            return self.rendered.max_new_tokens
        return max(len(self.rendered.answer_tokens(label)) for label in self.labels)


def recorded(facts: Facts, trial: TrialView) -> Recorded:
    """Reads what a study recorded of a trial, and its rows again from where they lie.

    Raises:
        ExportError: if it was not recorded, or the rows are not there any more as they were.
    """
    paths, config = facts.paths, facts.config
    split = TEST if paths.predictions(trial.number, TEST).is_file() else VALIDATION
    file = paths.predictions(trial.number, split)
    if not file.is_file():
        raise ExportError(
            f"an export is held against what its trial predicted, but the study kept no predictions of trial "
            f"{trial.number}; `sweeper rerun {paths.name} --trial {trial.number}` makes them, and {WITHOUT}"
        )
    predictions = kept.read(file)
    try:
        brought = own.load(config, paths.code)
        data = rows.of(config, paths.splits, brought)
        tokenizer = load_tokenizer(origin.pinned(config.model, origin.kept(paths)), paths.home)
        rendered = renderer(config, tokenizer, data.labels)
        places = {row.sha256: row.place for row in getattr(data, split)}
        fitted = {row.place: row for row in getattr(long.fit(rendered, data, config.data.long).data, split)}
        watch = Watch(config.retention, tokenizer) if config.retention.is_on else None
    except SweeperError as error:
        raise ExportError(
            f"an export is scored on the study's {split} rows, which must be there as they were: {error}; {WITHOUT}"
        ) from error
    task = task_of(config.task, rendered, brought.task, brought.metric, config.data.columns.label)
    found = [fitted.get(places.get(one.sha256, "")) for one in predictions]
    if gone := [one.row for one, row in zip(predictions, found, strict=True) if row is None]:
        raise ExportError(
            f"an export is scored on the study's {split} rows, but {len(gone)} of {len(found)} are not there any more "
            f"as they were scored ({', '.join(gone[:3])}); put them back, or {WITHOUT}"
        )
    scored = [row for row in found if row is not None]
    if watch is not None:
        watch.hold(_of_base(watch, facts))
    return Recorded(
        split=split,
        rows=scored,
        predictions=predictions,
        rendered=rendered,
        task=task,
        metric=facts.metric,
        is_minimized=config.objective.is_minimized,
        watch=watch,
        forgotten=trial.metrics.get(f"{FULL}drop"),
        resampler=Resampler(task, facts.metric, scored, config.search.seed, facts.metric in METRICS[config.task.name]),
    )


def _of_base(watch: Watch, facts: Facts) -> Answers:
    known = facts.seen.attributes.get("retention") or {}
    if known.get("sha256") != watch.full.sha256:
        raise ExportError(
            "an export is scored on the retention suite that its study was begun with, but its items have changed; put "
            f"them back, or {WITHOUT}"
        )
    return watch.kept(facts.paths.retention)
