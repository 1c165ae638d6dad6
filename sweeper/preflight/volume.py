"""What a study reads, counted before it is launched: its rows and items, and their lengths in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.schema import Config, ModelSection
from sweeper.config.teaching import WrittenSection
from sweeper.custom import own
from sweeper.data import held_back
from sweeper.data import rows as data_rows
from sweeper.data.files import NOT_LOADED
from sweeper.data.held_back import Validation
from sweeper.errors import DataError
from sweeper.models import hub, origin
from sweeper.paths import Home
from sweeper.preflight.architecture import model_folder
from sweeper.preflight.forecast import Lengths
from sweeper.retention import replay, suite
from sweeper.search.views import HELD_BACK, StudyView, begun


@dataclass(frozen=True)
class Volume:
    """What is trained on and scored.

    Attributes:
        train_tokens: of a training row, in the mean.
        passage_tokens: of a passage of replay, likewise.
        scored_rows: validation rows that each evaluation scores.
        confirmation_rows: those that are held back for confirmation.
        prompt_tokens: of a row that is scored, in the mean.
        written_tokens: that are written behind it, one after the other; 0 where labels are scored.
        sample_items: of the retention suite, that each evaluation scores.
        suite_items: of it in all.
        item_tokens: of one with all its choices, in the mean.
    """

    train_rows: int
    train_tokens: float
    passage_tokens: float
    scored_rows: int
    confirmation_rows: int
    test_rows: int
    prompt_tokens: float
    written_tokens: float
    sample_items: int
    suite_items: int
    item_tokens: float


@dataclass(frozen=True)
class Reading:
    """What is known of what a study reads.

    Attributes:
        are_measured: whether lengths are those of its rows, and not the most that there can be.
        volume: None where the rows are not on this machine.
    """

    lengths: Lengths
    are_measured: bool
    volume: Volume | None


def read(config: Config, home: Home) -> Reading:
    """Counts what a study reads; in tokens where data and tokenizer are on this machine (a folder, or the Hub's cache).

    Elsewhere the limits stand for what is not known.

    Raises:
        DataError, PromptError: what a launch would say of the rows or items.
    """
    before = begun(home, config.study.name)
    try:
        kept = home.study(config.study.name).splits if before else None
        data = data_rows.of(config, kept, own.load(config))
    except DataError as error:
        if any(part.code != NOT_LOADED for part in error.parts or (error,)):
            raise
        return Reading(_limits(config, None), False, None)  # not cached
    section = _with_tokenizer(config, home)
    if section is None:
        limits = _limits(config, data)
        return Reading(limits, False, _by_limits(config, data, limits, before))
    return _measured(config.model_copy(update={"model": section}), home, data, before)


def _with_tokenizer(config: Config, home: Home) -> ModelSection | None:
    """The model as it can be read from this machine alone; None where its tokenizer is not here."""
    folder, section = model_folder(config, home), config.model
    if origin.find(section).kind == "hub" and (folder := hub.cached_folder(section)) is not None:
        section = section.model_copy(update={"path": str(folder), "revision": None})  # the Hub is not asked
    return section if folder and any((folder / name).is_file() for name in origin.TOKENIZERS) else None


def _limits(config: Config, data: data_rows.TaskData | None) -> Lengths:
    """The most that rows can have."""
    longest_answer = len(data.longest_answer.encode()) if data is not None else 16
    # No tokenizer has more tokens than bytes; one more ends the answer.
    most = config.prompt.max_tokens
    retention = config.retention.max_tokens * config.retention.is_on
    answer = most - 1 if replay.has_replay(config) else min(most // 2, longest_answer + 2)
    return Lengths(longest=most, shortest=max(8, most // 8), answer=answer, retention=retention)


def _by_limits(config: Config, data: data_rows.TaskData, limits: Lengths, before: StudyView | None) -> Volume:
    validation = _validation(config, data, before)
    found = suite.load(config.retention)
    choices = sum(len(choice.choices) for choice in found.choices) + len(found.passages)
    items = len(found.choices) + len(found.passages)
    return Volume(
        train_rows=len(data.train),
        train_tokens=limits.longest,
        passage_tokens=config.prompt.max_tokens,
        scored_rows=len(validation.scored),
        confirmation_rows=len(validation.held_back),
        test_rows=len(data.test),
        prompt_tokens=limits.longest,
        written_tokens=config.task.max_new_tokens if isinstance(config.task, WrittenSection) else 0,
        sample_items=_sampled(config, len(found.choices), len(found.passages)),
        suite_items=items,
        item_tokens=config.retention.max_tokens * choices / items if items else 0,
    )


def _measured(config: Config, home: Home, data: data_rows.TaskData, before: StudyView | None) -> Reading:
    from sweeper.data import long  # these load the model's libraries, which the limits do without
    from sweeper.data.prompt import renderer
    from sweeper.models.source import load_tokenizer
    from sweeper.retention.watch import Watch

    tokenizer = load_tokenizer(config.model, home)
    rendered = renderer(config, tokenizer, data.labels)
    data = long.fit(rendered, data, config.data.long).data
    examples = rendered.examples(data.train)
    validation = _validation(config, data, before)
    scored, held, test = (rendered.prompts(rows) for rows in (validation.scored, validation.held_back, data.test))
    prompts = [*scored, *held, *test]
    room = config.task.max_new_tokens if isinstance(config.task, WrittenSection) else None
    items = Watch(config.retention, tokenizer) if config.retention.is_on else None
    passages = replay.Replay.of(config, tokenizer, examples).examples if replay.has_replay(config) else ()
    reads = items.full.reads if items is not None else []
    count = len(items.full.questions) + len(items.full.texts) if items is not None else 0
    volume = Volume(
        train_rows=len(examples),
        train_tokens=_mean(examples),
        passage_tokens=_mean(passages),
        scored_rows=len(scored),
        confirmation_rows=len(held),
        test_rows=len(test),
        prompt_tokens=_mean(prompts),
        # As long as the answers are that it learns; `task.max_new_tokens` is the most.
        written_tokens=min(room, _mean([example.answer for example in examples])) if room is not None else 0,
        sample_items=len(items.sample.questions) + len(items.sample.texts) if items is not None else 0,
        suite_items=count,
        item_tokens=sum(len(one.tokens) for one in reads) / count if count else 0,
    )
    longest = items.full.longest if items is not None else 0
    return Reading(Lengths.of(examples, prompts, room, longest, passages), True, volume)


def _validation(config: Config, data: data_rows.TaskData, before: StudyView | None) -> Validation:
    """The validation rows as a worker parts them."""
    if config.confirmation.top == 0 or (before is not None and not before.attributes.get(HELD_BACK)):
        rows = data_rows.stratified(data.validation, config.evaluation.rows, config.train.seed)
        return Validation(rows, [])
    return held_back.of(data.validation, config)


def _sampled(config: Config, *kinds: int) -> int:
    return sum(min(count, config.retention.sample) for count in kinds)


def _mean(rows: Sequence[Any]) -> float:
    return sum(map(len, rows)) / len(rows) if rows else 0.0
