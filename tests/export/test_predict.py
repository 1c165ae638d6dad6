"""What a folder answers, in each of its formats, and how probable each label is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

from sweeper.errors import DataError, ExportError
from sweeper.exporting import merged as merging
from sweeper.exporting.manifest import MANIFEST
from sweeper.exporting.predict import Exported, Predictor
from sweeper.models import base, copies
from sweeper.paths import Home
from tests.conftest import trial_params
from tests.export.conftest import LABELS, Export

TEXTS = ["where is my parcel", "cancel it, please", "i want my money back", "the app closes by itself", "hello"]
ROWS = [{"text": text} for text in TEXTS]


def test_the_probabilities_of_all_labels_add_up_to_1(labelling: Path, home: Home) -> None:
    predictor = Predictor.load(labelling, home, weighs=True)
    prompts = predictor.prompts(ROWS)
    plain, weighed = predictor.answer(prompts), predictor.answer(prompts, weighs=True)
    for answer, with_labels in zip(plain, weighed, strict=True):
        assert with_labels.text == answer.text
        assert with_labels.probability == pytest.approx(answer.probability, rel=1e-4)
        assert with_labels.by_label is not None
        assert list(with_labels.by_label) == LABELS
        assert with_labels.by_label[answer.text] == with_labels.probability
        assert sum(with_labels.by_label.values()) == pytest.approx(1, abs=1e-12)
    assert answer.by_label is None
    assert predictor.predict(ROWS) == [answer.text for answer in plain]


def test_a_merged_folder_answers_as_its_adapter_does(unquantised: Path, merged: Path, home: Home) -> None:
    before, after = Predictor.load(unquantised, home), Predictor.load(merged, home)
    assert before.prompts(ROWS) == after.prompts(ROWS)
    assert after.pack.slots == []
    assert after.pack.model.dtype is torch.float32
    answers = [one.answer(one.prompts(ROWS), weighs=True) for one in (before, after)]
    for one, other in zip(*answers, strict=True):
        assert one.text == other.text
        assert other.by_label == pytest.approx(one.by_label, rel=1e-3)
    assert len({answer.text for answer in answers[0]}) > 1  # or it would be a weak comparison


def test_a_quantised_copy_of_the_base_answers_and_merges_as_the_base_does(
    labelling: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = Exported.read(labelling, False).base()

    def of(name: str) -> tuple[object, object, bytes]:
        predictor = Predictor.load(labelling, home, weighs=True)
        digests = merging.write(tmp_path / name, labelling, trial_params(rank=8), section, home, "cpu")
        written = (tmp_path / name / "config.json").read_bytes()
        return predictor.answer(predictor.prompts(ROWS), weighs=True), digests, written

    alone = of("alone")
    monkeypatch.setattr(copies, "WORTH_VALUES", 1)
    base.load_base(section, home, torch.device("cpu"), spare_bytes=0)
    monkeypatch.setattr(base, "_from_source", None)
    assert of("copied") == alone


def test_a_merged_folder_in_4_bits_computes_as_the_study_does(merged_4bit: Path, home: Home) -> None:
    predictor = Predictor.load(merged_4bit, home)
    layers = [module for module in predictor.pack.model.modules() if isinstance(module, Linear4bit)]
    assert {layer.compute_dtype for layer in layers} == {torch.float32}  # though it was quantised for bfloat16
    assert predictor.pack.model.dtype is torch.float32
    answers = predictor.answer(predictor.prompts(ROWS), weighs=True)
    assert all(sum((answer.by_label or {}).values()) == pytest.approx(1) for answer in answers)
    tokens = torch.tensor([predictor.prompts(ROWS)[0]])
    plain = AutoModelForCausalLM.from_pretrained(merged_4bit)  # computes in bfloat16, which has three digits
    with torch.no_grad():
        own, theirs = (
            model(input_ids=tokens).logits[0, -1].float().softmax(0) for model in (predictor.pack.model, plain)
        )
    assert float((own - theirs).abs().sum()) < 0.1


def test_files_that_somebody_adds_are_nobodys_business(merged: Path, home: Home, tmp_path: Path) -> None:
    folder = shutil.copytree(merged, tmp_path / "own")
    (folder / "README.md").write_text("mine")
    (folder / "LICENSE").write_text("mine too")
    Predictor.load(folder, home)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ExportError, match=r"must be as they were exported, but changed: tokenizer_config\.json"):
        Predictor.load(folder, home)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="is not a whole export"):
        Predictor.load(folder, home)


def test_a_format_of_a_later_sweeper_is_refused(labelling: Path, home: Home, tmp_path: Path) -> None:
    folder = shutil.copytree(labelling, tmp_path / "own")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": "onnx"}))
    with pytest.raises(
        ExportError, match=r"unknown format `onnx`.* Known: adapter, gguf, merged, merged-4bit\. Use the"
    ):
        Predictor.load(folder, home)
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": "gguf"}))
    with pytest.raises(ExportError, match="a GGUF file is for llama"):
        Predictor.load(folder, home)
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(ExportError, match="is not a whole export"):
        Predictor.load(folder, home)


def test_a_row_that_lacks_its_text_is_named(labelling: Path, home: Home) -> None:
    predictor = Predictor.load(labelling, home)
    with pytest.raises(DataError, match=r"row 2: must have the column `text`, but has txt, n$"):
        predictor.prompts([*ROWS[:1], {"txt": "x", "n": 1}])
    with pytest.raises(DataError, match=r"own\.csv:7: `text` must be text, but got a number"):
        predictor.prompts([{"text": 3}], ["own.csv:7"])


def test_written_answers_have_a_probability_and_no_labels(export_of: Export, home: Home) -> None:
    folder = export_of(
        "task=generation", "task.max_new_tokens=3", "data=files", "data.path=/nowhere",
        "data.columns.question=question", "data.columns.context=context", "data.columns.answers=answers",
    )  # fmt: skip
    predictor = Predictor.load(folder, home)
    assert predictor.text_column is None  # a text alone is no question with its context
    rows = [{"question": "who?", "context": "it was me"}]
    [answer] = predictor.answer(predictor.prompts(rows))
    assert 0 < (answer.probability or 0) <= 1
    with pytest.raises(DataError, match="row 1: must have the column `context`, but has question"):
        predictor.prompts([{"question": "who?"}])
    with pytest.raises(ExportError, match="--probabilities: needs a task that chooses among labels"):
        Predictor.load(folder, home, weighs=True)


def test_code_of_a_models_repository_runs_only_where_that_is_said(labelling: Path, home: Home, tmp_path: Path) -> None:
    folder = shutil.copytree(labelling, tmp_path / "own")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["model"]["trust_remote_code"] = True
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="look at it, and say --trust-code"):
        Predictor.load(folder, home)
    assert Predictor.load(folder, home, trusts_code=True).predict(ROWS[:1])
