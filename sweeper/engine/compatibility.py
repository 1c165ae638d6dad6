"""Whether a base can be packed, proven on a few tokens instead of kept as a list of names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from sweeper.engine import attention
from sweeper.engine.batches import Item, new_chunk
from sweeper.engine.bucket import AdapterState
from sweeper.engine.pack import Pack
from sweeper.errors import ModelError
from sweeper.memory.oom import is_out_of_memory

_RANK = 8
_LONG = tuple(range(2, 9))
_SHORT = tuple(range(3, 8))  # of another length, so that one of two rows is padded
_LIKE_LONG = (*_LONG[:4], 9, 10)  # begins as another does, and may share that
_NEW_TOKENS = 2
# How far two results may lie apart that should be one, as a part of what an adapter does there: rounding stays
# far below, a neighbour's adapter or a mean over the batch lies above.
_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.25}
# The same of two forwards that should be one to the bit, as a part of the whole.
_REPEATED = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
# The same of two whose attention has rows of other lengths side by side.
_UNPADDED = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}
logger = logging.getLogger(__name__)


@torch.no_grad()
def verify(pack: Pack) -> None:
    """Compares two random adapters in one forward with each of them alone, and the head with the model's.

    Raises:
        ModelError: if the head does something else to the logits, a targeted layer is not called, something in the
            base is random, an adapter has no effect, a row depends on its neighbour or on its padding, or the model
            does not run so at all.
    """
    assert not pack.slots
    try:
        _verify(pack)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"a base must run with adapters at its linear layers, but {_kind(pack)} does not "
            f"({type(error).__name__}: {error}); lora.target_modules=attention may leave out what does not"
        ) from error
    finally:
        pack.clear()
        pack.model.eval()


def _verify(pack: Pack) -> None:
    pack.model.eval()
    pack.head.verify(pack.model)
    _settle_padding(pack)
    sizes = _sizes(pack)
    if missing := sorted(set(pack.stack.modules) - set(sizes)):
        raise ModelError(
            f"every targeted layer must be called in a forward, but {_kind(pack)} does not call {len(missing)} of "
            f"{len(pack.stack.modules)}, among them {missing[0]}: an adapter there would learn nothing"
        )
    _refuse_randomness(pack)
    for seed in (1, 2):
        pack.stack.admit(_random(pack, sizes, seed))
    items = [Item(0, _LONG), Item(1, _SHORT)]
    for item, together, written in zip(items, _hidden(pack, items), _written(pack, items), strict=True):
        [alone], [base] = _hidden(pack, [item]), _hidden(pack, [item], with_adapters=False)
        if not float((alone - base).norm()) > 0.01 * float(base.norm()):
            raise ModelError(f"an adapter must change what the model computes, but in {_kind(pack)} it does not")
        if not _is_like(together, alone, base, base.dtype):
            raise ModelError(
                f"a row must not depend on its neighbours, but in {_kind(pack)} it does: trials that train together "
                "would change each other; this architecture cannot be packed"
            )
        [expected] = _written(pack, [item])
        steps = zip(written, expected, strict=True)
        if not all(_is_like(ours, theirs, theirs.mean(), base.dtype) for ours, theirs in steps):
            raise ModelError(
                f"a row must not depend on padding before it, but in {_kind(pack)} it does: what trials generate "
                "together would not be what each generates alone; this architecture cannot be packed"
            )


def _kind(pack: Pack) -> str:
    return type(pack.model).__name__


def _is_like(ours: Tensor, expected: Tensor, than: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results of a computation in `dtype` are one, measured by how far `than` is."""
    tolerance = _TOLERANCES[dtype]
    ours, expected, than = ours.double(), expected.double(), than.double()
    return float((ours - expected).norm()) < tolerance * float((expected - than).norm())


def _sizes(pack: Pack) -> dict[str, tuple[float, float]]:
    """The root mean square of each called layer's input and output in the base."""
    sizes: dict[str, tuple[float, float]] = {}

    def measure(name: str, inputs: Tensor, output: Tensor) -> None:
        sizes[name] = (float(inputs.double().square().mean().sqrt()), float(output.double().square().mean().sqrt()))

    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: measure(name, inputs[0], output))
        for name, module in pack.stack.modules.items()
    ]
    try:
        _hidden(pack, [Item(0, _LONG)], with_adapters=False)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def _refuse_randomness(pack: Pack) -> None:
    """In training mode, two forwards of the bare base must be one."""
    pack.model.train()
    [first], [second] = (_hidden(pack, [Item(0, _LONG)], with_adapters=False) for _ in range(2))
    pack.model.eval()
    if not float((first - second).norm()) <= _REPEATED[first.dtype] * float(first.norm()):
        raise ModelError(
            f"nothing in a base may be random, but two training forwards of {_kind(pack)} differ: it has a dropout "
            "that is not turned off here, and so neighbours would change a trial"
        )


def _settle_padding(pack: Pack) -> None:
    """Pads rows where a base would not compute the same of them one behind another."""
    if not pack.is_unpadded:
        return
    items = [Item(0, _LONG), Item(0, _SHORT), Item(0, _LIKE_LONG), Item(0, _LIKE_LONG)]
    attention.windows.clear()
    try:
        pack.model.train()
        _hidden(pack, items, with_adapters=False)  # of which some architectures have another attention
        pack.model.eval()
        ours = _hidden(pack, items, with_adapters=False)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        pack.is_unpadded = False
        pack.model.eval()
        logger.info("rows are padded: %s does not run with one behind another (%s)", _kind(pack), error)
        return
    pack.is_unpadded = False
    expected = _hidden(pack, items, with_adapters=False)
    errors = [float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(ours, expected, strict=True)]
    is_same = max(errors) < _UNPADDED[expected[0].dtype]
    pack.is_unpadded = is_same and attention.keeps_windows(pack.model)  # longer than these few tokens
    if not pack.is_unpadded:
        logger.info("rows are padded: one behind another, %s computes something else of them", _kind(pack))


def _hidden(pack: Pack, items: Sequence[Item], with_adapters: bool = True) -> list[Tensor]:
    """Last hidden states `(seq, hidden)` of each item, as the base takes a chunk."""
    chunk = pack.chunk(items)
    with pack.stack.using(pack.stack.layout(chunk.rows if with_adapters else (), spans=chunk.spans)):
        hidden = pack.head.hidden(chunk)
    return [
        hidden[[chunk.place(index, token) for token in range(len(item.tokens))]]
        for index, item in enumerate(chunk.items)
    ]


def _written(pack: Pack, items: Sequence[Item]) -> list[list[Tensor]]:
    """For each item, padded on the left, the logits `(vocabulary,)` that its continuation begins with."""
    chunk = new_chunk(items, pack.pad, pack.stack.device, is_left=True)
    settings = GenerationConfig(
        # All but one token are suppressed: rounding must not lead two continuations apart.
        max_new_tokens=_NEW_TOKENS,
        do_sample=False,
        suppress_tokens=list(range(1, pack.model.config.get_text_config().vocab_size)),
        pad_token_id=pack.pad,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with pack.stack.using(pack.stack.layout(chunk.rows)):
        logits = pack.greedy(chunk, settings).logits
    return [[step[row] for step in logits] for row in range(len(items))]


def _random(pack: Pack, sizes: dict[str, tuple[float, float]], seed: int) -> AdapterState:
    """An adapter whose output at every layer is about as large as the layer's own."""
    generator = torch.Generator().manual_seed(seed)
    state = AdapterState(rank=_RANK, scale=1.0)

    def matrix(rows: int, columns: int, std: float) -> Tensor:
        return (torch.randn(rows, columns, generator=generator) * std).to(pack.stack.dtype)

    for name, module in pack.stack.modules.items():
        linear: nn.Linear = module.base
        input_rms, output_rms = sizes[name]
        b_std = output_rms / max(input_rms, 1e-12) / _RANK**0.5
        state.tensors["weight"][f"{name}.lora_A"] = matrix(_RANK, linear.in_features, linear.in_features**-0.5)
        state.tensors["weight"][f"{name}.lora_B"] = matrix(linear.out_features, _RANK, b_std)
    return state
