"""What must reach no model: planted in rows, named by `sweeper data check`, and refused by a launch before a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sweeper.cli.main import main
from sweeper.config.schema import Config
from sweeper.errors import DataError
from sweeper.launching import launcher
from sweeper.paths import Home
from sweeper.tracking.tracker import STUDY
from sweeper.worker.session import Session
from tests.conftest import SHORT
from tests.memory_tracker import MemoryTracker
from tests.preflight.data.conftest import add, folder, read

__all__ = ["folder"]  # a fixture

Plant = Callable[[Path], None]


def leak(at: Path) -> None:
    add(at, "test", **read(at, "train")[0])


def flipped_label(at: Path) -> None:
    row = read(at, "train")[0]
    add(at, "train", text=row["text"], label=next(r["label"] for r in read(at, "train") if r["label"] != row["label"]))


def doubled_template(at: Path) -> None:
    add(at, "train", text="[INST] please stop my plan [/INST]", label="cancellation")


def special_tokens(at: Path) -> None:
    text = "<|user|>\nplease stop my plan<|end|>\n<|assistant|>\n"
    add(at, "train", text=text, label="cancellation")


def answer_without_room(at: Path) -> None:
    add(at, "train", text="please stop my plan", label="It is stopped. " * 60)


def one_class(at: Path) -> None:
    for split in ("train", "validation", "test"):
        lines = [json.dumps({**row, "label": "billing error"}) for row in read(at, split)]
        (at / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def utf_16(at: Path) -> None:
    file = at / "train.jsonl"
    file.write_bytes(file.read_text(encoding="utf-8").encode("utf-16"))


def utf_16_csv(at: Path) -> None:
    lines = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in read(at, "test"))]
    (at / "test.csv").write_bytes("\n".join(lines).encode("utf-16-le"))  # without a mark
    (at / "test.jsonl").unlink()


def huge_row(at: Path) -> None:
    add(at, "train", text="x" * 100_000, label="cancellation")


def nuls(at: Path) -> None:
    add(at, "train", text="please stop\0 my plan", label="cancellation")


def nuls_in_the_file(at: Path) -> None:
    with (at / "validation.jsonl").open("ab") as file:
        file.write(b"\n" + b"\0" * 64 + b"\n")


WRITTEN = (
    *("task=generation", "task.max_new_tokens=16", "prompt.max_tokens=128", "objective.metric=token_f1"),
    *("data.columns.text=null", "data.columns.label=null", "data.columns.prompt=text", "data.columns.answer=label"),
)
# What is planted, the code and the place that it is named by, and what is set.
PLANTED: list[tuple[Plant, str, str, tuple[str, ...]]] = [
    (leak, "leak-test", "test.jsonl:37", ()),
    (flipped_label, "contradictions", "train.jsonl:1, train.jsonl:97", ()),
    (doubled_template, "doubled-template", "train.jsonl:97", ()),
    (special_tokens, "special-token", "train.jsonl:97", ()),
    (answer_without_room, "answer-cut", "train.jsonl:97", (*WRITTEN, "data.long=cut_text_tail")),
    (one_class, "one-class", "only billing error", ()),
    (utf_16, "encoding", "train.jsonl: must be UTF-8, but is UTF-16; iconv -f UTF-16", ()),
    (utf_16_csv, "encoding", "test.csv: must be UTF-8, but is UTF-16LE; iconv -f UTF-16LE", ()),
    (huge_row, "huge-row", "train.jsonl:97", ("data.long=cut_text_tail",)),
    (nuls, "nul", "train.jsonl:97", ()),
    (nuls_in_the_file, "nul", "validation.jsonl, line 37: must be text, but has NULs", ()),
]


@pytest.mark.parametrize(("plant", "code", "place", "overrides"), PLANTED, ids=[case[0].__name__ for case in PLANTED])
def test_what_is_planted_is_named_and_reaches_no_model(
    composed_once: Callable[..., Config],
    home: Home,
    folder: Path,
    plant: Plant,
    code: str,
    place: str,
    overrides: tuple[str, ...],
) -> None:
    given = [*SHORT, f"data.path={folder}", *overrides]
    plant(folder)
    result = CliRunner().invoke(main, ["data", "check", *given], catch_exceptions=False)
    assert result.exit_code == 1, result.output
    # Once, and as nothing else.
    [line] = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {code}: ")
    assert place in line

    with pytest.raises(DataError) as caught:
        launcher.launch(composed_once(*given), announce=lambda _: None)
    assert caught.value.code == code
    assert place in str(caught.value)
    paths = home.study("demo")
    assert not any(file.exists() for file in (paths.worker_log(0), paths.outcome(0), paths.data, home.optuna_file))


def test_what_is_allowed_is_no_error_and_the_rest_is(
    composed_once: Callable[..., Config], home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher.Supervisor, "run", lambda _: 0)
    given = [*SHORT, f"data.path={folder}", "search.trials=1", "train.examples=8", "evaluation.rows=4"]
    leak(folder)
    nuls(folder)
    with pytest.raises(DataError, match=r"(?s)2 things are wrong.*data.allow=\[nul,leak-test\] goes on") as caught:
        launcher.launch(composed_once(*given), announce=lambda _: None)
    assert str(caught.value).count("\n  - ") == 2
    with pytest.raises(DataError, match=r"1 thing is wrong with them:\n  - nul: ") as caught:
        launcher.launch(composed_once(*given, "data.allow=[leak-test]"), announce=lambda _: None)
    assert "leak-test" not in str(caught.value)

    said: list[str] = []
    config = composed_once(*given, "data.allow=[leak-test,nul]")
    assert launcher.launch(config, said.append) == 0
    assert "allowed: leak-test: 1 of 37 rows of test are in train or validation too" in "\n".join(said)
    paths = home.study("demo")
    kept = {finding["code"]: finding["severity"] for finding in json.loads(paths.data.read_text())["findings"]}
    assert (kept["leak-test"], kept["nul"]) == ("allowed", "allowed")
    assert read(folder, "train")[0]["text"] not in paths.data.read_text()
    # The study's run has it too.
    tracker = MemoryTracker()
    assert Session(paths, tracker, lambda: False).run() == {"status": "finished"}
    assert "data.json" in tracker.runs[STUDY].files[""]
    tag = tracker.runs[STUDY].tags["sweeper.data_warnings"]
    assert {"allowed leak-test 1", "allowed nul 1"} <= set(tag.split(", "))


def test_special_tokens_in_a_text_cannot_be_allowed(
    composed_once: Callable[..., Config], home: Home, folder: Path
) -> None:
    special_tokens(folder)
    config = composed_once(*SHORT, f"data.path={folder}", "data.allow=[doubled-template]")
    with pytest.raises(DataError, match=r"special-token: 1 row: a text must not have special tokens") as caught:
        launcher.launch(config, announce=lambda _: None)
    assert "1 thing is wrong" in str(caught.value)
    assert "Where one is meant" not in str(caught.value)


def test_a_suite_that_cannot_be_read_is_said_with_the_rows(composed_once: Callable[..., Config], folder: Path) -> None:
    nuls_in_the_file(folder)
    config = composed_once(*SHORT, f"data.path={folder}", "retention.choices=/none.jsonl")
    with pytest.raises(
        DataError, match=r"(?s)2 problems.*validation.jsonl, line 37.*retention.choices must be bundled"
    ):
        launcher.launch(config, announce=lambda _: None)


def test_what_cannot_be_allowed_is_refused_with_what_can(folder: Path) -> None:
    given = ["data", "check", *SHORT, f"data.path={folder}", "data.allow=[leaks]"]
    result = CliRunner().invoke(main, given, catch_exceptions=False)
    assert result.exit_code == 2
    assert "must name errors that may be allowed: unknown error `leaks`; did you mean" in result.stderr
    assert "Known: contradictions, doubled-template, huge-row, leak-retention, leak-test" in result.stderr


def test_findings_are_for_scripts_too(home: Home, folder: Path) -> None:
    leak(folder)
    given = ["data", "check", "--json", *SHORT, f"data.path={folder}"]
    result = CliRunner().invoke(main, given, catch_exceptions=False)
    assert result.exit_code == 1
    first = json.loads(result.stdout)["findings"][0]
    assert first == {**first, "code": "leak-test", "severity": "error", "count": 1, "places": ["test.jsonl:37"]}


@pytest.mark.parametrize("plant", [one_class, utf_16])
def test_a_file_is_checked_before_there_is_a_study(home: Home, folder: Path, plant: Plant) -> None:
    plant(folder)
    result = CliRunner().invoke(main, ["data", "check", str(folder / "train.jsonl")], catch_exceptions=False)
    assert result.exit_code == 1, result.output
    assert f"error: {'one-class' if plant is one_class else 'encoding'}: " in result.output


def test_a_file_takes_settings(home: Home, folder: Path) -> None:
    def check(*settings: str) -> Result:
        given = ["data", "check", str(folder / "train.jsonl"), *settings]
        return CliRunner().invoke(main, given, catch_exceptions=False)

    add(folder, "train", text="please cancel it, " * 30, label="cancellation")
    cut = check("prompt.max_tokens=100", "data.long=cut_text_tail")
    assert cut.exit_code == 0, cut.output
    assert "cut-rows: 1 of " in cut.output
    assert "more than prompt.max_tokens=100" in cut.output
    for wrong in ("study=demo", "--cfg", "drop"):
        refused = check(wrong)
        assert refused.exit_code == 2
        expected = "behind a file there must be settings, such as data.long=drop, or --column text=NAME, but there is "
        assert f"{expected}'{wrong}'" in refused.stderr
