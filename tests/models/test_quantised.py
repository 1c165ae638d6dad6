"""A base from its quantised copy is the base that was quantised, to the bit; and a copy that is not whole is none."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.config.schema import Config, ModelSection
from sweeper.engine.pack import Pack
from sweeper.errors import ModelError
from sweeper.models import base, copies, quantised
from sweeper.models.source import source_of
from sweeper.models.targets import linear_names
from sweeper.paths import Home
from sweeper.trial import Rhythm
from tests.conftest import random_examples, small_model, trial_params
from tests.engine.test_architectures import ARCHITECTURES, COMMON

Compose = Callable[..., Config]
CPU = torch.device("cpu")
Usage = type(shutil.disk_usage("/"))


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Keeps copies of bases of any size; says what was logged since it was asked last."""
    monkeypatch.setattr(copies, "WORTH_VALUES", 1)
    caplog.set_level(logging.INFO, "sweeper.models.quantised")

    def text() -> str:
        found = "\n".join(record.getMessage() for record in caplog.records if record.name == quantised.__name__)
        caplog.clear()
        return found

    return text


@pytest.fixture
def section(composed_once: Compose) -> ModelSection:
    return composed_once("study=demo").model


def kept(home: Home) -> list[Path]:
    return sorted(path for path in home.models.iterdir() if path.is_dir())


def state_of(model: Any) -> dict[str, Any]:
    """All that a model computes with, in a form that compares bit by bit."""

    def of(tensor: torch.Tensor) -> tuple[Any, ...]:
        whole = tensor.detach().cpu().contiguous()
        return type(tensor), tensor.dtype, tuple(tensor.shape), whole.reshape(-1).view(torch.uint8).numpy().tobytes()

    def scales(state: Any) -> dict[str, Any]:
        found = {name: of(each) if isinstance(each, torch.Tensor) else each for name, each in vars(state).items()}
        return {**found, "state2": scales(state.state2) if state.state2 is not None else None}

    config = model.config.to_dict()
    return {
        "parameters": {name: of(each) for name, each in model.named_parameters()},
        "buffers": {name: of(each) for name, each in model.named_buffers()},
        "scales": {
            name: scales(module.weight.quant_state)
            for name, module in model.named_modules()
            if isinstance(module, Linear4bit)
        },
        "modules": {
            name: (type(module), getattr(module, "compute_dtype", 0)) for name, module in model.named_modules()
        },
        "is_tied": model.get_input_embeddings().weight is model.get_output_embeddings().weight,
        "config": config,
        "generation": model.generation_config.to_dict(),
        "name": model.name_or_path,
        "trains": any(parameter.requires_grad for parameter in model.parameters()),
    }


def losses(model: Any) -> list[tuple[float, float]]:
    """What a few steps lose, and their gradient norms."""
    pack = Pack(model, linear_names(model), random_examples(20), pad=0, chunk_tokens=4096)
    slot, state = pack.new_slot(0, trial_params(), Rhythm(interval_examples=4, evaluations=3, batch_size=4), seed=0)
    pack.admit(slot, state)
    found = [(result.loss, result.grad_norm) for _ in range(3) for result in pack.tick()]
    pack.stack.detach()
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_is_the_base_to_the_bit(
    composed: Compose, home: Home, device: torch.device, dtype: str, said: Callable[[], str]
) -> None:
    wanted = composed("study=demo", f"model.dtype={dtype}").model
    alone = base.load_base(wanted, home, device)
    assert kept(home) == []  # whoever leaves no room for one only reads
    first = base.load_base(wanted, home, device, spare_bytes=0)
    [folder] = kept(home)
    assert f"a quantised copy of the base is in {folder} (" in said()
    second = base.load_base(wanted, home, device)
    assert said() == ""
    assert state_of(alone) == state_of(first) == state_of(second)
    layers = [module for module in second.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 28
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)  # the guard
    assert all(parameter.device.type == device.type for parameter in second.parameters())
    if dtype == "float32":
        assert losses(alone) == losses(second)


def test_a_copy_is_read_instead_of_the_source(
    section: ModelSection, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.load_base(section, home, CPU, spare_bytes=0)
    monkeypatch.setattr(base, "_from_source", None)
    model = base.load_base(section, home, CPU)
    [folder] = kept(home)
    shutil.rmtree(folder)  # nothing of the model is in the file any more
    assert all(parameter.data_ptr() % 16 == 0 for parameter in model.parameters())
    assert model(torch.arange(9)[None]).logits.isfinite().all()


@pytest.mark.parametrize("kind", ["gemma2", "gpt_neox", "opt", "phi3", "qwen3"])
def test_other_architectures(composed_once: Compose, home: Home, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**COMMON, **ARCHITECTURES[kind]})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / kind)
    wanted = composed_once("study=demo").model.model_copy(
        update={"name": kind, "path": str(tmp_path / kind), "dtype": "bfloat16"}
    )
    first = base.load_base(wanted, home, CPU, spare_bytes=0)
    assert kept(home)
    assert state_of(base.load_base(wanted, home, CPU)) == state_of(first)


def test_a_generation_config_that_contradicts_itself(section: ModelSection, home: Home, tmp_path: Path) -> None:
    wanted = small_folder(section, tmp_path)
    settings = {"do_sample": False, "temperature": 0.6, "eos_token_id": 3}
    (tmp_path / "mine" / "generation_config.json").write_text(json.dumps(settings))
    first = base.load_base(wanted, home, CPU, spare_bytes=0)
    assert kept(home)
    assert first.generation_config.temperature == 0.6
    assert state_of(base.load_base(wanted, home, CPU)) == state_of(first)


def small_folder(section: ModelSection, tmp_path: Path, name: str = "mine", seed: int = 0) -> ModelSection:
    small_model(torch.float32, seed).save_pretrained(tmp_path / name)
    return section.model_copy(update={"path": str(tmp_path / name)})


def test_a_large_base_lies_in_several_files(
    section: ModelSection, home: Home, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "SHARD", "600KB")
    first = base.load_base(section, home, CPU, spare_bytes=0)
    [folder] = kept(home)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert state_of(base.load_base(section, home, CPU)) == state_of(first)
    said()
    shards[1].unlink()
    base.load_base(section, home, CPU)
    assert f"{shards[1].name} is not as it was written" in said()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit": (lambda folder: flip(folder / "model.safetensors"), "model.safetensors is not as it was written"),
    "a part": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is not as it was written"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is not as"),
    "settings": (lambda folder: flip(folder / "config.json"), "config.json is not as it was written"),
    "one more": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json is not as"),
    "a folder": (lambda folder: (folder / "more").mkdir(), "it cannot be read: "),
    "no manifest": (lambda folder: (folder / copies.MANIFEST).unlink(), "it has no quantised.json that can be read"),
    "no JSON": (lambda folder: cut(folder / copies.MANIFEST), "it has no quantised.json that can be read"),
    "another": (lambda folder: (folder / copies.MANIFEST).write_text("{}"), "it is a copy of something else"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_said_and_written_again(
    section: ModelSection, home: Home, said: Callable[[], str], damage: str
) -> None:
    first = base.load_base(section, home, CPU, spare_bytes=0)
    [folder] = kept(home)
    said()
    do, expected = DAMAGES[damage]
    do(folder)
    assert state_of(base.load_base(section, home, CPU)) == state_of(first)
    assert f"the quantised copy of the base in {folder} is not used: {expected}" in said()
    base.load_base(section, home, CPU, spare_bytes=0)
    assert f"a quantised copy of the base is in {folder}" in said()
    assert state_of(base.load_base(section, home, CPU)) == state_of(first)
    assert said() == ""
    assert kept(home) == [folder]


def test_a_whole_copy_that_cannot_be_loaded(
    section: ModelSection, home: Home, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = base.load_base(section, home, CPU, spare_bytes=0)
    said()

    def fail(*_: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(quantised, "_loaded", fail)
    assert state_of(base.load_base(section, home, CPU, spare_bytes=0)) == state_of(first)
    assert "cannot be loaded: no such thing" in said()


def test_a_copy_that_is_read_otherwise_than_it_was_written_is_none(
    section: ModelSection, home: Home, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = quantised._save

    def other(model: Any, folder: Path) -> None:
        save(model, folder)
        flip(folder / "model.safetensors")

    monkeypatch.setattr(quantised, "_save", other)
    base.load_base(section, home, CPU, spare_bytes=0)
    assert "is not read as it was written" in said()
    assert kept(home) == []


def test_of_several_writers_one_writes(
    section: ModelSection, home: Home, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on, save = threading.Event(), threading.Event(), quantised._save
    saved: list[Path] = []

    def slow(model: Any, folder: Path) -> None:
        saved.append(folder)
        begun.set()
        assert goes_on.wait(60)
        save(model, folder)

    monkeypatch.setattr(quantised, "_save", slow)
    writer = threading.Thread(target=base.load_base, args=(section, home, CPU, 0))
    writer.start()
    assert begun.wait(60)
    model = base.load_base(section, home, CPU, spare_bytes=0)  # does not wait
    assert "another process is writing one" in said()
    assert kept(home) == []
    goes_on.set()
    writer.join()
    assert state_of(base.load_base(section, home, CPU)) == state_of(model)
    copy = base._copy(section, home, source_of(section, home), torch.float32, CPU)
    assert copy is not None
    quantised.write(base._from_source(section, source_of(section, home), torch.float32, CPU), copy, 0)
    assert len(saved) == 1  # there is one by now


def test_what_a_copy_depends_on(
    section: ModelSection, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder_of(section: ModelSection, dtype: str = "float32", device: str = "cpu", **settings: Any) -> Path:
        copy = copies.of(section, Path(str(section.path)), home.models, {"type": "nf4", **settings}, dtype, device)
        assert copy is not None
        return copy.folder

    one = small_folder(section, tmp_path)
    weights = tmp_path / "mine" / "model.safetensors"
    found = [
        folder_of(one),
        folder_of(one, dtype="bfloat16"),
        folder_of(one, device="cuda"),
        folder_of(one, double=False),
        folder_of(small_folder(section, tmp_path, "other", seed=1)),
    ]
    monkeypatch.setattr(copies, "installed", lambda: {"transformers": "6.0", "bitsandbytes": "1.0", "sweeper": "9"})
    found.append(folder_of(one))
    monkeypatch.undo()
    assert folder_of(one) == found[0]
    before = weights.stat()
    flip(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    found.append(folder_of(one))
    flip(weights)  # of a large file that would not show in the parts that are hashed
    found.append(folder_of(one))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder_of(one) == found[0]
    assert len(set(found)) == len(found)
    assert {path.name.rpartition("-")[0] for path in found} == {"tiny-nf4"}
    shutil.copytree(tmp_path / "mine", tmp_path / "moved")  # times are kept
    assert folder_of(one.model_copy(update={"path": str(tmp_path / "moved")})) == found[0]


def test_what_has_no_copy(section: ModelSection, home: Home, said: Callable[[], str], tmp_path: Path) -> None:
    def of(folder: Path | None, **changes: Any) -> copies.Copy | None:
        return copies.of(section.model_copy(update=changes), folder, home.models, {}, "float32", "cpu")

    hub: dict[str, Any] = {"path": "acme/one"}
    assert of(None, **hub, revision=None) is None  # a branch, which may move
    assert of(None, **hub, revision="main") is None
    assert of(None, **hub, revision="0123abc") is None
    first, second = (of(None, **hub, revision=digit * 40) for digit in "01")
    assert first is not None
    assert second is not None
    assert first.folder != second.folder
    assert of(None, **hub, revision="0" * 40, trust_remote_code=True) is None

    base.load_base(section.model_copy(update={"quant": "none"}), home, CPU, spare_bytes=0)
    assert kept(home) == []
    base.load_base(small_folder(section, tmp_path), home, CPU).save_pretrained(tmp_path / "packed")
    packed = section.model_copy(update={"path": str(tmp_path / "packed")})
    with warnings.catch_warnings(action="ignore"):  # that its own settings are used
        base.load_base(packed, home, CPU, spare_bytes=0)
    assert "it was quantised before" in said()
    assert kept(home) == []


def test_a_small_base_has_none(
    section: ModelSection, home: Home, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    base.load_base(section, home, CPU, spare_bytes=0)
    assert kept(home) == []


def test_a_disk_without_room(
    section: ModelSection, home: Home, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = base.load_base(section, home, CPU, spare_bytes=10**18)
    assert " MiB, and of " in said()
    assert kept(home) == []

    def full(*_: object, **__: object) -> None:
        kept_folder = next(path for path in home.models.iterdir() if path.is_dir())
        assert kept_folder.name.endswith(f".{os.getpid()}")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.serialize_file", full)
    second = base.load_base(section, home, CPU, spare_bytes=0)
    assert "could be kept in " in (words := said())
    assert "No space left on device" in words
    assert kept(home) == []
    assert state_of(first) == state_of(second)


def test_a_store_that_is_not_there_is_only_looked_at(section: ModelSection, tmp_path: Path) -> None:
    base.load_base(section, Home(tmp_path / "nowhere"), CPU)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ModelError, match="there is no folder"):
        base.load_base(section.model_copy(update={"path": "/nowhere"}), Home(tmp_path / "nowhere"), CPU, 0)
