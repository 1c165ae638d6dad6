"""How often the test split of a study was used. What is chosen by test scores is chosen by luck on those rows, too.

Two things use it, and are counted apart:

- *It is scored.* At its end a study scores the winner, the runner-up and the untuned base on it, once for each winner:
  the attribute `test` has how often (`looks`) and which trials that were (`scored`). To read its wrong rows, to time
  its requests or to hold an export to its trial scores nothing new, and is not counted.
- *Two of these are compared on it*, by `sweeper compare`: a person who looks at the outcome may choose by it. Each pair
  counts once, in a file of the study's folder; the same pair again says nothing that was not known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.errors import StoreError, number_of
from sweeper.paths import StudyPaths, write_atomically

WHY = (
    "Each choice that is made by test scores makes them optimistic: what is chosen by them is partly chosen for its "
    "luck on these rows."
)


@dataclass(frozen=True)
class Looks:
    """The uses of a study's test split so far.

    Attributes:
        scored: how often it was scored.
        trials: those that were, beside the untuned base.
        is_last_only: whether only those of the last time are known, in a study from before they were kept.
        pairs: that were compared on it; None where their file cannot be read.
    """

    scored: int
    trials: tuple[int, ...]
    is_last_only: bool
    pairs: tuple[tuple[str, str], ...] | None

    @property
    def is_once(self) -> bool:
        """Whether it was scored once, and nothing was compared on it, so that nothing can have been chosen by it."""
        return self.scored <= 1 and self.pairs == ()

    def sentence(self) -> str:
        """How often it was used and, unless that was once, why it matters."""
        words = f"The test split was {_times(self.scored)}"
        if self.scored:
            last = "the last time " if self.is_last_only else ""
            words += f" ({last}{_named(self.trials)})"
        if self.pairs is None:
            words += ", and how many pairs were compared on it cannot be read"
        elif self.pairs:
            words += f", and {number_of(len(self.pairs), 'pair was', 'pairs were')} compared on it"
        return f"{words}." + ("" if self.is_once else f" {WHY}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "scored": self.scored,
            "trials": list(self.trials),
            "pairs": None if self.pairs is None else [list(pair) for pair in self.pairs],
        }


def scored_so_far(test: dict[str, Any]) -> list[int]:
    """The trials that have been scored on the test split, by what a study keeps of it."""
    if "scored" in test:
        return list(test["scored"])
    found = [test["trial"]] if "trial" in test else []
    if runner_up := test.get("runner_up"):
        found.append(runner_up["trial"])
    return sorted(found)


def looks(attributes: dict[str, Any], paths: StudyPaths) -> Looks:
    """How often the test split of a study was used."""
    test = attributes.get("test", {})
    count = int(test.get("looks", 1)) if test else 0
    try:
        pairs: tuple[tuple[str, str], ...] | None = tuple(_read(paths))
    except StoreError:
        pairs = None
    return Looks(count, tuple(scored_so_far(test)), count > 1 and "scored" not in test, pairs)


def count_pair(paths: StudyPaths, one: str, other: str) -> bool:
    """Counts that two were compared on the test split; the order of the two does not matter.

    Returns:
        False where the pair has been counted before.

    Raises:
        StoreError: if the count cannot be read, or not be written.
    """
    pairs = _read(paths)
    first, second = sorted((one, other))
    if (first, second) in pairs:
        return False
    kept = {"pairs": [list(pair) for pair in (*pairs, (first, second))]}
    try:
        write_atomically(paths.test_comparisons, json.dumps(kept, indent=1))
    except OSError as error:
        raise StoreError(f"{paths.test_comparisons} cannot be written ({error.strerror})") from None
    return True


def _read(paths: StudyPaths) -> list[tuple[str, str]]:
    file = paths.test_comparisons
    try:
        return [(str(one), str(other)) for one, other in json.loads(file.read_text(encoding="utf-8"))["pairs"]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise StoreError(f"{file} must have the pairs that were compared, but cannot be read ({problem})") from None


def _times(count: int) -> str:
    return {0: "never scored", 1: "scored once"}.get(count, f"scored {count} times")


def _named(trials: Sequence[int]) -> str:
    numbers = ", ".join(map(str, trials))
    head = f"trial{'s' * (len(trials) > 1)} {numbers} and " if trials else ""
    return f"{head}the untuned base"
