"""Exported folders in each format, over the tiny base; their adapter is of random weights, so nothing is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.engine import adapter
from sweeper.engine.pack import Pack
from sweeper.exporting.manifest import CONFIG, MANIFEST, write_manifest
from sweeper.exporting.tokenizer import write_tokenizer
from sweeper.models import base
from sweeper.models.source import source_of
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.trial import Rhythm
from tests.conftest import trial_params

LABELS = ["cancel order", "cancel subscription", "return", "refund", "refund status", "delivery", "other"]
Export = Callable[..., Path]


def manifest_of(config: Config, labels: list[str]) -> dict[str, Any]:
    return {
        "format": "adapter",
        "study": "demo",
        "trial": 0,
        "dtype": "float32",
        "model": config.model.model_dump(mode="json"),
        "prompt": config.prompt.model_dump(mode="json"),
        "task": config.task.model_dump(mode="json"),
        "long": config.data.long,
        "columns": config.data.columns.model_dump(mode="json"),
        "labels": labels,
        "data_sha256": "",
        "lora": trial_params(rank=8).model_dump(mode="json"),
    }


@pytest.fixture(scope="session")
def export_of(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports an adapter that nobody trained, with the study's settings as overrides."""
    made: dict[tuple[str, ...], Path] = {}

    def write(*overrides: str) -> Path:
        if overrides in made:
            return made[overrides]
        folder, home = tmp_path_factory.mktemp("export"), Home(tmp_path_factory.mktemp("store"))
        configs: list[Config] = []
        compose.main(["study=demo", f"store.home={home.root}", *overrides], configs.append)
        [config] = configs
        model = base.load_base(config.model, home, torch.device("cpu"))
        names = linear_names(model)
        pack, params = Pack(model, names, [], pad=0, chunk_tokens=64), trial_params(rank=8)
        slot, state = pack.new_slot(0, params, Rhythm(interval_examples=1, evaluations=1, batch_size=1), seed=0)
        generator = torch.Generator().manual_seed(3)
        for tensor in state.tensors["weight"].values():
            tensor.normal_(std=0.05, generator=generator)
        del slot
        adapter.write(folder / "out", state, params, source_of(config.model, home), names)
        labels = [] if config.task.name != "classification" else LABELS
        chat = write_tokenizer(folder / "out", config.model, config.prompt, home)
        write_manifest(folder / "out", {**manifest_of(config, labels), "answer": {"end": chat.end, "lead": chat.lead}})
        return made.setdefault(overrides, folder / "out")

    return write


def merged_of(folder: Path, to: Path, dtype: torch.dtype, is_4bit: bool) -> Path:
    """The export as one model: merged in 16 bits, and quantised after that where it is to be."""
    manifest = json.loads((folder / MANIFEST).read_text())
    source = json.loads((folder / CONFIG).read_text())["base_model_name_or_path"]
    whole = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    merged = PeftModel.from_pretrained(whole, str(folder)).merge_and_unload().to(dtype)
    merged.save_pretrained(to)
    if is_4bit:
        config = base.quantization(torch.bfloat16)
        AutoModelForCausalLM.from_pretrained(to, dtype=dtype, quantization_config=config).save_pretrained(to)
    AutoTokenizer.from_pretrained(folder).save_pretrained(to)
    manifest["format"] = "merged-4bit" if is_4bit else "merged"
    manifest["sha256"] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in to.iterdir()}
    (to / MANIFEST).write_text(json.dumps(manifest))
    return to


@pytest.fixture(scope="session")
def labelling(export_of: Export) -> Path:
    """An export that chooses among `LABELS`."""
    return export_of()


@pytest.fixture(scope="session")
def unquantised(export_of: Export) -> Path:
    """The same over a base that was not quantised."""
    return export_of("model.quant=none")


@pytest.fixture(scope="session")
def merged(unquantised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That export merged, in float32, which loses nothing."""
    return merged_of(unquantised, tmp_path_factory.mktemp("merged"), torch.float32, is_4bit=False)


@pytest.fixture(scope="session")
def merged_4bit(unquantised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That export merged in bfloat16, and quantised."""
    return merged_of(unquantised, tmp_path_factory.mktemp("merged-4bit"), torch.bfloat16, is_4bit=True)
