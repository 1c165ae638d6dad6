"""What the files of a model must be, so that it can be loaded, and safely: of a folder, or of the Hub's listing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.errors import ModelError
from sweeper.models.origin import CONFIG, INDEX, TOKENIZERS, weights_of

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def refusal(path: str, names: Sequence[str], config: Mapping[str, Any], is_code_trusted: bool = False) -> str | None:
    """Why a model is not loaded, in words; None where nothing speaks against it.

    Args:
        names: of all of its files.
        config: of transformers.
        is_code_trusted: `model.trust_remote_code`.
    """
    if CONFIG not in names:
        what = "an adapter: its base is what belongs here" if "adapter_config.json" in names else "without one"
        return f"model.path: a model must have a {CONFIG}, but {path} is {what}; it has {_some(names)}"
    if not weights_of(names):
        pickles = [name for name in names if name.endswith(_PICKLES)]
        why = (
            f"only pickles ({_some(pickles)}), which run code when they are loaded; convert them elsewhere, with "
            "`save_pretrained` of transformers"
            if pickles
            else f"none; it has {_some(names)}"
        )
        return f"model.path: a model must have its weights as safetensors, but {path} has {why}"
    if not set(TOKENIZERS) & set(names):
        return f"model.path: a model must have a tokenizer ({', '.join(TOKENIZERS)}), but {path} has {_some(names)}"
    if is_code_trusted and (others := _foreign_code(config)):
        return (
            f"model.path: the code of a model must be in its own repository, where a commit is one, but that of {path} "
            f"is in {', '.join(others)}; copy it, or set model.trust_remote_code=false if transformers knows the model"
        )
    if config.get("auto_map") and not is_code_trusted and not _is_known(str(config.get("model_type"))):
        code = ", ".join(map(str, config["auto_map"].values()))
        return (
            f"model.path: {path} is made of code in its repository ({code}), which may do whatever you may; "
            "read it, and set model.trust_remote_code=true with its commit as model.revision, or "
            "take a model that transformers knows"
        )
    return None


def _foreign_code(config: Mapping[str, Any]) -> list[str]:
    """Code that a model takes from other repositories, of which transformers always takes the newest."""
    values = [str(value) for value in (config.get("auto_map") or {}).values()]
    return sorted({value.partition("--")[0] for value in values if "--" in value})


def _is_known(model_type: str) -> bool:
    """Whether transformers has code of its own for it, which it then takes."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # seconds, so only where it matters

    return model_type in CONFIG_MAPPING_NAMES


def parts(folder: Path) -> list[str]:
    """The files that a folder's weights are made of, as far as it has an index of them."""
    if not (folder / INDEX).is_file() or (folder / "model.safetensors").is_file():
        return []
    return sorted(set(read(folder / INDEX).get("weight_map", {}).values()))


def read(file: Path) -> dict[str, Any]:
    """A JSON file of a model.

    Raises:
        ModelError: if it is none.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.path: {file} must be JSON, but {error}") from None
    if not isinstance(values, dict):
        raise ModelError(f"model.path: {file} must be a JSON object, but is a {type(values).__name__}")
    return values


def _some(names: Sequence[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "") or "no files"
