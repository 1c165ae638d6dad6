"""A GGUF base, converted on first use; of the libraries that read and write it, stand-ins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from sweeper.config.schema import Config
from sweeper.errors import ModelError
from sweeper.models import origin, source
from sweeper.paths import Home


class Loaded:
    """A model or a tokenizer that writes one file."""

    file = ""
    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    @classmethod
    def from_pretrained(cls, *_: object, **__: object) -> Loaded:
        return cls()

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.file).write_text("mine")
        type(self).meanwhile()


class Model(Loaded):
    file = origin.CONFIG


class Tokenizer(Loaded):
    file = "tokenizer.json"


@pytest.fixture
def convert(
    home: Home, tmp_path: Path, composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Path], object]], Path]:
    """Converts while another process does something with the folder."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    section = composed("study=demo").model
    folder = origin.conversion(file, section.name, home.models)
    monkeypatch.setattr(origin, "find", lambda _: origin.Source("gguf", file))
    monkeypatch.setattr(origin, "require_gguf", lambda _: None)
    monkeypatch.setattr(transformers, "AutoModelForCausalLM", Model)
    monkeypatch.setattr(source, "AutoTokenizer", Tokenizer)

    def make(meanwhile: Callable[[Path], Any]) -> Path:
        monkeypatch.setattr(Tokenizer, "meanwhile", staticmethod(lambda: meanwhile(folder)))
        with source.mapped(section):
            assert source.source_of(section, home) == str(folder)
        return folder

    return make


def test_what_another_process_converted_meanwhile_is_taken(convert: Callable[..., Path]) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / origin.CONFIG).write_text("theirs")

    folder = convert(write)
    assert (folder / origin.CONFIG).read_text() == "theirs"
    assert list(folder.parent.iterdir()) == [folder]  # nothing half is left
    shutil.rmtree(folder)
    assert (convert(lambda _: None) / origin.CONFIG).read_text() == "mine"


def test_what_is_no_conversion_is_not_taken(convert: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="could not be loaded"):
        convert(lambda folder: folder.write_text("in the way"))
