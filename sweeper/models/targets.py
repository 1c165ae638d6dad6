"""Which linear layers of a model an adapter goes to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sweeper.errors import ModelError, unknown
from sweeper.trial import TARGET_PRESETS, is_pattern

# What stands in the names of the modules of each preset.
_MARKS = dict(
    zip(TARGET_PRESETS, (("",), ("attn", "attention"), ("mlp", "feed_forward", "ffn", "fc1", "fc2")), strict=True)
)
_BY_END = r"'.*\.(q_proj|v_proj)'"  # an example


def linear_names(model: Any) -> list[str]:
    """The names of the linear layers of a model's text decoder, without its output head, in the model's order.

    Raises:
        ModelError: if there are none, or the model's linears are of another kind.
    """
    from torch import nn

    head = model.get_output_embeddings()
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}  # not a vision tower, which text never passes
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and id(module) in inside
    ]
    if not names:
        kinds = sorted({type(m).__name__ for m in decoder.modules() if hasattr(m, "weight") and not list(m.children())})
        raise ModelError(
            f"a model must have linear layers (torch.nn.Linear) to adapt, but the decoder of {type(model).__name__} "
            f"has none; it is made of {', '.join(kinds)}"
        )
    return names


def resolve(targets: str | Iterable[str], names: Sequence[str]) -> list[str]:
    """Which of `names` a preset, a module name, a list of these or a regular expression means.

    As in PEFT, a module name is the whole dotted name or its end (`q_proj`), and an expression matches whole names.

    Raises:
        ModelError: if a name or an expression matches nothing; lists what there is.
    """
    if isinstance(targets, str) and is_pattern(targets):
        found = [name for name in names if re.fullmatch(targets, name)]
        if not found:
            raise ModelError(
                f"lora.target_modules: an expression must match a whole name, such as {names[0]}, but {targets!r} "
                f"matches none of {len(names)}; {_BY_END} would match by the end. "
                f"Ends: {', '.join(sorted(_ends(names)))}"
            )
        return found
    wanted = [targets] if isinstance(targets, str) else list(targets)
    chosen = {one: {name for name in names if _is_meant(one, name)} for one in wanted}
    missing = [one for one, meant in chosen.items() if not meant]
    if missing:
        raise ModelError(
            f"lora.target_modules: {unknown('module', missing[0], _ends(names) | set(_MARKS))}; lists and expressions "
            "that are searched have names in lora.module_sets"
        )
    return [name for name in names if any(name in meant for meant in chosen.values())]


def _is_meant(one: str, name: str) -> bool:
    """Whether a preset, or a name as PEFT matches it, means a module."""
    if one in _MARKS:
        return any(mark in part for part in name.split(".") for mark in _MARKS[one])
    return name == one or name.endswith(f".{one}")


def _ends(names: Sequence[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}
