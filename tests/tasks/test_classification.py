from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from sweeper.engine.pack import Pack
from sweeper.models.targets import linear_names
from sweeper.tasks.classification import LabelTrie, Scores, predict, weigh
from sweeper.trial import Prediction, Rhythm
from tests.conftest import random_examples, small_model, trial_params

END = 1
ANSWERS = {
    "card": (10, END),
    "card payment": (10, 11, END),
    "card payment fee": (10, 11, 12, END),
    "cash": (13, 14, END),
    "cheque": (13, 15, END),
    "refund": (16, 17, 18, END),
}


def texts(predictions: list[list[Prediction]]) -> list[list[str]]:
    return [[text for text, _ in of_slot] for of_slot in predictions]


def test_forced_tokens_are_skipped() -> None:
    trie = LabelTrie(ANSWERS)
    assert sorted(trie.children(())) == [10, 13, 16]
    assert trie.label(trie.follow((16,))) == "refund"
    assert trie.label(trie.follow((10,))) is None
    assert sorted(trie.children((10,))) == [END, 11]


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.none(), min_size=1, max_size=8))
def test_every_label_is_reached_by_its_own_tokens(labels: dict[str, None]) -> None:
    answers = {label: (*(ord(letter) for letter in label), END) for label in labels}
    trie = LabelTrie(answers)
    for label, tokens in answers.items():
        path = trie.follow(())
        while trie.label(path) is None:
            path = trie.follow((*path, tokens[len(path)]))
        assert trie.label(path) == label


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1, max_size=30))
def test_scores_are_those_of_scikit_learn_and_of_the_definition(rows: list[tuple[str, str]]) -> None:
    truth, predictions = [one for one, _ in rows], [one for _, one in rows]
    scores = Scores.of(truth, predictions)
    labels = sorted(set(truth))
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predictions))
    assert scores.accuracy == pytest.approx(sum(one == other for one, other in rows) / len(rows))
    assert scores.macro_f1 == pytest.approx(
        f1_score(truth, predictions, labels=labels, average="macro", zero_division=0.0)
    )
    by_label = []
    for label in labels:
        hits = sum(one == other == label for one, other in rows)
        by_label.append(2 * hits / (truth.count(label) + predictions.count(label)))
    assert scores.macro_f1 == pytest.approx(sum(by_label) / len(labels))


def test_predictions_equal_constrained_generation() -> None:
    """The oracle is transformers' own greedy decoding under the same constraint, one prompt at a time."""
    model = small_model(torch.float32)
    model.generation_config.pad_token_id = 0
    prompts = [example.prompt for example in random_examples(40)]
    trie = LabelTrie(ANSWERS)
    by_tokens = {tokens: label for label, tokens in ANSWERS.items()}

    def allowed_behind(start: int) -> Callable[[int, torch.Tensor], list[int]]:
        return lambda _, ids: trie.children(tuple(ids[start:].tolist()))

    expected = []
    for prompt in prompts:
        generated = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=END,
            prefix_allowed_tokens_fn=allowed_behind(len(prompt)),
        )
        expected.append(by_tokens[tuple(generated[0, len(prompt) :].tolist())])
    pack = Pack(model, linear_names(model), [], pad=0, chunk_tokens=200)
    [labels] = predict(pack, [0], prompts, trie, with_adapters=False)
    assert [text for text, _ in labels] == expected
    assert len(set(expected)) > 2  # or it would be a weak comparison


def test_packed_predictions_equal_those_of_each_adapter_alone() -> None:
    model = small_model(torch.float32)
    prompts = [example.prompt for example in random_examples(40)]
    trie = LabelTrie(ANSWERS)
    pack = Pack(model, linear_names(model), [], pad=0, chunk_tokens=300)
    states, alone = [], []
    rhythm = Rhythm(interval_examples=1, evaluations=1, batch_size=1)
    for number, rank in enumerate((4, 16, 32)):
        slot, state = pack.new_slot(number, trial_params(rank=rank), rhythm, seed=0)
        generator = torch.Generator().manual_seed(number)
        for tensor in state.tensors["weight"].values():
            tensor.normal_(std=0.3, generator=generator)
        states.append((slot, state))
        pack.admit(slot, state)
        alone += predict(pack, [0], prompts, trie)
        pack.remove(slot)
    for slot, state in states:
        pack.admit(slot, state)
    together = predict(pack, [0, 1, 2], prompts, trie)
    assert texts(together) == texts(alone)
    assert texts(predict(pack, [2], prompts, trie)) == texts(alone[2:])
    assert texts(alone)[0] != texts(alone)[1]
    for packed, own in zip(together, alone, strict=True):
        assert [one.confidence for one in packed] == pytest.approx([one.confidence for one in own], rel=1e-4)


def test_the_confidence_is_the_product_over_the_branches() -> None:
    model = small_model(torch.float64)
    prompt = (5, 6, 7)

    def shares(path: tuple[int, ...], tokens: tuple[int, ...]) -> dict[int, float]:
        logits = model(input_ids=torch.tensor([[*prompt, *path]])).logits[0, -1, list(tokens)]
        return dict(zip(tokens, logits.softmax(0).tolist(), strict=True))

    first = shares((), (10, 13, 16))
    card, cash = shares((10,), (END, 11)), shares((13,), (14, 15))
    fee = shares((10, 11), (END, 12))
    expected = {
        "card": first[10] * card[END],
        "card payment": first[10] * card[11] * fee[END],
        "card payment fee": first[10] * card[11] * fee[12],
        "cash": first[13] * cash[14],
        "cheque": first[13] * cash[15],
        "refund": first[16],  # what follows is forced
    }
    assert sum(expected.values()) == pytest.approx(1.0)
    pack = Pack(model, linear_names(model), [], pad=0, chunk_tokens=200)
    # Beside another prompt, whose node has another number of branches.
    [[found, *_]] = predict(pack, [0], [prompt, (8, 9, 10, 11)], LabelTrie(ANSWERS), with_adapters=False)
    assert found.confidence == pytest.approx(expected[found.text])
    [(again, by_label), *_] = weigh(pack, 0, [prompt, (8, 9, 10, 11)], LabelTrie(ANSWERS), with_adapters=False)
    assert by_label == pytest.approx(expected)
    assert list(by_label) == list(ANSWERS)
    assert (again.text, again.confidence) == (found.text, by_label[found.text])


def test_every_label_is_weighed_beside_the_greedy_one() -> None:
    """Through adapters, over many prompts in several parts; the labels are those that are predicted."""
    prompts, trie = [example.prompt for example in random_examples(40)], LabelTrie(ANSWERS)
    assert sorted(trie.branches) == [(), (10,), (10, 11), (13,)]
    model = small_model(torch.float32)
    pack = Pack(model, linear_names(model), [], pad=0, chunk_tokens=100)
    slot, state = pack.new_slot(0, trial_params(rank=4), Rhythm(interval_examples=1, evaluations=1, batch_size=1), 0)
    for tensor in state.tensors["weight"].values():
        tensor.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    pack.admit(slot, state)
    [labels], found = predict(pack, [0], prompts, trie), weigh(pack, 0, prompts, trie)
    assert [prediction.text for prediction, _ in found] == [label.text for label in labels]
    assert [one.confidence for one, _ in found] == pytest.approx([one.confidence for one in labels], rel=1e-4)
    assert all(sum(by_label.values()) == pytest.approx(1, abs=1e-12) for _, by_label in found)
    likeliest = [max(by_label, key=lambda label: by_label[label]) for _, by_label in found]
    assert likeliest != [prediction.text for prediction, _ in found]  # where labels begin alike, greedy is not that
    assert weigh(pack, 0, prompts[:1], LabelTrie({"alone": (5, END)})) == [(Prediction("alone", 1.0), {"alone": 1.0})]


def test_scores() -> None:
    scores = Scores.of(["a", "a", "b", "c"], ["a", "b", "b", "b"])
    assert scores.accuracy == 0.5
    # f1: a 2/3, b 1/2, c 0
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_standard_errors_are_those_of_drawing_the_rows_again() -> None:
    """Against the plain way: rows drawn again within each true label, each draw scored by scikit-learn."""
    generator = np.random.default_rng(1)
    labels = ["a", "b", "c", "d"]
    truth = [label for label, count in zip(labels, (60, 30, 20, 5), strict=True) for _ in range(count)]
    guesses = [label if generator.random() < 0.7 else str(generator.choice([*labels, "e"])) for label in truth]
    scores = Scores.of(truth, guesses)
    assert scores.accuracy_se == pytest.approx(
        math.sqrt(scores.accuracy * (1 - scores.accuracy) / len(truth)), rel=0.05
    )
    places = {label: [index for index, known in enumerate(truth) if known == label] for label in labels}
    draws = []
    for _ in range(600):
        drawn = [int(i) for label in labels for i in generator.choice(places[label], len(places[label]))]
        again = [truth[i] for i in drawn], [guesses[i] for i in drawn]
        draws.append(f1_score(*again, labels=labels, average="macro", zero_division=0.0))
    assert scores.macro_f1_se == pytest.approx(np.std(draws), rel=0.1)
    assert 0 < Scores.of(truth, truth).accuracy_se < 0.02  # all right in a sample is not all right
    assert Scores.of(truth, truth).macro_f1_se == 0.0
    assert Scores.of(truth, guesses) == scores  # the same draws each time
