from __future__ import annotations

import math

import pytest

from sweeper.tasks.generation import Generation, GenerationScores, normalised, token_f1
from tests.conftest import random_examples, small_model
from tests.engine.oracle import TRIALS, admit, new_pack


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
