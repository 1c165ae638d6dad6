"""Labels that may be wrong: those that a bag of words, fitted to the other rows, finds unlikely beside another one.

The idea is that of confident learning (Northcutt et al., arXiv:1911.00068), with fixed limits. Of 20 labels flipped
among 3,000 real tickets it names more than half, and of the others one in a thousand; `tests/benchmarks/data_doctor.py`
measures that again. It is a hint, and says nothing where words do not tell the labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sweeper.data.row import Row
from sweeper.data.rows import stratified

SURE, UNLIKELY = 0.5, 0.05  # of the other label at least, of the row's own less
_FOLDS = 3
_LEAST = 6  # rows of a label that is looked at
_LEAST_ROWS = 100
_WORK = 60_000  # rows times labels: a second or two
_CHARACTERS = 400  # of each text
_WORDS = 5_000
_TELLING = 0.5  # accuracy of the words themselves, below which they say nothing
_MOST = 0.03  # of the rows: more are no mistakes, but a kind of rows that words do not tell


def suspects(rows: Sequence[Row]) -> tuple[int, list[Row]]:
    """The rows of a classification whose labels are doubtful.

    Returns:
        How many rows were looked at, and those that were found.
    """
    counts = Counter(row.label for row in rows)
    known = [row for row in rows if counts[row.label] >= _LEAST]
    labels = sorted({row.label for row in known})
    if len(known) < _LEAST_ROWS or len(labels) < 2:
        return 0, []
    known = stratified(known, max(_LEAST_ROWS, _WORK // len(labels)), seed=0)
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    places = {label: place for place, label in enumerate(labels)}
    given = [places[row.label] for row in known]
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, max_features=_WORDS, dtype=np.float32)
    try:
        features = words.fit_transform([row.text[:_CHARACTERS] for row in known])
    except ValueError:  # no word is there twice
        return 0, []
    model = LogisticRegression(C=3, max_iter=50, tol=1e-3)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    likely = cross_val_predict(model, features, given, cv=folds, method="predict_proba")
    found = [
        row
        for row, own, chances in zip(known, given, likely, strict=True)
        if chances.max() >= SURE and chances[own] < UNLIKELY
    ]
    is_telling = (likely.argmax(axis=1) == given).mean() >= _TELLING
    return len(known), found if is_telling and len(found) <= _MOST * len(known) else []
