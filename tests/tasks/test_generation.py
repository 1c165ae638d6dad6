from __future__ import annotations

import math
import re
import string
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweeper.tasks.generation import Generation, GenerationScores, normalised, token_f1
from tests.conftest import random_examples, small_model
from tests.engine.oracle import TRIALS, admit, new_pack


# As in SQuAD's evaluation scripts, v1.1 and v2.0, whose normalisations are the same.
def squads_normalisation(text: str) -> str:
    without = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", without).split())


def squads_f1(reference: str, prediction: str, version: str) -> float:
    wanted, given = squads_normalisation(reference).split(), squads_normalisation(prediction).split()
    if version == "v2.0" and (not wanted or not given):
        return float(wanted == given)
    same = sum((Counter(given) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(given), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


WORDS = st.lists(st.sampled_from(["a", "An", "the", "cat", "Cat's", "x_1", "naïve", "—", "...", "42"]), max_size=7)
TEXTS = st.one_of(WORDS.map(" ".join), st.text(max_size=20))


@settings(deadline=None, max_examples=400)
@given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS)
@example([""], "")
@example(["the"], "An a")
@example(["the"], "cat")
@example(["__init__()"], "init")
@example(["Größe  İ"], "größe İ")
def test_scores_are_those_of_squads_script(references: list[str], prediction: str) -> None:
    scores = GenerationScores.of([tuple(references)], [prediction])
    exact = any(squads_normalisation(one) == squads_normalisation(prediction) for one in references)
    assert scores.exact_match == float(exact)
    assert scores.token_f1 == pytest.approx(max(squads_f1(one, prediction, "v2.0") for one in references))
    if squads_normalisation(prediction):  # v1.1 has 0 where nothing is left of both, though they match exactly
        assert scores.token_f1 == pytest.approx(max(squads_f1(one, prediction, "v1.1") for one in references))
    assert scores.token_f1 >= scores.exact_match


def test_texts_are_compared_as_squads_are() -> None:
    assert normalised("The  Cat's,  an old-cat!") == "cats oldcat"
    assert token_f1("the cat sat", "a cat sat down") == pytest.approx(2 * 2 / (2 + 3))
    assert token_f1("cat cat", "cat") == pytest.approx(2 / 3)
    assert (token_f1("the", "a"), token_f1("the", "cat"), token_f1("cat", "dog")) == (1.0, 0.0, 0.0)


def test_the_reference_that_fits_best_counts() -> None:
    truth = [("on its way", "sent"), ("lost",), ("yes",)]
    scores = GenerationScores.of(truth, ["Sent.", "it is lost", "no"])
    assert scores.exact_match == pytest.approx(1 / 3)
    assert scores.token_f1 == pytest.approx((1 + 2 / 4 + 0) / 3)
    assert set(scores.as_dict()) == {"exact_match", "token_f1", "exact_match_se", "token_f1_se"}


def test_the_error_of_exact_match_is_that_of_an_accuracy() -> None:
    truth, texts = [("a b",)] * 50, ["a b"] * 40 + ["x"] * 10
    scores = GenerationScores.of(truth, texts)
    share = 42 / 54
    assert scores.exact_match_se == pytest.approx(math.sqrt(share * (1 - share) / 54))
    assert 0 < GenerationScores.of(truth, ["a b"] * 50).token_f1_se < 0.04


def test_answers_are_written_packed_and_end_at_the_turns_end() -> None:
    model = small_model()
    for parameter in model.parameters():  # or every row would write the same
        parameter.data.mul_(6.0) if parameter.dim() > 1 else None
    pack = new_pack(model, random_examples(20))
    for number, params in enumerate(TRIALS[:2]):
        admit(pack, number, params)
    for _ in range(4):
        pack.tick()
    prompts = [example.prompt for example in random_examples(9, seed=3)]
    [first] = Generation(lambda tokens: str(tokens[0]), 1, end=-1).predict(pack, [0], prompts)
    end = int(first[0].text)  # what the first slot writes first behind the first prompt
    task = Generation(lambda tokens: " ".join(map(str, tokens)), 8, end)
    packed = task.predict(pack, [0, 1], prompts)
    together = [[text for text, _ in texts] for texts in packed]
    for slot in (0, 1):
        [alone] = task.predict(pack, [slot], prompts)
        assert together[slot] == [text for text, _ in alone]
        assert [one.confidence for one in packed[slot]] == pytest.approx([one.confidence for one in alone])
        assert all(0 < (one.confidence or 0) < 1 for one in alone)
    assert together[0][0] == ""
    assert together[0] != together[1]
    assert all(len(text.split()) <= 8 and str(end) not in text.split() for texts in together for text in texts)
    assert (task.labels, task.room_tokens) == ([], 8)
