"""What the check finds: an export that answers as it was recorded, and exports that do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sweeper.data.row import Row
from sweeper.errors import ExportError
from sweeper.exporting import parity
from sweeper.exporting.formats import ADAPTER, MERGED_4BIT
from sweeper.exporting.fresh import Source
from sweeper.exporting.parity import Weights
from sweeper.exporting.predict import Predictor
from sweeper.exporting.recorded import Recorded
from sweeper.mistakes.kept import Kept
from sweeper.paths import Home
from sweeper.tasks.resampled import Resampler
from tests.conftest import trial_params
from tests.export.conftest import LABELS, Export

WEIGHTS = "adapter_model.safetensors"
WORDS = ("parcel", "money", "tablet", "password", "invoice", "cat")
TEXTS = [f"please help me with my {word}, it is {number} days now" for word in WORDS for number in range(4)]


def recorded_of(folder: Path, home: Home) -> Recorded:
    """What a study would have recorded of an export: its answers, each of them right."""
    predictor = Predictor.load(folder, home)
    answers = predictor.answer(predictor.prompts([{"text": text} for text in TEXTS]))
    rows = [
        Row(text, answer.text, f"test.jsonl:{place}", {"text": text}, answers=(answer.text or "nothing",))
        for place, (text, answer) in enumerate(zip(TEXTS, answers, strict=True), start=1)
    ]
    metric = "accuracy" if predictor.task.labels else "exact_match"
    return Recorded(
        split="test",
        rows=rows,
        predictions=[
            Kept(
                row=row.place,
                sha256=row.sha256,
                tokens=1,
                prediction=answer.text,
                confidence=answer.probability,
                **predictor.task.judged(row, answer.text),
            )
            for row, answer in zip(rows, answers, strict=True)
        ],
        rendered=predictor.rendered,
        task=predictor.task,
        metric=metric,
        is_minimized=False,
        watch=None,
        forgotten=None,
        resampler=Resampler(predictor.task, metric, rows, 0, is_known=True),
    )


@pytest.fixture(scope="module")
def known(labelling: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recorded_of(labelling, Home(tmp_path_factory.mktemp("home")))


def checked(folder: Path, known: Recorded, intact: Path, form: str = ADAPTER) -> parity.Parity:
    weights = Weights.of_adapter(intact, trial_params(rank=8)) if form == ADAPTER else None
    return parity.check(Source(str(folder)), form, known, weights, lambda _: None, tries_ways=False)


def test_an_export_answers_as_it_was_recorded_and_in_other_ways(labelling: Path, known: Recorded) -> None:
    said: list[str] = []
    weights = Weights.of_adapter(labelling, trial_params(rank=8))
    found = parity.check(Source(str(labelling)), ADAPTER, known, weights, said.append)
    assert found.holds, found.problems
    assert found.rows == len(TEXTS)
    assert found.same >= len(TEXTS) - 1  # its user's process has bitsandbytes' own kernel on
    assert (found.recorded, found.exported) == (1, found.same / len(TEXTS))
    assert found.moved is not None
    assert found.moved < 0.005
    assert sum(text == one for (text, _), one in zip(found.answers, known.texts, strict=True)) == found.same
    assert [(way.rows, way.recorded) for way in found.served] == [(len(TEXTS), 1.0)] * 2
    free, half = found.served
    assert 0 <= free.same < len(TEXTS)  # nobody taught this adapter to write labels
    assert half.same > len(TEXTS) // 2
    assert "24 test rows" in said[0]
    assert "answers" not in found.as_dict()
    assert len({one.prediction for one in known.predictions}) > 2  # or it would be a weak comparison


def test_a_way_of_serving_that_does_not_fit_refuses_nothing(
    labelling: Path, known: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = parity._answered

    def without_room(job: dict[str, Any]) -> dict[str, Any]:
        if job["source"]["quant"] == "none":
            raise ExportError("it ended with 1:\ntorch.OutOfMemoryError: CUDA out of memory.")
        return answered(job)

    monkeypatch.setattr(parity, "_answered", without_room)
    said: list[str] = []
    weights = Weights.of_adapter(labelling, trial_params(rank=8))
    found = parity.check(Source(str(labelling)), ADAPTER, known, weights, said.append)
    assert found.holds
    assert [way.way for way in found.served] == ["greedy decoding without the list of labels"]
    assert said[-1] == "not tried over the base in 16 bits, as published: torch.OutOfMemoryError: CUDA out of memory."


def test_written_answers_are_held_too(export_of: Export, home: Home) -> None:
    columns = ["data=files", "data.path=/nowhere", "data.columns.prompt=text", "data.columns.answer=label"]
    folder = export_of("task=generation", "task.max_new_tokens=6", *columns)
    known = recorded_of(folder, home)
    found = checked(folder, known, folder)
    assert found.holds, found.problems
    assert found.same >= len(TEXTS) - 4  # a text that nobody taught it is soon another one
    assert found.served == ()


def alpha(folder: Path) -> None:
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * 2}))


def weight(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    tensors[name][0, 0] += 1e-6  # which no score would show
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def other_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text("Hello. " + file.read_text())


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (alpha, "the adapter is scaled by 4, but the trial's by 2"),
        (alpha, "have moved by"),
        (weight, "1 of "),
        (no_template, "chat_template"),
        (other_template, "24 of 24 prompts have other tokens than in training"),
        (cut, "must be loaded by transformers and peft alone"),
    ],
)
def test_what_is_damaged_is_refused(
    labelling: Path, known: Recorded, tmp_path: Path, change: Callable[[Path], None], why: str
) -> None:
    folder = shutil.copytree(labelling, tmp_path / "damaged")
    change(folder)
    try:
        problems = "; ".join(checked(folder, known, labelling).problems)
    except ExportError as error:
        problems = str(error)
    assert why in problems


def test_formats_that_round_again_are_held_to_the_metric_alone(
    labelling: Path, known: Recorded, tmp_path: Path
) -> None:
    folder = shutil.copytree(labelling, tmp_path / "moved")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * 1.15}))
    found = checked(folder, known, labelling, MERGED_4BIT)
    assert found.moved is not None
    assert found.moved > parity.MOVED
    assert not [problem for problem in found.problems if "probabilities" in problem]


def test_a_metric_that_is_worse_beyond_noise_is_refused(known: Recorded) -> None:
    others = {label: next(other for other in LABELS if other != label) for label in LABELS}
    found = {
        "answers": [
            (others[one.prediction] if place < 8 else one.prediction, one.confidence)
            for place, one in enumerate(known.predictions)
        ],
        "prompts": parity_prompts(known),
        "likelihoods": [],
        "device": "cpu",
    }
    held = parity._held(known, found, (), None)
    [problem] = held.problems
    assert "accuracy on 24 test rows is" in problem
    few = {**found, "answers": [(one.prediction, one.confidence) for one in known.predictions]}
    few["answers"][0] = found["answers"][0]
    assert parity._held(known, few, (), None).holds  # one of 24 is noise
    cost = replace(known, is_minimized=True)
    assert parity._held(cost, found, (), None).holds  # where less is better, that is no loss


def parity_prompts(known: Recorded) -> list[str]:
    from sweeper.exporting.fresh import fingerprint

    chat = known.rendered.chat
    return [fingerprint(chat.prompt(known.rendered.messages(row))) for row in known.rows]


@pytest.mark.gpu
def test_an_export_answers_as_it_was_recorded_on_a_card(labelling: Path, home: Home) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    known, weights = recorded_of(labelling, home), Weights.of_adapter(labelling, trial_params(rank=8))
    found = parity.check(Source(str(labelling), dtype="bfloat16"), ADAPTER, known, weights, lambda _: None)
    assert found.device.startswith("cuda")
    assert found.holds, found.problems
