"""The model of an exported folder, ready to write: the base as it was trained on with its adapter, or a whole model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeper.config.schema import ModelSection
from sweeper.config.teaching import PromptSection
from sweeper.data.chat import Chat
from sweeper.errors import ExportError
from sweeper.exporting.formats import ADAPTER
from sweeper.models import base
from sweeper.paths import Home
from sweeper.serving.base import pinned_base


@dataclass(frozen=True)
class Loaded:
    """A model and what it reads and writes with.

    Attributes:
        end: the token that ends an answer.
        lead: the white space that the chat template writes before an answer.
    """

    model: Any
    tokenizer: Any
    end: int
    lead: str


def load(folder: Path, manifest: dict[str, Any], home: Home) -> Loaded:
    """Loads a folder whose manifest and files were checked.

    Raises:
        ModelError: if the base is not there, or is another one.
        ExportError: if the folder cannot be loaded.
    """
    from transformers import GenerationConfig

    tokenizer, chat = load_tokenizer(folder, manifest)
    device = base.pick_device("auto")
    if manifest["format"] == ADAPTER:
        model: Any = base.load_base(pinned_base(manifest), home, device)
        own = model
        model = _with_adapter(model, folder)
    else:
        own = model = _whole(folder, manifest, device)
    # Requests take their defaults from here, and a base's own may sample, or penalise repetition.
    own.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=[chat.end], pad_token_id=tokenizer.pad_token_id
    )
    return Loaded(model.eval(), tokenizer, chat.end, chat.lead)


def load_tokenizer(folder: Path, manifest: dict[str, Any]) -> tuple[Any, Chat]:
    """The tokenizer of a folder, with a chat template that renders as the study did, and the chat of the study."""
    from transformers import AutoTokenizer

    remote = ModelSection.model_validate(manifest["model"]).trust_remote_code
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=remote)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExportError(
            f"{folder} must have the tokenizer that was exported, but it cannot be loaded: {error}"
        ) from error
    chat = Chat(tokenizer, _untemplated(PromptSection.model_validate(manifest["prompt"])))
    if not chat.has_template:
        tokenizer.chat_template = chat.exported
    return tokenizer, chat


def _untemplated(prompt: PromptSection) -> PromptSection:
    """The study's template is the tokenizer's own by now, with its arguments written into it."""
    return prompt.model_copy(update={"chat_template": None, "chat_template_kwargs": {}})


def _with_adapter(model: Any, folder: Path) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        adapted: Any = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{folder} must have an adapter for its base, but PEFT refuses it: {error}") from error
    adapted.requires_grad_(False)
    return adapted


def _whole(folder: Path, manifest: dict[str, Any], device: torch.device) -> Any:
    """A model that the adapter was merged into; a quantised one says so in its own configuration."""
    from transformers import AutoModelForCausalLM

    section = ModelSection.model_validate(manifest["model"])
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=base.compute_dtype(section, device),
            device_map={"": str(device)},
            trust_remote_code=section.trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExportError(f"{folder} must be a model that transformers loads, but it refuses: {error}") from error
    base.freeze(model)
    base.compute_in(model, base.compute_dtype(section, device))
    return model
