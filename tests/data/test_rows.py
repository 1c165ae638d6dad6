from __future__ import annotations

import csv
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from sweeper.config.teaching import ColumnsSection, DataSection
from sweeper.data import files, rows
from sweeper.data.row import Row
from sweeper.errors import DataError


def section(folder: Path, text: str = "text", label: str = "label", **splits: str) -> DataSection:
    names = {"train": "train", "validation": "validation", "test": "test", **splits}
    columns = {**dict.fromkeys(ColumnsSection.model_fields), "text": text, "label": label}
    values = {"source": "files", "path": str(folder), "splits": names, "columns": columns, "loss": "all"}
    values |= {"group": None, "seed": 0, "long": "block", "class_weight": None, "allow": []}
    return DataSection.model_validate(values)


def test_jsonl_csv_and_parquet_give_the_same_rows(
    ticket_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_BATCH_ROWS", 3)  # of which there are more than one
    expected = rows.load(section(ticket_files))
    plain = [json.loads(line) for line in (ticket_files / "train.jsonl").read_text().splitlines()]
    with (ticket_files / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(plain)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["cancel", "return"])})
    Dataset.from_list(plain, features=features).to_parquet(str(ticket_files / "train.parquet"))
    (ticket_files / "train.jsonl").rename(tmp_path / "gone")
    for name in ("train.csv", "train.parquet"):
        loaded = rows.load(section(ticket_files, train=name))
        assert [(row.text, row.label) for row in loaded.train] == [(row.text, row.label) for row in expected.train]
        assert loaded.sha256 == expected.sha256
    numbers = [place for place, _ in files.each_of_file(ticket_files / "train.parquet", "t")]
    assert numbers == [f"t:{number}" for number in range(1, len(plain) + 1)]


def test_a_class_that_is_not_known_is_none(ticket_files: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["cancel", "return"])})
    plain = [{"text": str(number), "label": number % 3 - 1} for number in range(6)]  # -1: without a gold label
    Dataset.from_list(plain, features=features).to_parquet(str(ticket_files / "own.parquet"))
    with pytest.raises(DataError, match=r"own\.parquet:1: `label` must be text or a whole number, but got .* None"):
        rows.load(section(ticket_files, train="own.parquet"))


def test_a_csv_in_another_encoding_is_refused_with_the_line(tmp_path: Path) -> None:
    """Far from its begin, where it is read piece by piece."""
    (tmp_path / "own.csv").write_bytes(b"text\n" + b"abcdefghi\n" * 10_000 + "Stra\xdfe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"own\.csv, line 10002: must be UTF-8, but .*iconv -f WINDOWS-1252"):
        list(files.each_of_file(tmp_path / "own.csv", "own.csv"))


def test_lines_that_are_no_file_say_the_same_of_an_encoding() -> None:
    with pytest.raises(DataError, match="standard input: must be UTF-8, but is UTF-16"):
        list(files.each_of_lines('{"text": "a"}\n'.encode("utf-16").splitlines(True), "standard input"))
    rows = ['\ufeff{"text": "a\u2028b"}\n'.encode(), b"\n", b'{"text": "c"}']
    assert list(files.each_of_lines(rows, "it")) == [
        ("it, line 1", {"text": "a\u2028b"}),
        ("it, line 3", {"text": "c"}),
    ]


@pytest.mark.parametrize("source", ["files", "hub"])
def test_local_files_leave_no_copy_in_the_users_cache(
    ticket_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    expected = rows.load(section(ticket_files))
    for split in rows.SPLITS:
        file = ticket_files / f"{split}.jsonl"
        Dataset.from_list([json.loads(line) for line in file.read_text().splitlines()]).to_parquet(
            str(file.with_suffix(".parquet"))
        )
        file.unlink()
    found = rows.load(section(ticket_files).model_copy(update={"source": source}))
    assert [row.text for row in found.test] == [row.text for row in expected.test]
    assert list(temporary.rglob("*")) == []
    assert not any(b"order" in file.read_bytes() for file in cache.rglob("*") if file.is_file())


def test_other_column_names_and_numbers_as_labels(ticket_files: Path) -> None:
    for split in rows.SPLITS:
        lines = [json.dumps({"Body": "x", "class": n}) for n in (1, 2)]
        (ticket_files / f"{split}.jsonl").write_text("\n".join(lines))
    assert rows.load(section(ticket_files, text="Body", label="class")).labels == ["1", "2"]


def replace(split: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / f"{split}.jsonl").write_text(text, encoding="utf-8") and None


def append(split: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / f"{split}.jsonl").open("a", encoding="utf-8") as file:
            file.write(text)

    return change


GOOD = '{"text": "a", "label": "cancel"}\n'
BREAKS: list[tuple[str, Callable[[Path], object], str]] = [
    ("broken JSON", append("train", '{"text": "a", "label"\n'), r"train.jsonl, line 9: must be one JSON object"),
    ("not an object", append("train", "[1]\n"), r"train.jsonl, line 9: must be a JSON object, but is a list"),
    ("missing file", lambda folder: (folder / "test.jsonl").unlink(), r"`test` is missing.*looked for test.jsonl"),
    ("empty split", replace("validation", ""), r"`validation` is empty"),
    ("one label", replace("train", GOOD), r"at least two labels.*only cancel"),
    ("new label", append("validation", '{"text": "a", "label": "refund"}\n'), r"validation.jsonl:9: `refund`"),
    ("empty text", append("train", '{"text": " ", "label": "cancel"}\n'), r"train.jsonl:9: `text` must be text"),
    ("no label", append("train", '{"text": "a", "label": null}\n'), r"train.jsonl:9: `label` must be text"),
    (
        "half a label",
        append("train", '{"text": "a", "label": "x\\ud83d"}\n'),
        r"train.jsonl:9: `label` must be Unicode, but has half of a character at 2",
    ),
    ("lost column", append("train", '{"text": "a"}\n'), r"train.jsonl:9: data.columns.label: unknown column `label`"),
    ("bytes", lambda folder: (folder / "test.jsonl").write_bytes(b'{"text": "\xff"}\n'), r"line 1: must be UTF-8"),
]


@pytest.mark.parametrize(("change", "expected"), [case[1:] for case in BREAKS], ids=[case[0] for case in BREAKS])
def test_what_is_wrong_is_named_with_its_line(
    ticket_files: Path, change: Callable[[Path], object], expected: str
) -> None:
    change(ticket_files)
    with pytest.raises(DataError) as caught:
        rows.load(section(ticket_files))
    assert re.search(expected, str(caught.value), re.DOTALL), str(caught.value)


def test_a_column_that_is_there_twice_is_refused(ticket_files: Path) -> None:
    (ticket_files / "train.csv").write_text("text,label,label\nhello,cancel,return\n")
    with pytest.raises(DataError, match=r"train.csv, line 1: each column must have a name .* more than one label"):
        rows.load(section(ticket_files, train="train.csv"))


def test_files_of_one_name_in_two_folders_are_told_apart(ticket_files: Path) -> None:
    for split in rows.SPLITS:
        (ticket_files / split).mkdir()
        (ticket_files / f"{split}.jsonl").rename(ticket_files / split / "rows.jsonl")
    loaded = rows.load(section(ticket_files, **{split: f"{split}/rows.jsonl" for split in rows.SPLITS}))
    assert [getattr(loaded, split)[0].place for split in rows.SPLITS] == [f"{s}/rows.jsonl:1" for s in rows.SPLITS]


def test_a_csv_row_with_a_comma_too_many(ticket_files: Path) -> None:
    (ticket_files / "train.csv").write_text("text,label\nhello,cancel\nhello, you,cancel\n")
    with pytest.raises(DataError, match=r"train.csv, line 3: must have 2 fields"):
        rows.load(section(ticket_files, train="train.csv"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text;label\nhello, you;cancel\n", {"text": "hello, you", "label": "cancel"}),
        ("Body (raw), cleaned;label;n\na;b;1,5\n", {"Body (raw), cleaned": "a", "label": "b", "n": "1,5"}),
        ("text\tlabel\na, b; c\tcancel\n", {"text": "a, b; c", "label": "cancel"}),
        ('text,label\n"a; b; c",cancel\n', {"text": "a; b; c", "label": "cancel"}),
        ("text\nhello; you\n", {"text": "hello; you"}),
        ('\ufeff"te;xt",label\na,b\n', {"te;xt": "a", "label": "b"}),
    ],
)
def test_fields_may_be_separated_as_spreadsheets_do(tmp_path: Path, content: str, expected: dict[str, str]) -> None:
    (tmp_path / "own.csv").write_text(content, encoding="utf-8")
    assert list(files.each_of_file(tmp_path / "own.csv", "own.csv")) == [("own.csv:2", expected)]


def test_blank_lines_are_no_rows_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(b'\n\ntext;label\r\n\n"two\n\nlines, here";a\n\n\nb;c\n\n')
    assert list(files.each_of_file(tmp_path / "own.csv", "own.csv")) == [
        ("own.csv:5", {"text": "two\n\nlines, here", "label": "a"}),
        ("own.csv:10", {"text": "b", "label": "c"}),
    ]
    (tmp_path / "own.csv").write_text("\ntext,text\n")
    with pytest.raises(DataError, match=r"own\.csv, line 2: each column must have a name of its own"):
        list(files.each_of_file(tmp_path / "own.csv", "own.csv"))


def test_a_row_with_a_semicolon_too_many(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("text;label\nhello;cancel\nhello; you;cancel\n")
    with pytest.raises(DataError, match=r"line 3: must have 2 fields .*; is a semicolon unquoted\?"):
        list(files.each_of_file(tmp_path / "own.csv", "own.csv"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'text,label\nok,cancel\n"open,cancel\nok,cancel\n', "in the row that begins at line 3: must be CSV"),
        (b'text,label\n"two\nlines",cancel\nx\n', "line 4: must have 2 fields"),
        (b"text,label\n\nok,cancel\n\nx\n", "line 5: must have 2 fields"),
        (b"text,label\nok,cancel\n\xff,cancel\n", "line 3: must be UTF-8"),
    ],
)
def test_csv_problems_name_their_line(ticket_files: Path, content: bytes, expected: str) -> None:
    (ticket_files / "train.csv").write_bytes(content)
    with pytest.raises(DataError, match=expected):
        rows.load(section(ticket_files, train="train.csv"))


def test_a_wrong_column_lists_the_columns(ticket_files: Path) -> None:
    with pytest.raises(DataError, match=r"unknown column `txt`; did you mean `text`\? Known: label, text"):
        rows.load(section(ticket_files, text="txt"))


def test_columns_with_commas_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text('"Body (raw), cleaned",label\n' + "a,b\n" * 9)
    with pytest.raises(DataError, match=r"Known: `Body \(raw\), cleaned`, label"):
        rows.load(section(file, text="txt", validation=0.3, test=0.3))  # type: ignore[arg-type]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        rows.load(section(tmp_path / "nowhere"))


def test_a_stratified_draw_keeps_the_shares() -> None:
    all_rows = [Row(str(n), "common" if n % 4 else "rare", f"x:{n}") for n in range(400)]
    drawn = rows.stratified(all_rows, 40, seed=1)
    assert Counter(row.label for row in drawn) == {"common": 30, "rare": 10}
    assert drawn == rows.stratified(all_rows, 40, seed=1)
    assert drawn != rows.stratified(all_rows, 40, seed=2)
    assert rows.stratified(all_rows, None, seed=1) == all_rows


def test_a_dataset_that_the_datasets_library_loads(ticket_files: Path, tmp_path: Path) -> None:
    """The Hub is not reachable here; a local repository goes the same way through `load_dataset`."""
    loaded = rows.load(section(ticket_files).model_copy(update={"source": "hub"}))
    expected = rows.load(section(ticket_files))
    assert loaded.sha256 == expected.sha256
    assert loaded.train[0].place == f"{ticket_files}[train]:1"
    with pytest.raises(DataError, match="split `nope`"):
        rows.load(section(ticket_files, train="nope").model_copy(update={"source": "hub"}))
    with pytest.raises(DataError, match=r"must name a dataset of the Hub .* nobody/nothing could not be loaded"):
        rows.load(section(ticket_files).model_copy(update={"source": "hub", "path": "nobody/nothing"}))
