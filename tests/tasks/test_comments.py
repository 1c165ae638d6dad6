"""BLEU, chrF and ROUGE-L, compared with those who define them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from sweeper.tasks.comments import CommentScores, rouge_l

ROUGE = RougeScorer(["rougeL"], use_stemmer=False)
# Few words, so that texts have some in common, beside whatever else there is.
WORDS = st.lists(st.sampled_from(["return", "the", "mean", "of", "Values", "x_1", "naïve", "—", "."]), max_size=12)
TEXTS = st.one_of(WORDS.map(" ".join), st.text(max_size=30))
ROWS = st.lists(st.tuples(st.lists(TEXTS, min_size=1, max_size=3), TEXTS), min_size=1, max_size=8)


@settings(deadline=None, max_examples=200)
@given(ROWS)
def test_scores_are_those_of_sacrebleu_and_rouge_score(rows: list[tuple[list[str], str]]) -> None:
    truth, texts = [tuple(references) for references, _ in rows], [text for _, text in rows]
    scores = CommentScores.of(truth, texts)
    most = max(map(len, truth))
    streams: Any = [[row[n] if n < len(row) else None for row in truth] for n in range(most)]
    assert scores.bleu == pytest.approx(BLEU(force=True).corpus_score(texts, streams).score / 100, abs=1e-12)
    assert scores.chrf == pytest.approx(CHRF().corpus_score(texts, streams).score / 100, abs=1e-12)
    best = [ROUGE.score_multi(list(row), text)["rougeL"].fmeasure for row, text in zip(truth, texts, strict=True)]
    assert scores.rouge_l == pytest.approx(float(np.mean(best)), abs=1e-12)
    assert all(np.isfinite(value) and 0 <= value <= 1 + 1e-9 for value in scores.as_dict().values())


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS)
def test_rouge_l_is_that_of_rouge_score(reference: str, prediction: str) -> None:
    assert rouge_l(reference, prediction) == pytest.approx(ROUGE.score(reference, prediction)["rougeL"].fmeasure)


def test_by_hand() -> None:
    # Words in common in their order: return, mean, values.
    assert rouge_l("Return the mean of all values.", "return mean values") == pytest.approx(2 * 3 / (6 + 3))
    assert (rouge_l("", ""), rouge_l("x", ""), rouge_l("日本", "日本")) == (0.0, 0.0, 0.0)
    short = CommentScores.of([("Sort.",)], ["Sort."])  # no run of four words anywhere
    assert (short.bleu, short.chrf, short.rouge_l) == (0.0, pytest.approx(1.0), 1.0)


def test_the_bootstrap_is_the_one_over_texts() -> None:
    """Drawing the rows' counts gives the error that drawing the texts again would."""
    draw = np.random.default_rng(1)
    words = np.array(["return", "close", "read", "the", "a", "file", "line", "mean", "of", "values"])
    truth = [(" ".join(draw.choice(words, 8)),) for _ in range(60)]
    texts = [" ".join(np.where(draw.random(8) < 0.6, row[0].split(), draw.choice(words, 8))) for row in truth]
    scores = CommentScores.of(truth, texts)
    chosen = [draw.integers(0, 60, 60) for _ in range(150)]
    for metric, error in ((BLEU(force=True), scores.bleu_se), (CHRF(), scores.chrf_se)):
        again = [
            metric.corpus_score([texts[n] for n in rows], [[truth[n][0] for n in rows]]).score / 100 for rows in chosen
        ]
        assert error == pytest.approx(float(np.std(again)), rel=0.25)
    assert scores.bleu_se > 0.005
