"""Classification: greedy decoding over the trie of the labels' tokens, then accuracy and macro-F1.

A prediction is always one of the labels. It is what `generate` gives with
`prefix_allowed_tokens_fn` over the same trie, but the model runs only where the trie branches: a
label whose first token is its own costs one forward, without a cache.

Rows whose label's remainder is forced are finished; the others are read again with the tokens chosen
so far, which for prompts of a ticket's length is cheaper than keeping a cache for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.data.row import Row
from sweeper.engine.batches import Item
from sweeper.engine.pack import Pack
from sweeper.tasks.draws import macro_f1_error
from sweeper.trial import Prediction
from sweeper.uncertainty import share_error


class LabelTrie:
    """The labels as paths of tokens, each ended by the end-of-turn token."""

    def __init__(self, answers: Mapping[str, Sequence[int]]) -> None:
        self._labels = {tuple(tokens): label for label, tokens in answers.items()}
        self._children: dict[tuple[int, ...], list[int]] = {}
        for tokens in self._labels:
            for depth, token in enumerate(tokens):
                children = self._children.setdefault(tokens[:depth], [])
                if token not in children:
                    children.append(token)

    @property
    def labels(self) -> list[str]:
        return list(self._labels.values())

    def children(self, path: tuple[int, ...]) -> list[int]:
        """The tokens that may follow `path`."""
        return self._children[path]

    def follow(self, path: tuple[int, ...]) -> tuple[int, ...]:
        """Extends `path` while there is only one way to go on."""
        while path not in self._labels and len(self._children[path]) == 1:
            path = (*path, self._children[path][0])
        return path

    def label(self, path: tuple[int, ...]) -> str | None:
        """The label that `path` spells, or None while it is not at an end."""
        return self._labels.get(path)

    @property
    def branches(self) -> list[tuple[int, ...]]:
        """The paths behind which more than one token may follow, parents before their children."""
        return [path for path, children in self._children.items() if len(children) > 1]

    def likelihoods(self, by_branch: Mapping[tuple[int, ...], Sequence[float]]) -> dict[str, float]:
        """The log-probability of each label: those of its tokens at the branches that it passes, added.

        Args:
            by_branch: of each of `branches`, the log-probabilities of its `children`, in their order.
        """
        chances = {path: dict(zip(self._children[path], found, strict=True)) for path, found in by_branch.items()}
        return {
            label: sum(
                chances[tokens[:depth]][token] for depth, token in enumerate(tokens) if tokens[:depth] in chances
            )
            for tokens, label in self._labels.items()
        }


def predict(
    pack: Pack, slots: Sequence[int], prompts: Sequence[tuple[int, ...]], trie: LabelTrie, with_adapters: bool = True
) -> list[list[Prediction]]:
    """Labels every prompt once for each slot; all slots share each forward.

    Returns:
        For each of `slots`, a label for each prompt, and its probability: at each branch of the trie that of the token
        that was chosen among those that may follow, multiplied.
    """
    paths = {(slot, row): trie.follow(()) for slot in slots for row in range(len(prompts))}
    likelihoods = dict.fromkeys(paths, 0.0)
    pending = [key for key, path in paths.items() if trie.label(path) is None]
    while pending:
        items = [Item(slot, prompts[row] + paths[slot, row]) for slot, row in pending]
        choices = pack.choose_next(items, [trie.children(paths[key]) for key in pending], with_adapters)
        for key, choice in zip(pending, choices, strict=True):
            paths[key] = trie.follow((*paths[key], choice.token))
            likelihoods[key] += choice.log_probability
        pending = [key for key in pending if trie.label(paths[key]) is None]
    found = {key: Prediction(str(trie.label(path)), math.exp(likelihoods[key])) for key, path in paths.items()}
    return [[found[slot, row] for row in range(len(prompts))] for slot in slots]


def weigh(
    pack: Pack, slot: int, prompts: Sequence[tuple[int, ...]], trie: LabelTrie, with_adapters: bool = True
) -> list[tuple[Prediction, dict[str, float]]]:
    """As `predict` of one slot, and the probability of every label beside it; these add up to 1.

    The model runs at every branch of the trie for every prompt. The prediction is the greedy one all the same, which
    is what was scored: where labels begin alike, another label may be likelier.
    """
    branches = trie.branches
    items = [Item(slot, prompt + path) for prompt in prompts for path in branches]
    weighed = pack.weigh_next(items, [trie.children(path) for _ in prompts for path in branches], with_adapters)
    found = []
    for row in range(len(prompts)):
        own = dict(zip(branches, weighed[row * len(branches) : (row + 1) * len(branches)], strict=True))
        path = trie.follow(())
        while (label := trie.label(path)) is None:
            path = trie.follow((*path, own[path].token))
        likelihoods = trie.likelihoods({branch: weights.log_probabilities for branch, weights in own.items()})
        by_label = {name: math.exp(likelihood) for name, likelihood in likelihoods.items()}
        found.append((Prediction(label, by_label[label]), by_label))
    return found


@dataclass(frozen=True)
class Scores:
    """How predictions compare with the truth; both metrics between 0 and 1, higher is better.

    Each comes with its standard error, of the rows being a sample: for the accuracy `share_error`; for macro-F1 a
    bootstrap within the true labels, which is zero where all rows are right.
    """

    accuracy: float
    macro_f1: float
    accuracy_se: float
    macro_f1_se: float

    @classmethod
    def of(cls, truth: Sequence[str], predictions: Sequence[str]) -> Scores:
        from sklearn.metrics import accuracy_score, f1_score

        # Over the labels that occur in the truth: the set is then the same for every trial.
        labels = sorted(set(truth))
        f1 = f1_score(truth, predictions, labels=labels, average="macro", zero_division=0.0)
        accuracy = float(accuracy_score(truth, predictions))
        return cls(
            accuracy=accuracy,
            macro_f1=float(f1),
            accuracy_se=share_error(accuracy, len(truth)),
            macro_f1_se=macro_f1_error(labels, truth, predictions),
        )

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class Classification:
    """Chooses among labels, given as the tokens of each."""

    room_tokens: int | None = None  # scoring reads a part of a label behind a prompt

    def __init__(self, answers: Mapping[str, Sequence[int]]) -> None:
        self.trie = LabelTrie(answers)

    @property
    def labels(self) -> list[str]:
        return self.trie.labels

    def predict(
        self, pack: Pack, slots: Sequence[int], prompts: Sequence[tuple[int, ...]], with_adapters: bool = True
    ) -> list[list[Prediction]]:
        """For each of `slots`, a label for each prompt."""
        return predict(pack, slots, prompts, self.trie, with_adapters)

    def weigh(
        self, pack: Pack, slot: int, prompts: Sequence[tuple[int, ...]], with_adapters: bool = True
    ) -> list[tuple[Prediction, dict[str, float]]]:
        """A label for each prompt, with the probability of every label."""
        return weigh(pack, slot, prompts, self.trie, with_adapters)

    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Scores:
        return Scores.of([row.label for row in rows], predictions)

    def judged(self, row: Row, prediction: str) -> dict[str, Any]:
        return {"truth": row.label, "is_correct": row.label == prediction}
