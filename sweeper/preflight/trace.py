"""Traces steps of the real engine over fake tensors: what they take, without weights and without a GPU.

`python -m sweeper.preflight.trace` reads requests as JSON and writes the peaks; it runs in a process of its own,
since what makes torch and transformers build a model of fake tensors must not be left in a process that trains.

A model is traced with two layers and with some more, and the difference is carried on to all of them: that is equal to
a whole trace, since every layer adds the same, and takes a tenth of the time. With one layer the peaks are elsewhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sweeper.data.example import Example
from sweeper.engine.batches import Chunk, Item, new_chunk, unpadded_chunk
from sweeper.engine.pack import Pack
from sweeper.engine.short_attention import elsewhere
from sweeper.memory.formula import (
    CHECKPOINTED,
    GENERIC,
    KEPT,
    MODES,
    SCORE,
    Dimensions,
    Formula,
    features,
    mode_of,
    padded,
    target_key,
)
from sweeper.memory.live import LiveBytes
from sweeper.memory.planner import Load, Work
from sweeper.models import base
from sweeper.models.targets import linear_names, resolve
from sweeper.preflight.case import Case, Extent, ModelShape, Peaks, Terms, hashable
from sweeper.preflight.dimensions import dimensions_of, quantised_tensors
from sweeper.preflight.fake import fake_base, with_layers, without_initialisation
from sweeper.trial import Rhythm, TrialParams

SHALLOW = 2
TOWARDS_USUAL = 0.05


def main() -> None:
    request = json.load(sys.stdin)
    shape = ModelShape(**{**request["shape"], "targets": tuple(map(hashable, request["shape"]["targets"]))})
    extent = {**request["extent"], "ranks": tuple(request["extent"]["ranks"]), "seqs": tuple(request["extent"]["seqs"])}
    formula = fit(shape, Extent(**extent), request["modes"])
    json.dump(formula.as_dict(), sys.stdout)


def fit(shape: ModelShape, extent: Extent, modes: Sequence[str] = MODES) -> Formula:
    """The formula of one base: the lowest linear function that is not below any traced peak.

    Args:
        modes: of the backward that are traced; the formula has the coefficients of these alone, and of scoring.
    """
    with fake_bases(shape) as bases:
        can_checkpoint = all(model.supports_gradient_checkpointing for model in bases.models)
        cases = _corners(shape, extent, [mode for mode in modes if mode == KEPT or can_checkpoint])
        sizes = bases.dimensions(extent.has_dropout)
        # Scoring is the same in both modes, and is traced in one of them.
        traces = [
            *bases.all_peaks([case for case in cases if case.is_checkpointed], with_score=False),
            *bases.all_peaks([case for case in cases if not case.is_checkpointed]),
        ]
        cases.sort(key=lambda case: not case.is_checkpointed)  # as the traces are
    rows: dict[str, list[tuple[float, ...]]] = {CHECKPOINTED: [], KEPT: [], SCORE: []}
    peaks: dict[str, list[list[float]]] = {mode: [] for mode in rows}
    for case, traced in zip(cases, traces, strict=True):
        profile = ((padded(case.rank), case.slots),)
        targeted = sizes.targets[target_key(case.target_modules)]
        count = case.rows * case.slots
        for work, phases in ((Work.TRAIN, ("forward", "head", "backward")), (Work.SCORE, ("score", "choose"))):
            if not all(phase in traced.phases for phase in phases):
                continue
            load = Load(work, count, case.seq, count * case.answer_tokens, case.is_checkpointed)
            rows[mode_of(load)].append(features(sizes, load, profile, targeted))
            peaks[mode_of(load)].append([float(traced.transient_bytes(phase)) for phase in phases])
    coefficients = {
        mode: tuple(_lowest_bound(rows[mode], phase, GENERIC[mode][0]) for phase in zip(*peaks[mode], strict=True))
        for mode in rows
        if rows[mode]
    }
    return Formula(sizes, coefficients, bound=1.0, is_traced=True)


def _lowest_bound(rows: list[tuple[float, ...]], peaks: Sequence[float], usual: Sequence[float]) -> tuple[float, ...]:
    """Non-negative coefficients whose function is nowhere below the peaks, and above them by little.

    Where the peaks leave a choice, it is the one that is nearest to the usual coefficients: there are not many more
    peaks than sizes, and a coefficient that is far off would do harm between the corners.
    """
    ratios = np.array(rows) / np.array(peaks)[:, None]
    count, sizes = ratios.shape
    one, none = np.eye(sizes), np.zeros((count, 2 * sizes))
    pull = TOWARDS_USUAL * count * ratios.mean(0)
    answer = linprog(  # the coefficients, and how far each is above or below the usual one
        np.concatenate([ratios.sum(0), pull, pull]),
        A_ub=np.concatenate([-ratios, none], axis=1),
        b_ub=-np.ones(count),
        A_eq=np.concatenate([one, -one, one], axis=1),
        b_eq=np.array(usual),
        bounds=(0, None),
    )
    assert answer.success, answer.message  # every peak has a size above zero, so there is a bound
    return tuple(float(value) for value in answer.x[:sizes])


def _corners(shape: ModelShape, extent: Extent, modes: Sequence[str]) -> list[Case]:
    (low, high), (short, long) = extent.ranks, extent.seqs
    few, many = max(2, extent.most_tokens // long), max(2, min(64, extent.most_tokens // short))
    middle = (low + high) // 2
    answer, brief = min(extent.answer_tokens, long - 1), min(extent.answer_tokens, short - 1)
    first, last = shape.targets[0], shape.targets[-1]
    # (rank, seq, rows, slots, answer, targets): every size at its least and at its most, alone and with others.
    sizes = [
        (low, long, 1, 1, answer, first),
        (high, long, 1, 1, answer, last),
        (low, short, 1, 1, 1, first),
        (high, short, 1, 1, brief, last),
        (low, long, few, 1, 1, first),
        (high, long, few, 1, answer, last),
        (high, long, 1, 2, 1, first),
        (low, short, many, 1, brief, last),
        (high, short, max(1, many // 2), 2, 1, first),
        (low, short, 4, 2, brief, first),
        (high, long, 1, 1, answer, first),
        (low, long, few, 1, 1, last),
    ]
    sizes += [(middle, (short + long) // 2, 2, 1, 1, choice) for choice in shape.targets[1:-1]]
    return [
        Case(
            rank,
            seq,
            rows,
            slots,
            answer_tokens,
            target_modules=targets,
            is_checkpointed=mode == CHECKPOINTED,
            has_dropout=extent.has_dropout,
        )
        for mode in modes
        for rank, seq, rows, slots, answer_tokens, targets in dict.fromkeys(sizes)
    ]


@contextmanager
def fake_bases(shape: ModelShape) -> Iterator[FakeBases]:
    """Fake models of a base, and the modes that make it possible to trace them."""
    layers = int(shape.config["num_hidden_layers"])
    # Layers of two kinds, such as sliding and full attention, commonly take turns.
    more = 1 if len(set(shape.config.get("layer_types") or ())) <= 1 else 2
    depths = [layers] if layers <= SHALLOW + more else [SHALLOW, SHALLOW + more]
    device = nullcontext() if shape.is_on_host else elsewhere()
    with device, FakeTensorMode(allow_non_fake_inputs=True), without_initialisation():
        models = [fake_base(shape, with_layers(shape.config, depth)) for depth in depths]
        yield FakeBases(shape, models, depths, layers)


@dataclass(frozen=True)
class FakeBases:
    """A base of all its layers, from one or two of fewer."""

    shape: ModelShape
    models: list[Any]
    depths: list[int]  # of the models, in layers
    layers: int

    def peaks(self, case: Case, with_score: bool = True) -> Peaks:
        [found] = self.all_peaks([case], with_score)
        return found

    def all_peaks(self, cases: Sequence[Case], with_score: bool = True) -> list[Peaks]:
        """The peaks of each case. Those of like slots are traced on one pack, which takes as long to make as a case."""
        packs: dict[tuple[Any, ...], list[int]] = {}
        for index, case in enumerate(cases):
            key = (
                case.rank,
                case.slots,
                case.target_modules,
                case.is_checkpointed,
                case.has_dropout,
                case.optimizer_state,
            )
            packs.setdefault(key, []).append(index)
        found: dict[int, Peaks] = {}
        for indices in packs.values():
            alike = [cases[index] for index in indices]
            by_depth = [_Tracer(model, self.shape, alike[0]).run(alike, with_score) for model in self.models]
            for index, *peaks in zip(indices, *by_depth, strict=True):
                found[index] = (
                    peaks[0] if len(peaks) == 1 else _extrapolated(peaks[0], peaks[1], self.depths, self.layers)
                )
        return [found[index] for index in range(len(cases))]

    def dimensions(self, has_dropout: bool) -> Dimensions:
        found = [
            dimensions_of(model, self.shape.targets, base.DTYPES[self.shape.dtype], has_dropout)
            for model in self.models
        ]
        if len(found) == 1:
            return found[0]
        shallow, deep = found
        less, more = self.depths

        def carried(before: int, after: int) -> int:
            return after + (after - before) // (more - less) * (self.layers - more)

        return replace(
            deep,
            layers=self.layers,
            weights_4bit_bytes=carried(shallow.weights_4bit_bytes, deep.weights_4bit_bytes),
            weights_other_bytes=carried(shallow.weights_other_bytes, deep.weights_other_bytes),
            targets={
                key: replace(
                    deep.targets[key],
                    widths=carried(shallow.targets[key].widths, deep.targets[key].widths),
                    half=carried(shallow.targets[key].half, deep.targets[key].half),
                )
                for key in deep.targets
            },
        )


def _extrapolated(shallow: Peaks, deep: Peaks, depths: Sequence[int], layers: int) -> Peaks:
    less, more = depths
    phases: dict[str, Terms] = {}
    for phase, terms in deep.phases.items():
        before = shallow.phases[phase]
        slopes = {name: (terms.get(name, 0) - before.get(name, 0)) / (more - less) for name in {*terms, *before}}
        phases[phase] = {name: round(terms.get(name, 0) + slope * (layers - more)) for name, slope in slopes.items()}
    return Peaks(phases)


class _Tracer:
    """Cases of like slots on one fake model."""

    def __init__(self, model: Any, shape: ModelShape, case: Case) -> None:
        self.case = case
        self.live = LiveBytes(keeps_kinds=True)
        names = linear_names(model)
        reachable = [name for targets in shape.targets for name in resolve(hashable(targets), names)]
        self.live.add(quantised_tensors(model), "weights_4bit")
        self.live.add(model.parameters(), "weights_other")
        self.live.add(model.buffers(), "weights_other")
        self.pack = Pack(
            model,
            [name for name in names if name in reachable],
            [],
            pad=0,
            chunk_tokens=1,
            gradient_checkpointing=case.is_checkpointed and model.supports_gradient_checkpointing,
            optimizer_state=case.optimizer_state,
        )
        self.params = TrialParams(
            rank=case.rank,
            alpha=1.0,
            rslora=False,
            target_modules=hashable(case.target_modules),
            dropout=0.1 if case.has_dropout else 0.0,
            epochs=1.0,
            learning_rate=1e-3,
            lora_plus_ratio=1.0,
            weight_decay=0.0,
            beta1=0.9,
            beta2=0.999,
            max_grad_norm=1.0,
            batch_size=1,
            schedule="constant",
            warmup_ratio=0.0,
            replay=0.0,
        )
        self.phases: dict[str, Terms] = {}

    def run(self, cases: Sequence[Case], with_score: bool) -> list[Peaks]:
        found = []
        try:
            with self.live:
                with self.live.counted_as("adapters"):
                    rhythm = Rhythm(interval_examples=1, evaluations=1, batch_size=1)
                    for number in range(self.case.slots):
                        self.pack.admit(*self.pack.new_slot(number, self.params, rhythm, seed=0))
                    self.pack.settle()
                for self.case in cases:
                    self.phases, self.live.kind = {}, "other"
                    self.live.reset_peak()
                    self._train()
                    if with_score:
                        self._score()
                    found.append(Peaks(self.phases))
        finally:
            self.pack.stack.detach()
        return found

    def _train(self) -> None:
        case, pack = self.case, self.pack
        answer = (1,) * case.answer_tokens
        pack.examples = [Example(prompt=(1,) * (case.seq - case.answer_tokens), answer=answer)]
        rows = case.rows * case.slots
        tokens = (1,) * case.seq
        chunk = self._chunk([Item(row % case.slots, tokens, 0, row) for row in range(rows)])
        pack.model.train()
        divisors = torch.ones(case.slots)
        hidden_of = pack.head.hidden

        def hidden(chunk: Chunk) -> Tensor:
            with self.live.counted_as("checkpoints" if case.is_checkpointed else "activations"):
                out = hidden_of(chunk)
            self._close("forward")
            out.register_hook(self._enter_backward)  # type: ignore[no-untyped-call]
            self.live.kind = "logits"
            return out

        pack.head.hidden = hidden  # type: ignore[method-assign]
        pack.train_chunk(chunk, divisors)
        pack.head.hidden = hidden_of  # type: ignore[method-assign]
        self._close("backward")

    def _enter_backward(self, _grad: Tensor) -> None:
        self._close("head")
        self.live.kind = "recompute"

    @torch.no_grad()
    def _score(self) -> None:
        case, pack = self.case, self.pack
        tokens = (1,) * case.seq
        rows = case.rows * case.slots
        chunk = self._chunk([Item(row % case.slots, tokens, 0) for row in range(rows)])
        pack.model.eval()
        hidden_of = pack.head.hidden

        def hidden(chunk: Chunk) -> Tensor:
            out = hidden_of(chunk)
            self._close("score")
            return out

        pack.head.hidden = hidden  # type: ignore[method-assign]
        layout = pack.stack.layout(chunk.rows, spans=chunk.spans)
        with self.live.counted_as("activations"), pack.stack.using(layout):
            pack.best_of(chunk, [[1, 2]] * rows)
        pack.head.hidden = hidden_of  # type: ignore[method-assign]
        self._close("choose")

    def _chunk(self, items: Sequence[Item]) -> Chunk:
        """As the pack makes it, but that nothing is shared: rows are alike here, and need not be in a study.

        Without padding, rows of unlike length take more in attention; all of a study have that.
        """
        device = self.pack.stack.device
        if not self.pack.is_unpadded:
            return new_chunk(items, 0, device)
        slots = len({item.slot for item in items})
        whole, last = items[:-slots], items[-slots:]  # one of each slot, which then have as many tokens as one another
        if whole:
            last = [replace(item, tokens=item.tokens[1:] or item.tokens) for item in last]
        return unpadded_chunk([*whole, *last], device, may_share=False)

    def _close(self, phase: str) -> None:
        """Notes what was live at a phase's peak, and begins the next one."""
        self.phases[phase] = dict(self.live.at_peak)
        self.live.reset_peak()


if __name__ == "__main__":
    main()
