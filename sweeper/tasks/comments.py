"""Comments: written answers that may be right in many words, scored by overlap: BLEU, chrF and ROUGE-L, from 0 to 1.

BLEU (Papineni et al., 2002) and chrF (Popović, 2015) are sacrebleu's corpus scores as it has them by default, divided
by 100: not means over rows, but of the n-grams of all rows together. BLEU counts runs of up to four words, and is 0
where all rows together have none of four. ROUGE-L (Lin, 2004) is the mean over rows of the F-measure of the longest
common subsequence of words, as in the package rouge-score without its stemmer: words are runs of a to z and digits, so
for texts in other scripts chrF is the metric to go by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweeper.data.row import Row
from sweeper.tasks import draws
from sweeper.tasks.generation import Generation
from sweeper.uncertainty import ERROR_DRAWS, mean_error

if TYPE_CHECKING:
    from sweeper.tasks.task import Scores


def rouge_l(reference: str, prediction: str) -> float:
    """The F-measure of the longest common subsequence of words."""
    wanted, given = _words(reference), _words(prediction)
    common = _longest_common(wanted, given)
    return 2 * common / (len(wanted) + len(given)) if common else 0.0


def best_rouge_l(references: Sequence[str], prediction: str) -> float:
    """ROUGE-L with the reference answer that fits best."""
    return max(rouge_l(reference, prediction) for reference in references)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)  # of the words of `first` so far and each begin of `second`
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


@dataclass(frozen=True)
class CommentScores:
    """How written answers overlap with the reference answers, of each row that which fits best.

    Each comes with its standard error, of the rows being a sample: for ROUGE-L that of a mean, as of token F1; for BLEU
    and chrF a bootstrap over rows, which is zero where all of them are right.
    """

    bleu: float
    chrf: float
    rouge_l: float
    bleu_se: float
    chrf_se: float
    rouge_l_se: float

    @classmethod
    def of(cls, truth: Sequence[Sequence[str]], predictions: Sequence[str]) -> CommentScores:
        by_row = [best_rouge_l(row, text) for row, text in zip(truth, predictions, strict=True)]
        bleu, bleu_se = _corpus_score("bleu", truth, predictions)
        chrf, chrf_se = _corpus_score("chrf", truth, predictions)
        return cls(bleu, chrf, float(np.mean(by_row)), bleu_se, chrf_se, mean_error(by_row))

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def _corpus_score(metric: str, truth: Sequence[Sequence[str]], predictions: Sequence[str]) -> tuple[float, float]:
    """A score over all rows, and its standard error."""
    rows = len(predictions)
    times = draws.times(rows, ERROR_DRAWS, seed=0).astype(int)
    [whole] = corpus_scores(metric, truth, predictions, np.ones((1, rows), dtype=int))
    return whole, float(np.std(corpus_scores(metric, truth, predictions, times), ddof=1))


def corpus_scores(
    metric: str, truth: Sequence[Sequence[str]], predictions: Sequence[str], times: NDArray[np.int_]
) -> list[float]:
    """BLEU or chrF, between 0 and 1, of each draw of the rows.

    What is drawn is the rows' counts, and not the texts: sacrebleu's own bootstrap does so too, by the same two
    methods, but has an interval and no standard error.

    Args:
        times: `(draws, rows)`: how often each row is in each draw.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    scorer: Any = BLEU(force=True) if metric == "bleu" else CHRF()
    most = max(map(len, truth))
    streams = [[row[place] if place < len(row) else None for row in truth] for place in range(most)]
    counts = np.array(scorer._extract_corpus_statistics(list(predictions), streams))  # (rows, counts)
    return [float(scorer._compute_score_from_stats(summed.tolist()).score) / 100 for summed in times @ counts]


class Comments(Generation):
    """Writes answers, which are compared by overlap."""

    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> Scores:
        return CommentScores.of([row.answers for row in rows], predictions)
