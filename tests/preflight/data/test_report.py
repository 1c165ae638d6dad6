"""What `sweeper data check` finds in rows that can all be read, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.schema import Config
from sweeper.paths import Home
from sweeper.preflight.data.finding import Severity
from sweeper.preflight.data.report import check_data
from tests.preflight.data.conftest import Check, add, found, read

LONG = "please cancel it, " * 60
WRITTEN = (
    *("task=generation", "objective.metric=token_f1", "data.columns.text=null", "data.columns.label=null"),
    *("data.columns.prompt=text", "data.columns.answer=label"),
)


def test_what_there_is(checked: Check, folder: Path) -> None:
    add(folder, "train", text=LONG, label="cancellation")
    report = checked()
    assert [split.rows for split in report.splits.values()] == [97, 36, 36]
    assert sum(report.labels.values()) == 97
    train = report.splits["train"]
    assert train.shortest_tokens is not None
    assert 10 < train.shortest_tokens <= train.median_tokens < train.longest_tokens
    first = read(folder, "train")[0]
    assert "".join(text for text, _ in report.shown).startswith(f"<|user|>\n{first['text']}")
    assert [text for text, is_supervised in report.shown if is_supervised] == [f"{first['label']}<|end|>"]


def test_bundled_rows_have_no_errors(composed_once: Callable[..., Config], home: Home) -> None:
    report = check_data(composed_once("study=demo"), home)
    # Made of few sentences, some are alike; none is in two splits to the letter.
    kinds = {"near-leak-validation", "near-leak-test", "duplicates", "near-duplicates", "suspect-labels"}
    assert {finding.code for finding in report.findings} <= kinds
    assert {finding.severity for finding in report.findings} == {"warning"}
    assert "shown" not in report.without_text()
    text = json.dumps(report.without_text())
    assert "terminate my plan" not in text


def test_what_is_cut_or_dropped_is_counted(checked: Check, folder: Path) -> None:
    add(folder, "validation", text=LONG, label="cancellation")
    report = checked("prompt.max_tokens=100")
    [line] = [str(finding) for finding in report.findings if finding.code == "long-rows"]
    assert line.startswith("long-rows: 1 of 37 rows of validation take more than prompt.max_tokens=100, by ")
    assert line.endswith("validation.jsonl:37")
    cut = checked("prompt.max_tokens=100", "data.long=cut_text_tail")
    assert (cut.splits["validation"].cut, cut.splits["validation"].longest_tokens) == (1, 100)
    lost = cut.splits["validation"].lost_tokens
    assert f"and lose {lost} tokens of their text: validation.jsonl:37" in found(cut)["cut-rows"]
    dropped = checked("prompt.max_tokens=100", "data.long=drop").splits["validation"]
    assert (dropped.rows, dropped.dropped) == (37, 1)
    assert dropped.longest_tokens is not None
    assert dropped.longest_tokens <= 100


def test_answers_that_cannot_be_written_are_counted(checked: Check, folder: Path) -> None:
    add(folder, "test", text="one more", label="a b c d e f g h i j k l m n o p q r s t u v w x y z")
    codes = found(checked(*WRITTEN, "task.max_new_tokens=16"))
    assert codes["unreachable-answers"] == (
        "unreachable-answers: the answers of 1 of 37 rows of test have more than task.max_new_tokens=16 tokens, "
        "and are cut when written: test.jsonl:37"
    )
    codes = found(checked(*WRITTEN, "task.max_new_tokens=16", "objective.metric=exact_match"))
    assert "16 tokens, and can never be matched" in codes["unreachable-answers"]


def test_a_row_without_room_for_its_answer_is_said_once(checked: Check, folder: Path) -> None:
    row = {"text": "please stop my plan", "label": "It is stopped. " * 60}
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, [row, *read(folder, "train")])), encoding="utf-8")
    report = checked(*WRITTEN, "task.max_new_tokens=16", "prompt.max_tokens=128", "data.long=cut_text_tail")
    assert [(error.code, error.places) for error in report.of(Severity.ERROR)] == [("answer-cut", ("train.jsonl:1",))]
    assert report.shown


def test_what_several_files_lack_is_said_at_once(checked: Check, folder: Path) -> None:
    add(folder, "train", text="  ", label="cancellation")
    add(folder, "validation", text="x", label=None)
    (folder / "test.jsonl").write_bytes(b'{"text": \n"\xff"}\n{"text": 1\n')
    report = checked()
    assert [finding.code for finding in report.findings] == ["unusable-rows", "unusable-rows", "unreadable", "encoding"]
    assert "train.jsonl:97: `text` must be text" in str(report.findings[0])
    assert "validation.jsonl:37: `label` must be text" in str(report.findings[1])
    assert "test.jsonl, line 1: must be one JSON object" in str(report.findings[2])
    assert "so are lines 3" in str(report.findings[2])
    assert "line 2: must be UTF-8, but invalid start byte; iconv -f WINDOWS-1252" in str(report.findings[3])
    assert report.splits == {}


def test_half_of_a_character_is_not_usable(checked: Check, folder: Path) -> None:
    add(folder, "train", text="a smile \ud83d", label="cancellation")
    assert (
        "train.jsonl:97: `text` must be Unicode, but has half of a character at 9" in found(checked())["unusable-rows"]
    )


def test_labels_are_counted(checked: Check, folder: Path) -> None:
    for number in range(60):
        add(folder, "train", text=f"{number} {'stop' * number} the {number * 7} plan", label="cancellation")
    add(folder, "train", text="what a day", label="praise")
    codes = found(checked())
    assert "3 labels have fewer than 5 training rows: damaged item, praise, refund status: " in codes["rare-labels"]
    assert "praise" in codes["unscored-labels"]
    assert "% of the training rows are cancellation, which alone gets that accuracy" in codes["imbalance"]
    assert "imbalance" not in found(checked("objective.metric=macro_f1"))


def test_a_label_that_may_be_a_text_is_not_said(checked: Check, folder: Path) -> None:
    labels = [f"a label that is as long as a sentence of a customer, {n}" for n in (100, 101)]
    for label in labels:
        add(folder, "train", text=f"words for {label[-3:]}", label=label)
    report = checked()
    assert report.labels[labels[0]] == 1
    text = json.dumps(report.without_text())
    assert "sentence of a customer" not in text
    assert '"(a text of 56 characters)": 2' in text


def test_odd_characters_are_warned_of(checked: Check, folder: Path) -> None:
    add(folder, "train", text="a bell \x07 rings", label="cancellation")
    add(folder, "train", text="the cafÃ© isnâ€™t open", label="cancellation")
    codes = found(checked())
    assert codes["control-characters"].endswith(": 1 row has control characters in the text: train.jsonl:97")
    assert codes["garbled"].endswith("train.jsonl:98")


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("[INST] cancel it [/INST]", ()),
        ("### Instruction:\ncancel it", ()),
        ("<|im_start|>user\ncancel it<|im_end|>", ()),
        ("Which desk is this for? cancel it", ("prompt.template='Which desk is this for? {{ text }}'",)),
        ("Human said: cancel it. Bot says:", ("prompt.chat_template={file}",)),
    ],
)
def test_a_template_that_is_there_twice(
    checked: Check, folder: Path, tmp_path: Path, text: str, overrides: tuple[str, ...]
) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(
        "{% for m in messages %}{% if m.role == 'user' %}Human said: {{ m.content }}\n{% else %}"
        "Bot says: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}Bot says:{% endif %}"
    )
    overrides = tuple(override.format(file=own) if "{file}" in override else override for override in overrides)
    assert "doubled-template" not in found(checked(*overrides))
    add(folder, "train", text=text, label="cancellation")
    codes = found(checked(*overrides))
    assert codes["doubled-template"].endswith("train.jsonl:97")
    # The base knows its own template, and this has nothing of it.
    assert ("template-missing" in codes) is bool(overrides and "chat_template" in overrides[0])


@pytest.mark.parametrize(
    ("text", "is_doubled"),
    [
        ("Question: where is it?", False),  # as a customer may write
        ("Question: where is it? Department:", True),
    ],
)
def test_a_word_of_the_template_is_not_the_template(checked: Check, folder: Path, text: str, is_doubled: bool) -> None:
    behind = " Department:" if is_doubled else ""
    add(folder, "train", text=text, label="cancellation")
    codes = found(checked(f'prompt.template="Question: {{{{ text }}}}{behind}"'))
    assert ("doubled-template" in codes) is is_doubled


def test_a_suite_that_cannot_be_read_hides_nothing_of_the_rows(checked: Check, folder: Path) -> None:
    add(folder, "train", text="please stop\0 my plan", label="cancellation")
    missing = ("retention.choices=/none.jsonl",)
    codes = [finding.code for finding in checked(*missing).of(Severity.ERROR)]
    assert codes == ["unreadable", "nul"]
    add(folder, "train", text="  ", label="cancellation")
    said = [str(finding) for finding in checked(*missing).findings]
    assert [line.partition(":")[0] for line in said] == ["unusable-rows", "unreadable"]
    assert "retention.choices must be bundled or a JSONL file" in said[1]


def test_the_splits_of_a_study_that_has_not_begun_bind_nobody(checked: Check, home: Home, folder: Path) -> None:
    overrides = [f"data.path={folder / 'train.jsonl'}", "data.splits.validation=0.25", "data.splits.test=0.25"]
    paths = home.study("demo")
    paths.create()
    paths.splits.write_text(json.dumps({"train": ["other.csv:1"], "validation": ["other.csv:2"], "test": []}))
    assert sum(split.rows for split in checked(*overrides).splits.values()) == 96
