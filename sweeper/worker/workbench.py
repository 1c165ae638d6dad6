"""What a worker sets up once: the data as tokens, the base on its device, and the pack on the base."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeper.config.schema import Config, ModelSection
from sweeper.config.teaching import METRICS
from sweeper.custom import own
from sweeper.custom.own import Own
from sweeper.data import held_back, long, rows
from sweeper.data.example import Example, balanced
from sweeper.data.held_back import Validation
from sweeper.data.prompt import Conversations, Renderer, renderer
from sweeper.data.row import Row
from sweeper.engine import compatibility
from sweeper.engine.bucket import AdapterState
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot
from sweeper.errors import OutOfRoomError
from sweeper.memory.guard import Guard
from sweeper.memory.oom import Failure, attempted
from sweeper.memory.planner import Planner
from sweeper.mistakes import kept
from sweeper.mistakes.kept import Kept
from sweeper.models import base, origin
from sweeper.models.source import load_tokenizer, source_of
from sweeper.models.targets import linear_names, resolve
from sweeper.paths import Home, StudyPaths
from sweeper.preflight import disk
from sweeper.preflight.choices import target_choices
from sweeper.retention.replay import Replay, has_replay
from sweeper.retention.watch import Watch
from sweeper.search.views import HELD_BACK, begun
from sweeper.tasks.resampled import Resampler
from sweeper.tasks.task import Scores, Task, task_of
from sweeper.tracking.tracker import DatasetUse
from sweeper.trial import Prediction, Rhythm, TrialParams

TRIED_ROWS = 3


@dataclass(frozen=True)
class Split:
    """Rows to score, and their prompts.

    Attributes:
        ids: the place and the hash of each.
    """

    prompts: list[tuple[int, ...]]
    rows: list[Row]
    ids: list[tuple[str, str]]

    @classmethod
    def of(cls, rendered: Renderer | Conversations, selected: list[Row], hashes: Mapping[str, str]) -> Split:
        """Of rows, and the hashes by their places: those of the rows as they were before they were cut."""
        ids = [(row.place, hashes[row.place]) for row in selected]
        return cls(prompts=rendered.prompts(selected), rows=selected, ids=ids)

    def first(self, count: int) -> Split:
        """The first rows alone."""
        return Split(self.prompts[:count], self.rows[:count], self.ids[:count])


@dataclass(frozen=True)
class Timing:
    """What the parts of an evaluation took."""

    rows_s: float  # the task's rows
    items_s: float  # the retention items


@dataclass(frozen=True)
class Scored:
    """What was predicted for the rows of a split, and how that compares with the truth."""

    scores: Scores
    predictions: list[Prediction]

    @property
    def texts(self) -> list[str]:
        return [prediction.text for prediction in self.predictions]


@dataclass
class Workbench:
    """The base with its pack, and the task to train and score on."""

    base_name: str
    base_revision: str | None  # the commit, where the base is from the Hub
    pack: Pack
    task: Task
    validation: Split
    confirmation: Split | None  # validation rows that the search does not score; None where it is not confirmed
    test: Split
    most_common: str  # label or answer of the training rows
    linears: list[str]
    data_sha256: str
    own: Own  # the code that the study brings
    long_rows: long.Counts  # what became of rows that were too long
    datasets: tuple[DatasetUse, ...]  # the rows, as they were before any was cut
    notes: list[str]  # on the data, for whoever watches
    retention: Watch | None  # what is measured of the base's own abilities
    replay: Replay | None  # general text that trials may train on

    @property
    def dtype(self) -> str:
        """What the base computes in, such as `bfloat16`."""
        return str(self.pack.model.dtype).removeprefix("torch.")

    @property
    def splits(self) -> list[Split]:
        """All that is scored."""
        return [self.validation, *([self.confirmation] if self.confirmation is not None else []), self.test]

    def score(self, split: Split, slots: list[int]) -> list[Scored]:
        """Scores the adapters of `slots`, all in the same forwards."""
        return [self._scored(split, found) for found in self.task.predict(self.pack, slots, split.prompts)]

    def _scored(self, split: Split, predictions: list[Prediction]) -> Scored:
        return Scored(self.task.score(split.rows, [prediction.text for prediction in predictions]), predictions)

    def score_prompts(self, prompts: Sequence[tuple[int, ...]], slots: list[int] | None = None) -> None:
        """Answers prompts without a look at the truth, for what that takes; without slots, by the base."""
        self.task.predict(self.pack, [0] if slots is None else slots, prompts, with_adapters=slots is not None)

    def evaluate(self, slots: list[Slot], config: Config) -> Timing:
        """Scores slots on the validation split, together, and keeps the best evaluation's adapter and predictions.

        An evaluation that has lost too much of the base's abilities is kept only where there is no other. Where memory
        runs out, nothing has changed.
        """
        indices = [self.pack.slots.index(slot) for slot in slots]
        started = time.monotonic()
        scored = self.score(self.validation, indices)
        between = time.monotonic()
        retained = self.retention.score(self.pack, indices) if self.retention is not None else [{} for _ in slots]
        timing = Timing(between - started, time.monotonic() - between)
        found: list[tuple[Slot, dict[str, float], AdapterState | None, list[Prediction]]] = []
        for slot, one, lost in zip(slots, scored, retained, strict=True):
            values = {**one.scores.as_dict(), **lost}
            best = slot.evaluations[slot.best_evaluation] if slot.best_evaluation is not None else None
            is_better = best is None or self._is_better(values, best, config)
            found.append((slot, values, self.pack.weights(slot) if is_better else None, one.predictions))
        for slot, values, weights, predictions in found:
            slot.evaluations.append(values)
            if weights is not None:
                slot.best_evaluation, slot.best_adapter = len(slot.evaluations) - 1, weights
                slot.best_predictions = predictions
        return timing

    def _is_better(self, values: dict[str, float], best: dict[str, float], config: Config) -> bool:
        """Whether an evaluation takes the place of the best one so far."""
        if config.objective.value == "last":
            return True
        if self.retention is not None:
            is_within, was_within = (self.retention.sampled.excess(each) <= 0 for each in (values, best))
            if is_within != was_within:
                return is_within
        metric = config.objective.metric_name
        return config.objective.is_better(values[metric], best[metric])

    def score_adapter(self, params: TrialParams, weights: AdapterState, split: Split) -> Scored:
        """Scores an adapter by itself; the pack must be empty, and is so again afterwards."""
        slot = Slot(-1, params, Rhythm(interval_examples=1, evaluations=1, batch_size=1), seed=0)
        self.pack.admit(slot, weights)
        try:
            [scored] = self.score(split, [0])
        finally:
            self.pack.discard(slot)
        return scored

    def resampler(self, split: Split, config: Config) -> Resampler:
        """What scores predictions for a split on rows that are drawn again."""
        metric = config.objective.metric_name
        is_known = metric in METRICS[config.task.name]
        return Resampler(self.task, metric, split.rows, config.search.seed, is_known)

    def score_base(self, split: Split) -> Scored:
        """Scores the base without any adapter."""
        [predictions] = self.task.predict(self.pack, [0], split.prompts, with_adapters=False)
        return self._scored(split, predictions)

    def score_majority(self, split: Split) -> Scores:
        """Scores what most training rows have, as the answer to every row."""
        return self.task.score(split.rows, [self.most_common] * len(split.rows))

    def try_own(self) -> None:
        """Tries the study's own code on three predictions of the base, and on what the study will end with.

        Raises:
            CustomCodeError: if it raises, or returns something else than numbers.
        """
        few = self.validation.first(TRIED_ROWS)
        self.score_base(few)
        self.score_majority(few)

    def keep(self, file: Path, split: Split, predictions: Sequence[Prediction]) -> None:
        """Writes predictions for the rows of a split, without their text."""
        kept.write(
            file,
            [
                Kept(
                    row=place,
                    sha256=sha256,
                    tokens=len(prompt),
                    prediction=text,
                    confidence=confidence if confidence is not None and math.isfinite(confidence) else None,
                    **self.task.judged(row, text),
                )
                for (place, sha256), prompt, row, (text, confidence) in zip(
                    split.ids, split.prompts, split.rows, predictions, strict=True
                )
            ],
        )


def _validation(validation: list[Row], config: Config, paths: StudyPaths) -> Validation:
    """The rows that the search scores, and those that are held back for confirmation.

    A study from before there was confirmation goes on with the rows that it was begun with.
    """
    before = begun(paths.home, paths.name)
    if config.confirmation.top == 0 or (before is not None and not before.attributes.get(HELD_BACK)):
        return Validation(rows.stratified(validation, config.evaluation.rows, config.train.seed), [])
    return held_back.of(validation, config)


def _used(config: Config, context: str, chosen: Sequence[Row], hashes: Mapping[str, str]) -> DatasetUse:
    """Rows, by their hashes; where they lie on this machine is nobody else's business."""
    columns = config.data.columns.model_dump(exclude_none=True).values()
    source = Path(config.data.path).name if config.data.path and config.data.source == "files" else config.data.path
    return DatasetUse(
        name=source or config.data.source,
        context=context,
        sha256=hashlib.sha256("".join(hashes[row.place] for row in chosen).encode()).hexdigest(),
        rows=len(chosen),
        source_type=config.data.source,
        source=source or config.data.source,
        columns=tuple(map(str, columns)),
    )


def _targets(config: Config, linears: list[str]) -> list[str]:
    """Every linear that any trial may adapt; an unknown one is found now, not when a trial draws it."""
    chosen = {name for choice in target_choices(config) for name in resolve(choice, linears)}
    return [name for name in linears if name in chosen]


def _loaded(config: Config, section: ModelSection, home: Home, guard: Guard | None, spare_bytes: int) -> Any:
    """The base on its device.

    Args:
        spare_bytes: what a quantised copy of it must leave free on the store's disk.

    Raises:
        OutOfRoomError: if it does not fit there.
    """
    device = base.pick_device(config.engine.device)
    loaded = attempted(lambda: base.load_base(section, home, device, spare_bytes))
    if not isinstance(loaded, Failure):
        return loaded
    raise OutOfRoomError(
        f"the base must fit into memory, but {config.model.name} does not ({loaded.message})"
        + (f"; {guard.describe()}" if guard is not None else "")
        + "; take a smaller model, free the device, or raise memory.budget_gib"
    )


def _packed(
    config: Config,
    section: ModelSection,
    home: Home,
    guard: Guard | None,
    examples: Sequence[Example],
    passages: Sequence[Example],
    pad: int,
) -> tuple[Pack, list[str]]:
    """The base on its device, without trials, and its linears; what the engine cannot do with it is found."""
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    frame = base.skeleton(section, home)
    _targets(config, linear_names(frame))  # refuses unknown ones before any weights are loaded
    model = _loaded(config, section, home, guard, disk.spare_bytes(config, home, frame.config.to_dict()))
    linears = linear_names(model)  # a pack puts its own layers in their places
    pack = Pack(
        model,
        _targets(config, linears),
        examples,
        pad=pad,
        chunk_tokens=config.engine.chunk_tokens,
        optimizer_state=config.optimizer.state,
        planner=Planner(guard=guard, gradient_checkpointing=config.engine.gradient_checkpointing),
        replay=passages,
    )
    compatibility.verify(pack)
    return pack, linears


def set_up(config: Config, home: Home, guard: Guard | None = None) -> Workbench:
    """Loads data and base; everything that can be wrong with the data is found before the base is loaded.

    Args:
        guard: reads the memory; without it, only what runs out is noticed.

    Raises:
        DataError, PromptError, ModelError, CustomCodeError: what is wrong, and where.
    """
    paths = home.study(config.study.name)
    brought = own.load(config, paths.code)
    section = origin.pinned(config.model, origin.kept(paths))
    data = rows.of(config, paths.splits, brought)
    tokenizer = load_tokenizer(section, home)
    rendered = renderer(config, tokenizer, data.labels)
    fitted = long.fit(rendered, data, config.data.long)
    hashes = {row.place: row.sha256 for row in (*data.train, *data.validation, *data.test)}
    data_sha256, data = data.sha256, fitted.data
    examples = rendered.examples(data.train)
    if config.data.class_weight == "balanced":
        examples = balanced(examples, [row.label for row in data.train])
    parts = _validation(data.validation, config, paths)
    validation, held, test = (
        Split.of(rendered, chosen, hashes) for chosen in (parts.scored, parts.held_back, data.test)
    )
    uses = {
        "training": data.train,
        "validation": parts.scored,
        "confirmation": parts.held_back,
        "test": data.test,
    }
    retention = Watch(config.retention, tokenizer) if config.retention.is_on else None
    replay = Replay.of(config, tokenizer, examples) if has_replay(config) else None

    config.interval_examples(len(examples))  # refuses more evaluations than examples
    passages = replay.examples if replay is not None else ()
    pack, linears = _packed(config, section, home, guard, examples, passages, tokenizer.pad_token_id)
    return Workbench(
        base_name=source_of(section, home),
        base_revision=section.revision,
        pack=pack,
        task=task_of(config.task, rendered, brought.task, brought.metric, config.data.columns.label),
        validation=validation,
        confirmation=held if held.rows else None,
        test=test,
        most_common=data.most_common,
        linears=linears,
        data_sha256=data_sha256,
        own=brought,
        long_rows=fitted.counts,
        datasets=tuple(_used(config, context, chosen, hashes) for context, chosen in uses.items() if chosen),
        notes=[
            *fitted.notes(config.data.long, config.prompt.max_tokens),
            *(replay.notes(config) if replay is not None else ()),
        ],
        retention=retention,
        replay=replay,
    )
