"""What attention of short rows takes on this CPU: torch's kernel against `engine.short_attention`.

    python tests/benchmarks/short_attention.py

Forward and backward, CPU milliseconds of one thread; 8 rows, 9 heads of width 64 over 3 of keys and values, as SmolLM2
has them. Both ways in turn, medians of seven.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sweeper.engine.short_attention import ShortAttention

ROWS, HEADS, FEW, WIDTH, TURNS = 8, 9, 3, 64, 7


def torchs(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # As transformers calls it where there is a mask or no CUDA: keys and values are repeated.
    key, value = (each.repeat_interleave(HEADS // FEW, 1) for each in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    result: Tensor = ShortAttention.apply(query, key, value, mask, WIDTH**-0.5)  # type: ignore[no-untyped-call]
    return result


def milliseconds(attention: Callable[[Tensor, Tensor, Tensor], Tensor], states: list[Tensor], grad: Tensor) -> float:
    started = time.process_time()
    attention(*states).backward(grad)  # type: ignore[no-untyped-call]
    return 1000 * (time.process_time() - started)


def main() -> None:
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (16, 32, 64, 128, 256, 512):
            heads = (HEADS, FEW, FEW)
            states = [torch.randn(ROWS, tokens, n, WIDTH, dtype=dtype).transpose(1, 2).requires_grad_() for n in heads]
            grad = torch.randn(ROWS, HEADS, tokens, WIDTH, dtype=dtype)
            times: dict[str, list[float]] = {"torch": [], "ours": []}
            for _ in range(TURNS + 1):
                times["torch"].append(milliseconds(torchs, states, grad))
                times["ours"].append(milliseconds(ours, states, grad))
            medians = {name: statistics.median(each[1:]) for name, each in times.items()}
            print(f"{dtype!s:15} {tokens:4} tokens: torch {medians['torch']:7.2f} ms, ours {medians['ours']:7.2f} ms")


if __name__ == "__main__":
    main()
