"""Which rows ask the same, or nearly: by their text without case, spacing and the punctuation around words.

Nearly the same is a Jaccard similarity of at least `NEAR` between sets of three words in a row. Candidates come from
MinHash signatures in bands (Broder 1997), whose similarity is then measured, so that none is reported by chance.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import combinations
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from sweeper.data.row import Row

NEAR = 0.8
_WORDS = 3  # of a shingle
_BANDS, _DEPTH = 8, 4  # of a pair with a similarity of 0.8, 98.5 % are candidates; with 0.3, 6 %
_FULL = 8  # rows of a band that are compared with each other; further ones with these
_AROUND = ".,;:!?\"'`()[]{}<>«»“”‘’…–—-*_"  # of a word, and of no weight there; within one, as in 3*4, it stays
Hashes = NDArray[np.uint64]


def words(text: str) -> list[str]:
    """The words of a text, those alike that differ in case or in what stands around them."""
    found = unicodedata.normalize("NFKC", text).casefold().split()
    return [word.strip(_AROUND) or word for word in found]


def question_of(row: Row) -> str:
    """What a row asks, the same of rows that ask the same: without its answer."""
    asked = [f"{role}: {content}" for role, content in row.messages[:-1]] or [row.text]
    return "\n".join(" ".join(words(text)) for text in asked)


def near(texts: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int]]:
    """The places of texts that are nearly the same, in pairs, the earlier one first.

    Args:
        texts: normal ones, each with what must be the same beside it; none may be there twice.
    """
    known = _WordHashes()
    sets = [_shingles(text, beside, known) for text, beside in texts]
    buckets: dict[tuple[int, bytes], list[int]] = {}
    draw = np.random.default_rng(0)
    factors = draw.integers(1, 2**63, _BANDS * _DEPTH, dtype=np.uint64) | np.uint64(1)
    for place, shingles in enumerate(sets):
        if len(shingles):
            smallest = (shingles[:, None] * factors >> np.uint64(16)).min(axis=0).reshape(_BANDS, _DEPTH)
            for band, values in enumerate(smallest):
                buckets.setdefault((band, values.tobytes()), []).append(place)
    candidates: set[tuple[int, int]] = set()
    for bucket in buckets.values():
        candidates.update(combinations(bucket[:_FULL], 2))
        candidates.update((one, other) for other in bucket[_FULL:] for one in bucket[:_FULL])
    for one, other in sorted(candidates):
        shared = np.intersect1d(sets[one], sets[other], assume_unique=True).size
        if shared >= NEAR * (len(sets[one]) + len(sets[other]) - shared):
            yield one, other


class _WordHashes(dict[str, int]):
    """Hashes of words, the same in every process, each made once."""

    def __missing__(self, word: str) -> int:
        self[word] = found = crc32(word.encode())
        return found


def _shingles(text: str, beside: str, known: _WordHashes) -> Hashes:
    """Hashes of each three words in a row, each once."""
    hashes = np.fromiter(map(known.__getitem__, text.split()), np.uint64)
    if len(hashes) < _WORDS:
        return np.empty(0, np.uint64)
    rows = len(hashes) - _WORDS + 1
    mixed = np.full(rows, crc32(beside.encode()), np.uint64)
    for offset in range(_WORDS):
        mixed = (mixed ^ hashes[offset : offset + rows]) * np.uint64(0x9E3779B97F4A7C15)  # wraps around
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)
