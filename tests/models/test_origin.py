"""Which base a study has, by its files; what is not the same any more is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from sweeper.config.schema import Config, ModelSection
from sweeper.errors import ModelError, StoreError
from sweeper.models import contents, origin
from sweeper.models.origin import Origin, Source
from sweeper.paths import Home
from sweeper.units import MIB

TINY = Path(str(resources.files("sweeper.models") / "tiny" / "weights"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(TINY, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def section(composed: Callable[..., Config], folder: Path) -> ModelSection:
    return composed("study=demo", "model=hub", f"model.path={folder}").model


def known(section: ModelSection) -> Origin:
    return origin.of_files(section, origin.find(section))


def test_what_a_study_has_is_kept_and_loads_as_it_was(section: ModelSection, home: Home) -> None:
    paths = home.study("demo")
    paths.create()
    assert origin.kept(paths) is None
    assert origin.pinned(section, None) is section
    origin.keep(known(section), paths)
    kept = origin.kept(paths)
    assert kept == known(section)
    assert origin.pinned(section, kept) == section
    assert paths.model.name in paths.known
    paths.model.write_text("{}")
    with pytest.raises(StoreError, match=r"must be JSON as it was written, but .*model\.json"):
        origin.kept(paths)


def test_a_copy_is_the_same_and_notes_beside_it_do_not_count(section: ModelSection, folder: Path) -> None:
    was = known(section)
    shutil.copytree(folder, folder.with_name("moved"))
    for name in ("README.md", "notes.txt", "trainer_state.json"):
        (folder.with_name("moved") / name).write_text("mine")
    moved = section.model_copy(update={"path": str(folder.with_name("moved"))})
    assert origin.pinned(moved, was) == moved


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), r"config\.json \(719 bytes, now 2\)"),
        (lambda folder: flip(folder / "model.safetensors", 10**6), r"model\.safetensors \(other content\)"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json \(gone\)"),
        (lambda folder: (folder / "added_tokens.json").write_text("{}"), r"added_tokens\.json \(new\)"),
    ],
)
def test_a_base_that_changed_is_refused(
    section: ModelSection, folder: Path, change: Callable[[Path], object], expected: str
) -> None:
    was = known(section)
    change(folder)
    with pytest.raises(
        ModelError, match=rf"begun with, .*/base, but in .*/base it differs in {expected}; put that back"
    ):
        origin.pinned(section, was)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_large_weights_are_known_by_parts_of_them(section: ModelSection, folder: Path) -> None:
    """Another training of the same shapes differs everywhere; 16 GB need not be read to see it."""
    file = folder / "model.safetensors"
    marks = []
    for byte in (b"\0", b"\1"):
        with file.open("wb") as opened:
            opened.truncate(80 * MIB)  # sparse: takes no room
            opened.seek(-1, 2)
            opened.write(byte)
        marks.append(known(section).files[file.name])
    assert marks[0] != marks[1]


def test_a_base_from_elsewhere_is_another_one(section: ModelSection, composed: Callable[..., Config]) -> None:
    of_hub = Origin("hub", "acme/tiny", 1, commit="a" * 40)
    with pytest.raises(
        ModelError, match=r"begun with, acme/tiny at commit a+, but the one that there is now is the folder"
    ):
        origin.pinned(section, of_hub)
    on_hub = composed("study=demo", "model=hub", "model.path=acme/tiny").model
    with pytest.raises(ModelError, match="the one that there is now is on the Hub"):
        origin.pinned(on_hub, known(section))
    assert origin.pinned(on_hub, of_hub).revision == "a" * 40


def test_a_study_of_the_hub_stays_there_when_a_package_has_the_model_too(
    composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    section = composed("study=demo", "model=smollm2-135m").model
    of_hub = Origin("hub", "HuggingFaceTB/SmolLM2-135M-Instruct", 1, commit="a" * 40)
    (tmp_path / "smol.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(origin, "_packaged_gguf", lambda package: tmp_path / "smol.gguf")
    assert origin.find(section) == Source("gguf", tmp_path / "smol.gguf")
    assert origin.find(origin.pinned(section, of_hub)) == Source("hub", None)
    packaged = known(section)
    assert (packaged.kind, packaged.path, packaged.size_bytes) == ("gguf", "smol.gguf", 4)
    monkeypatch.setattr(origin, "_packaged_gguf", lambda package: None)
    with pytest.raises(ModelError, match=r"begun with, smol\.gguf, but the one that there is now is on the Hub"):
        origin.pinned(section, packaged)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "model-00001-of-00001.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "consolidated.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["pytorch_model.bin"], []),
    ],
)
def test_which_weights_are_read(names: list[str], expected: list[str]) -> None:
    assert origin.weights_of(names) == expected
    assert origin.read_of([*names, "README.md", "config.json", "original/params.json", ".gitattributes"]) == [
        "config.json",
        *expected,
    ]


def test_code_of_another_repository_is_refused_for_no_commit_pins_it() -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    config = {"model_type": "novel", "auto_map": {"AutoConfig": "acme/code--modeling.Config"}}
    reason = contents.refusal("acme/novel", names, config, is_code_trusted=True)
    assert reason is not None
    assert "that of acme/novel is in acme/code" in reason
    assert contents.refusal("acme/novel", names, {"auto_map": {"AutoConfig": "modeling.Config"}}, True) is None


def test_each_packaged_file_has_a_conversion_of_its_own(tmp_path: Path) -> None:
    files = [tmp_path / name / "model.gguf" for name in "abc"]
    for file, content in zip(files, (b"one", b"two", b"one"), strict=True):
        file.parent.mkdir()
        file.write_bytes(content)
    one, two, again = (origin.conversion(file, "small", tmp_path) for file in files)
    assert one == again != two
    assert one.name.startswith("small-")
