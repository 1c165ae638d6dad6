"""Traces steps of the real engine over fake tensors: what they take, without weights and without a GPU.

`python -m sweeper.preflight.trace` reads requests as JSON and writes the peaks; it runs in a process of its own,
since what makes torch and transformers build a model of fake tensors must not be left in a process that trains.

A model is traced with two and with four layers, and the difference is carried on to all of them: that is equal to
a whole trace, since every layer adds the same, and takes a tenth of the time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.data.prompt import Example
from sweeper.engine import optimizer
from sweeper.engine.batches import Item, new_chunk
from sweeper.engine.optimizer import SlotRates
from sweeper.engine.pack import Pack
from sweeper.memory.live import LiveBytes
from sweeper.models import base
from sweeper.models.targets import linear_names, resolve
from sweeper.preflight.case import Case, ModelShape, Peaks, Terms
from sweeper.trial import Rhythm, TrialParams

SHALLOW, DEEP = 2, 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WEIGHTS_4BIT, WEIGHTS, BUFFERS, ADAPTERS = "weights_4bit", "weights_other", "buffers", "adapters"


def main() -> None:
    request = json.load(sys.stdin)
    shape = ModelShape(**request["shape"])
    cases = [Case(**case) for case in request["cases"]]
    json.dump([peaks.as_dict() for peaks in trace(shape, cases)], sys.stdout)


def trace(shape: ModelShape, cases: list[Case]) -> list[Peaks]:
    """The peaks of each case, for a model of all its layers."""
    layers = int(shape.config["num_hidden_layers"])
    if layers <= DEEP:
        return [_traced(shape, shape.config, case) for case in cases]
    shallow, deep = (_with_layers(shape.config, count) for count in (SHALLOW, DEEP))
    return [_extrapolated(_traced(shape, shallow, case), _traced(shape, deep, case), layers) for case in cases]


def _with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """A configuration with fewer layers; what it lists for each layer is cut too."""
    whole = config["num_hidden_layers"]
    cut = {k: v[:layers] if isinstance(v, list) and len(v) == whole else v for k, v in config.items()}
    return {**cut, "num_hidden_layers": layers}


def _extrapolated(shallow: Peaks, deep: Peaks, layers: int) -> Peaks:
    phases: dict[str, Terms] = {}
    for phase, terms in deep.phases.items():
        before = shallow.phases[phase]
        slopes = {name: (terms.get(name, 0) - before.get(name, 0)) / (DEEP - SHALLOW) for name in {*terms, *before}}
        phases[phase] = {name: round(terms.get(name, 0) + slope * (layers - DEEP)) for name, slope in slopes.items()}
    return Peaks(phases)


def _traced(shape: ModelShape, config: Mapping[str, Any], case: Case) -> Peaks:
    with FakeTensorMode(allow_non_fake_inputs=True), _without_initialisation():
        model = fake_base(shape, config)
        return _Tracer(model, shape, case).run()


class _Tracer:
    """One case on one fake model."""

    def __init__(self, model: Any, shape: ModelShape, case: Case) -> None:
        self.case = case
        self.live = LiveBytes(is_kept=True)
        answer = (1,) * case.answer_tokens
        examples = [Example(prompt=(1,) * (case.seq - case.answer_tokens), answer=answer)]
        names = linear_names(model)
        reachable = [name for targets in shape.targets for name in resolve(_hashable(targets), names)]
        self.live.add(_quantised_tensors(model), WEIGHTS_4BIT)
        self.live.add(model.parameters(), WEIGHTS)
        self.live.add(model.buffers(), BUFFERS)
        self.pack = Pack(
            model,
            [name for name in names if name in reachable],
            examples,
            pad=0,
            chunk_tokens=1,
            gradient_checkpointing=case.is_checkpointed and model.supports_gradient_checkpointing,
            optimizer_state=case.optimizer_state,
        )
        self.params = TrialParams(
            rank=case.rank,
            alpha=1.0,
            rslora=False,
            target_modules=_hashable(case.target_modules),
            dropout=0.1 if case.has_dropout else 0.0,
            epochs=1.0,
            learning_rate=1e-3,
            lora_plus_ratio=1.0,
            weight_decay=0.0,
            beta1=0.9,
            beta2=0.999,
            max_grad_norm=1.0,
            batch_size=case.rows,
            schedule="constant",
            warmup_ratio=0.0,
        )
        self.phases: dict[str, Terms] = {}

    def run(self) -> Peaks:
        with self.live:
            with self.live.counted_as(ADAPTERS):
                rhythm = Rhythm(interval_examples=self.case.rows, evaluations=1, batch_size=self.case.rows)
                for number in range(self.case.slots):
                    self.pack.admit(*self.pack.new_slot(number, self.params, rhythm, seed=0))
            self._close("admit")
            self.live.reset_peak()
            self._train()
            self._optimizer()
            self._score()
        return Peaks(self.phases)

    def _train(self) -> None:
        case, pack = self.case, self.pack
        rows = case.rows * case.slots
        tokens = (1,) * case.seq
        chunk = new_chunk([Item(row % case.slots, tokens, 0, row) for row in range(rows)], 0, pack.stack.device)
        pack.model.train()
        divisors = torch.ones(case.slots)
        hidden_of = pack.head.hidden

        def hidden(tokens: Tensor, attention_mask: Tensor) -> Tensor:
            with self.live.counted_as("checkpoints" if case.is_checkpointed else "activations"):
                out = hidden_of(tokens, attention_mask)
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

    def _optimizer(self) -> None:
        with self.live.counted_as("optimizer_scratch"):
            for bucket in self.pack.stack.buckets:
                rates = [SlotRates(self.params, 1e-3, 1)] * bucket.slots
                optimizer._step(bucket, rates)
        self._close("optimizer")

    @torch.no_grad()
    def _score(self) -> None:
        case, pack = self.case, self.pack
        tokens = (1,) * case.seq
        rows = case.rows * case.slots
        chunk = new_chunk([Item(row % case.slots, tokens, 0) for row in range(rows)], 0, pack.stack.device)
        pack.model.eval()
        with self.live.counted_as("activations"), pack.stack.using(pack.stack.layout(chunk.rows)):
            pack.best_of(chunk, [[1, 2]] * rows)
        self._close("score")

    def _close(self, phase: str) -> None:
        """Notes what was live at a phase's peak, and begins the next one."""
        self.phases[phase] = dict(self.live.at_peak)
        self.live.reset_peak()


def _hashable(targets: Any) -> Any:
    return tuple(targets) if isinstance(targets, list) else targets


def fake_base(shape: ModelShape, config: Mapping[str, Any]) -> Any:
    """A frozen model of fake tensors, as `models.base.load_base` makes a real one."""
    values = dict(config)
    dtype = DTYPES[shape.dtype]
    made = AutoConfig.for_model(values.pop("model_type"), **values)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model: Any = AutoModelForCausalLM.from_config(made, dtype=dtype)
    finally:
        torch.set_default_dtype(before)
    if shape.quant == "nf4":
        head = model.get_output_embeddings()
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and module is not head:
                model.set_submodule(name, _quantised(module, dtype))
    base.freeze(model)
    return model


def _quantised(linear: nn.Linear, dtype: torch.dtype) -> Linear4bit:
    """A Linear4bit of fake tensors. `Params4bit` cannot wrap one; a parameter with a `quant_state` does as well."""
    values = linear.out_features * linear.in_features
    blocks = -(-values // 64)
    made = Linear4bit.__new__(Linear4bit)
    nn.Module.__init__(made)
    state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8),
        shape=torch.Size((linear.out_features, linear.in_features)),
        dtype=dtype,
        blocksize=64,
        code=torch.empty(16),
        quant_type="nf4",
        offset=torch.empty(()),
        state2=QuantState(
            absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
        ),
    )
    made.in_features, made.out_features = linear.in_features, linear.out_features
    made.weight = nn.Parameter(torch.empty(-(-values // 2), 1, dtype=torch.uint8), requires_grad=False)
    made.weight.quant_state = state
    made.weight.bnb_quantized = True
    made.quant_state = state
    made.compute_dtype = dtype
    made.compute_type_is_set = True
    made.quant_storage = torch.uint8
    made.bias = linear.bias
    return made


def _quantised_tensors(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            yield from (module.weight, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)


@contextmanager
def _without_initialisation() -> Iterator[None]:
    """Fake weights need no values, and drawing them takes most of a model's construction."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_args, **_kwargs: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)


if __name__ == "__main__":
    main()
