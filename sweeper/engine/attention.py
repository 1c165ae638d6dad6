"""Attention over rows that stand one behind another: transformers calls it in place of its own.

Rows of like length are laid side by side, and the arithmetic is left to transformers' `sdpa`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sweeper.engine.short_attention import ShortAttention, is_short
from sweeper.engine.spans import Spans

NAME = "sweeper_spans"  # no mask is registered under it, so transformers makes none
KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})
_current: list[Spans] = []  # of the forward, or of the layer that is recomputed; the last counts
windows: set[int | None] = set()  # that layers have asked for


@contextmanager
def using(model: Any, spans: Spans) -> Iterator[None]:
    """Within this context the model's attention is `attention`, over these rows."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    _current.append(spans)
    try:
        yield
    finally:
        _current.pop()
        config._attn_implementation = before


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within rows: `(1, heads, tokens, width)` each, to `(1, tokens, heads, width)`."""
    spans = _current[-1]
    windows.add(sliding_window)
    found = []
    for group in spans.groups:
        q, k, v = (
            _rows(states, index, group.rows)
            for states, index in ((query, group.queries), (key, group.keys), (value, group.keys))
        )
        mask = group.mask(q.shape[2], k.shape[2], sliding_window, query.device)
        if module.training and is_short(q, k, v):  # what is scored is rounded as by the user of an export
            seen = mask if mask is not None else group.causal(q.shape[2], query.device)
            scaling = options.get("scaling") or q.shape[-1] ** -0.5
            result = ShortAttention.apply(q, k, v, seen, scaling).transpose(1, 2)  # type: ignore[no-untyped-call]
        else:
            mask = None if mask is None else mask[None, None]
            result, _ = sdpa_attention_forward(module, q, k, v, mask, is_causal=True, **options)
        found.append(result.flatten(0, 1))  # (rows × longest, heads, width)
    together = found[0] if len(found) == 1 else torch.cat(found)
    return (together if spans.places is None else together.index_select(0, spans.places))[None], None


def _rows(states: Tensor, index: Tensor | None, rows: int) -> Tensor:
    """`(1, heads, tokens, width)` to `(rows, heads, longest, width)`."""
    tokens = states[0].transpose(0, 1)
    chosen = tokens if index is None else tokens.index_select(0, index)
    return chosen.view(rows, -1, *chosen.shape[1:]).transpose(1, 2)


AttentionInterface.register(NAME, attention)


def is_supported(model: Any) -> bool:
    """Whether a model leaves its attention to such a function, and to nothing else that looks at other tokens."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and model.config._attn_implementation == config._attn_implementation == "sdpa"
        and layers <= KNOWN_LAYERS
        and not getattr(config, "attention_chunk_size", None)
    )


def keeps_windows(model: Any) -> bool:
    """Whether the layers of a model that has windows have asked for them; some leave that to the mask alone."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    is_used = getattr(config, "use_sliding_window", True) and (layers is None or "sliding_attention" in layers)
    window = getattr(config, "sliding_window", None)
    return not (is_used and window) or window in windows
