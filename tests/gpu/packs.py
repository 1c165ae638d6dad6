"""What a pack saves, S(K, T) = K · t(1, T) / t(K, T): the part `packs` of `make gpu-check`.

T is what each of the K trials reads in a step. A pack and a single trial take turns on one base, so that whatever
else the machine does meets both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from sweeper.engine.pack import Pack
from sweeper.engine.stack import detach
from sweeper.memory.oom import free_caches, is_out_of_memory
from tests.gpu.memory import first_line
from tests.gpu.shapes import attach, linear_weights, random_base, random_pack, set_rows
from tests.gpu.timing import NO_TIME, case_of, peaks, reset_peaks, tick_s, utilisation

SLOTS = (16, 8, 4, 2)  # one slot is what all are held against; where time is short, what is known best is left out
TOKENS = (64, 128, 256, 512)
FEW_SLOTS, LONG_TOKENS = 4, (1024, 4096)  # up to so many slots also these
WARM_UP_PAIRS, PAIRS = 1, 5


def tokens_of(slots: int) -> tuple[int, ...]:
    """Each T that so many slots are measured at, ascending."""
    return TOKENS + (LONG_TOKENS if slots <= FEW_SLOTS else ())


def measured(shape: str, device: torch.device, end_s: float, tflop_per_s: float) -> Iterator[dict[str, Any]]:
    """A row for each K and T; where a forward's tensors do not fit, both sides recompute, and the row says so.

    Args:
        end_s: no pair of steps begins after this, by `time.monotonic`; what is left out is a row that says so.
        tflop_per_s: of a large matrix product here.
    """
    bench: _Bench | None = None
    for slots in SLOTS:
        for tokens in tokens_of(slots):
            row = {"shape": shape, "slots": slots, "slot_tokens": tokens}
            if time.monotonic() > end_s:
                yield row | {"error": NO_TIME}
                continue
            try:
                bench = bench or _Bench(random_base(shape, device), device, end_s, tflop_per_s)
                yield row | bench.row(slots, tokens)
            except RuntimeError as error:  # what made it is lost: the rest is tried all the same
                yield row | {"error": first_line(error)}
    if bench is not None:
        detach(bench.model)


@dataclass
class _Bench:
    """A base, and the pair of packs that take turns on it."""

    model: Any
    device: torch.device
    end_s: float
    tflop_per_s: float
    weights: int = field(init=False)
    _pair: tuple[Pack, Pack] | None = None  # one slot; several
    _made: tuple[int, bool] | None = None  # how many, and whether they recompute
    _too_many: int | None = None  # tokens of a step that did not fit without recomputing

    def __post_init__(self) -> None:
        self.weights = linear_weights(self.model)

    def row(self, slots: int, tokens: int) -> dict[str, Any]:
        """What is measured of a cell.

        Raises:
            RuntimeError: if it does not fit, recomputed either, or fails.
        """
        kept_error = f"{self._too_many} tokens did not fit" if self._too_many else None
        if self._too_many is None or slots * tokens < self._too_many:
            try:
                return self._row(slots, tokens, is_checkpointed=False)
            except RuntimeError as error:
                self._drop()
                if not is_out_of_memory(error):
                    raise
                kept_error = first_line(error)
            self._too_many = slots * tokens
        try:
            return self._row(slots, tokens, is_checkpointed=True) | {"kept_error": kept_error}
        except RuntimeError:
            self._drop()
            raise

    def _row(self, slots: int, tokens: int, is_checkpointed: bool) -> dict[str, Any]:
        pair = self._pair_of(slots, is_checkpointed)
        for pack, count in zip(pair, (1, slots), strict=True):
            set_rows(pack, case_of(count, tokens, is_checkpointed))
        free_caches()
        for _ in range(WARM_UP_PAIRS):
            self._turn(pair)
        reset_peaks(self.device)
        turns: list[tuple[float, float]] = []
        while len(turns) < PAIRS and time.monotonic() <= self.end_s:
            # Every other turn the other way round: what drifts then favours neither.
            turns.append(self._turn(pair) if len(turns) % 2 == 0 else self._turn(pair[::-1])[::-1])
        if not turns:
            return {"is_checkpointed": is_checkpointed, "error": NO_TIME}
        return {"is_checkpointed": is_checkpointed, **self._summary(slots, tokens, is_checkpointed, turns)}

    def _turn(self, pair: tuple[Pack, Pack]) -> tuple[float, float]:
        seconds = []
        for pack in pair:
            attach(pack)
            seconds.append(tick_s(pack, self.device))
        return seconds[0], seconds[1]

    def _summary(
        self, slots: int, tokens: int, is_checkpointed: bool, turns: list[tuple[float, float]]
    ) -> dict[str, Any]:
        alone, packed = (statistics.median(side) for side in zip(*turns, strict=True))
        each = [slots * one / many for one, many in turns]
        count = slots * tokens
        return {
            "pairs": len(turns),
            "solo_s": round(alone, 5),
            "step_s": round(packed, 5),
            "speedup": round(slots * alone / packed, 4),
            "speedup_range": [round(min(each), 4), round(max(each), 4)],
            "tokens_per_s": round(count / packed, 1),
            "solo_utilisation": utilisation(self.weights, tokens, is_checkpointed, alone, self.tflop_per_s),
            "utilisation": utilisation(self.weights, count, is_checkpointed, packed, self.tflop_per_s),
            **peaks(self.device),  # with both of the pair there
        }

    def _pair_of(self, slots: int, is_checkpointed: bool) -> tuple[Pack, Pack]:
        """Packs of one and of `slots`, from before where they are the same: adapters take seconds to make."""
        if self._pair is None or self._made != (slots, is_checkpointed):
            self._drop()
            packs = []
            for count in (1, slots):
                detach(self.model)
                packs.append(random_pack(self.model, case_of(count, TOKENS[0], is_checkpointed)))
            self._pair, self._made = (packs[0], packs[1]), (slots, is_checkpointed)
        return self._pair

    def _drop(self) -> None:
        self._pair = None
        detach(self.model)
        free_caches()
