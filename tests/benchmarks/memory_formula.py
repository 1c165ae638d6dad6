"""The usual coefficients of the memory formula: fitted to traces of small random models of five architectures.

    python tests/benchmarks/memory_formula.py

Takes minutes. Prints the coefficients as they stand in `sweeper/memory/formula.py`, and how far they are off: what
they are to be multiplied with to be a bound is one over the lowest ratio.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from scipy.optimize import nnls

from sweeper.memory.formula import CHECKPOINTED, KEPT, SCORE, features, mode_of, padded
from sweeper.memory.planner import Load, Work
from sweeper.preflight.case import Case, ModelShape
from sweeper.preflight.trace import fake_bases

COMMON = {"max_position_embeddings": 8192}
ARCHITECTURES: list[dict[str, Any]] = [
    {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
    },
    {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
    {
        "model_type": "qwen2",
        "hidden_size": 384,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 8192,
        "tie_word_embeddings": True,
    },
    {
        "model_type": "phi3",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": 8192,
        "pad_token_id": 0,
    },
    {
        "model_type": "gpt_neox",
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "vocab_size": 8192,
    },
    {
        "model_type": "gemma2",
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 16384,
    },
]
CASES = 7  # for each architecture, precision and mode


def main() -> None:
    draws = random.Random(0)
    rows: dict[str, list[tuple[float, ...]]] = {CHECKPOINTED: [], KEPT: [], SCORE: []}
    peaks: dict[str, list[int]] = {mode: [] for mode in rows}
    for architecture in ARCHITECTURES:
        for dtype in ("bfloat16", "float32"):
            with fake_bases(ModelShape({**architecture, **COMMON}, dtype, "nf4")) as bases:  # type: ignore[arg-type]
                for is_checkpointed in (True, False):
                    for _ in range(CASES):
                        case = drawn(draws, is_checkpointed)
                        sizes, traced = bases.dimensions(case.has_dropout), bases.peaks(case)
                        count = case.rows * case.slots
                        for work, phases in (
                            (Work.TRAIN, ("forward", "head", "backward")),
                            (Work.SCORE, ("score", "choose")),
                        ):
                            load = Load(work, count, case.seq, count * case.answer_tokens, is_checkpointed)
                            profile = ((padded(case.rank), case.slots),)
                            rows[mode_of(load)].append(features(sizes, load, profile, sizes.targets["all-linear"]))
                            peaks[mode_of(load)].append(max(traced.transient_bytes(phase) for phase in phases))
    for mode in rows:
        sizes_of, peak = np.array(rows[mode]), np.array(peaks[mode], float)
        coefficients, _ = nnls(sizes_of / peak[:, None], np.ones(len(peak)))
        ratios = sizes_of @ coefficients / peak
        print(f"{mode}: ({', '.join(f'{value:.3f}' for value in coefficients)})")
        print(f"  {len(peak)} traces; to the peak {ratios.min():.3f} … {ratios.max():.3f}")


def drawn(draws: random.Random, is_checkpointed: bool) -> Case:
    return Case(
        rank=draws.choice([8, 16, 64, 128]),
        seq=draws.choice([32, 128, 512, 1024]),
        rows=draws.choice([1, 2, 4]),
        slots=draws.choice([1, 1, 3]),
        answer_tokens=draws.choice([1, 8, 16]),
        is_checkpointed=is_checkpointed,
        has_dropout=draws.random() < 0.3,
    )


if __name__ == "__main__":
    main()
