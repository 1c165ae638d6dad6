"""Where a base is read from, and its tokenizer: all that is known of it without the libraries that compute with it."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from sweeper.config.schema import ModelSection
from sweeper.errors import ModelError
from sweeper.models import origin
from sweeper.paths import Home


def source_of(section: ModelSection, home: Home) -> str:
    """The folder or Hub id that the model is loaded from; converts a packaged GGUF file on first use.

    Raises:
        ModelError: if a bundled model or a folder does not exist.
    """
    found = origin.find(section)
    if found.kind == "gguf":
        assert found.path is not None
        return str(_converted(found.path, origin.conversion(found.path, section.name, home.models)))
    return str(found.path or section.path)


def load_tokenizer(section: ModelSection, home: Home) -> Any:
    """The model's tokenizer; pads with the end token where it has no padding token.

    Raises:
        ModelError: if it cannot be found.
    """
    with mapped(section):
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source_of(section, home), revision=section.revision, trust_remote_code=section.trust_remote_code
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _converted(file: Path, folder: Path) -> Path:
    """`file` as a folder of safetensors, converted once: GGUF weights would stay packed and slow."""
    if (folder / origin.CONFIG).is_file():
        return folder
    origin.require_gguf(file)
    import torch  # as here alone, where weights are read
    from transformers import AutoModelForCausalLM, GgufConfig

    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    with without_progress():
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not (folder / origin.CONFIG).is_file():  # else another process was first; it appears whole
                raise
    finally:  # half of one would only fill the disk
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def mapped(section: ModelSection) -> Any:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"model.path: {section.path!r} could not be loaded ({type(error).__name__}: {error}). It must be a folder "
            "with a transformers model, or a Hub id that is reachable or cached; model=tiny needs neither"
        ) from error


@contextmanager
def without_progress() -> Any:
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
