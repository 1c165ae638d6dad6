"""A study's retention: its suite, the base's answers, and how adapters are held against them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.config.schema import RetentionSection
from sweeper.errors import StoreError
from sweeper.paths import write_atomically
from sweeper.retention import suite
from sweeper.retention.measure import CERTAIN, FULL, PREFIX, Answers, Yardstick, constraining
from sweeper.retention.scoring import Encoded, read_by, score
from sweeper.uncertainty import share_error

if TYPE_CHECKING:
    from sweeper.engine.pack import Pack


class Watch:
    """Scores adapters on the suite: on a small sample at evaluations, the best of them in full.

    Attributes:
        full: the whole suite.
        sample: the items that evaluations read, the same each time.
        base: the untuned base's answers to the whole suite, from when they are known.
    """

    def __init__(self, section: RetentionSection, tokenizer: Any) -> None:
        """Reads and tokenises the items; raises as `suite.load` and `Encoded.of` do."""
        self._section = section
        self.full = Encoded.of(suite.load(section), tokenizer, section.max_tokens)
        self._questions = _drawn(len(self.full.questions), section.sample)
        self._texts = _drawn(len(self.full.texts), section.sample)
        self.sample = self.full.take(self._questions, self._texts)
        self.base: Answers
        self.sampled: Yardstick  # for the sample
        self.whole: Yardstick  # for the whole suite

    def hold(self, base: Answers) -> None:
        """Takes the base's answers as what adapters are held against."""
        self.base = base
        kind = constraining(base, self.full.chance)
        limits = self._section.max_drop, self._section.max_rise
        self.whole = Yardstick.of(base, kind, *limits)
        self.sampled = Yardstick.of(base.take(self._questions, self._texts), kind, *limits)

    def score_base(self, pack: Pack) -> Answers:
        """The untuned base's answers to the whole suite."""
        [answers] = score(pack, [0], self.full, with_adapters=False)
        return answers

    def score(self, pack: Pack, slots: Sequence[int]) -> list[dict[str, float]]:
        """What an evaluation records of each of `slots`: the sample's accuracy, perplexity and drop."""
        return [self.sampled.values(answers) for answers in score(pack, slots, self.sample)]

    def rehearse(self, pack: Pack, slots: Sequence[int]) -> None:
        """Reads the longest of what evaluations read, for what that takes: as many for each slot as fill a forward."""
        longest_last = sorted(self.sample.reads, key=lambda read: len(read.tokens))
        read_by(pack, slots, longest_last[-max(1, pack.chunk_tokens // self.sample.longest) :])

    def score_full(self, pack: Pack, slots: Sequence[int]) -> list[dict[str, float]]:
        """The same of the whole suite, under names of its own."""
        found = [self.whole.values(answers) for answers in score(pack, slots, self.full)]
        return [{FULL + name.removeprefix(PREFIX): value for name, value in values.items()} for values in found]

    def describe(self) -> dict[str, Any]:
        """What the study remembers of the base's abilities, and of what an adapter may lose of them."""
        chance, accuracy = self.full.chance, self.base.accuracy
        found: dict[str, Any] = {
            "constrains": self.whole.kind,
            **self.base.values(),
            "questions": len(self.full.questions),
            "passages": len(self.full.texts),
            "left_out": self.full.left_out,
            "cut": self.full.cut,
            "noise_floor": self.whole.floor,
            "tolerance": self.whole.tolerance,
            "sample": {
                "questions": len(self._questions),
                "passages": len(self._texts),
                **self.sampled.base.values(),
                "noise_floor": self.sampled.floor,
                "tolerance": self.sampled.tolerance,
            },
            "sha256": self.full.sha256,
        }
        if accuracy is not None and chance is not None:
            found |= {"accuracy_se": share_error(accuracy, len(self.base.correct)), "chance": chance}
        return found

    def keep(self, file: Path) -> None:
        """Writes the base's answers item by item, without text."""
        base = self.base
        rows: list[dict[str, Any]] = [
            {"id": question.id, "correct": int(correct)}
            for question, correct in zip(self.full.questions, base.correct, strict=True)
        ]
        rows += [
            {"id": text.id, "nll": nll, "tokens": int(tokens)}
            for text, nll, tokens in zip(self.full.texts, base.nll.tolist(), base.tokens, strict=True)
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, "".join(f"{json.dumps(row)}\n" for row in rows))

    def kept(self, file: Path) -> Answers:
        """Reads the base's answers.

        Raises:
            StoreError: if they are not what was written, or of other items.
        """
        questions, texts = self.full.questions, self.full.texts
        ids = [question.id for question in questions] + [text.id for text in texts]
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
            if [row["id"] for row in rows] != ids:
                raise ValueError("other items")
            first, rest = rows[: len(questions)], rows[len(questions) :]
            return Answers.of(
                [row["correct"] for row in first], [row["nll"] for row in rest], [row["tokens"] for row in rest]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise StoreError(
                f"{file} must have the base's answers to the {len(ids)} items of the retention "
                f"suite, but cannot be read ({problem}); delete it, and the base is scored again"
            ) from None


def in_words(retention: dict[str, Any]) -> str:
    """What `Watch.describe` found, in a sentence."""
    words = []
    if "accuracy" in retention:
        words.append(
            f"accuracy {retention['accuracy']:.3f} ± {retention['accuracy_se']:.3f} in {retention['questions']} "
            f"questions (chance {retention['chance']:.3f})"
        )
    if "perplexity" in retention:
        words.append(f"perplexity {retention['perplexity']:.4g} over {retention['passages']} passages")
    sampled = retention["sample"]
    if retention["constrains"] == "accuracy":
        rule = f"an adapter may lose {sampled['tolerance']:.3f} of the accuracy at an evaluation"
        rule += f" and {retention['tolerance']:.3f} in full"
    elif retention["constrains"] == "perplexity":
        rises = [1 / (1 - each["tolerance"]) - 1 for each in (sampled, retention)]
        why = f"no more than {CERTAIN:g} standard errors above chance, so " if "accuracy" in retention else ""
        rule = (
            f"{why}perplexity constrains: it may rise by {rises[0]:.0%} at an evaluation and by {rises[1]:.0%} in full"
        )
    else:
        rule = f"no more than {CERTAIN:g} standard errors above chance, and no passages: nothing is held against it"
    return f"{', '.join(words)}; {rule}"


def _drawn(count: int, most: int) -> list[int]:
    """The places of a fixed sample."""
    if count <= most:
        return list(range(count))
    return sorted(int(place) for place in np.random.default_rng(0).permutation(count)[:most])
