"""Reads splits from JSON, JSONL, CSV and Parquet files, from the Hub, and from what makes the bundled data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from sweeper.config.teaching import DataSection
from sweeper.data import code_comments, docqa, encoding, squad, tickets
from sweeper.errors import DataError
from sweeper.quoting import name_of

ENDINGS = (".jsonl", ".csv", ".parquet", ".json")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}  # spreadsheets write the second where a comma is decimal
Raw = tuple[str, dict[str, Any]]  # a row's place, and its columns
Numbered = tuple[int, dict[str, Any]]
_BUNDLED: dict[str, Callable[[], Mapping[str, Any]]] = {
    "tickets": cache(tickets.splits),
    "docqa": cache(docqa.splits),
    "code-comments": cache(code_comments.splits),
}
NOT_LOADED = "not-loaded"  # the code of what does not come from the Hub
_SHOWN = 5  # lines that a message lists
_BATCH_ROWS = 1024  # of a Parquet file that are in memory at a time
_NUL_CURE = "tr -d '\\000' < FILE > NEW drops them"


def read(section: DataSection, split: str, name: str) -> list[Raw]:
    """The raw rows of one split, each with its place (`train.jsonl:17`).

    Raises:
        DataError: naming the file and line of what cannot be read.
    """
    if section.source in _BUNDLED:
        rows = _BUNDLED[section.source]()[split]
        return [(f"{section.source} {split}:{number}", dict(row)) for number, row in enumerate(rows, start=1)]
    assert section.path is not None  # checked with the configuration
    if section.source == "hub":
        return _read_hub(section.path, name)
    folder = Path(section.path).expanduser()
    file = _find(folder, split, name)
    return read_file(file, file.relative_to(folder if folder.is_dir() else folder.parent).as_posix())


def read_file(file: Path, name: str) -> list[Raw]:
    """The raw rows of a JSON, JSONL, CSV or Parquet file; raises as `read` does.

    Args:
        name: what the file is called in the places of its rows.
    """
    return list(each_of_file(file, name))


def each_of_file(file: Path, name: str) -> Iterator[Raw]:
    """As `read_file`, one row after the other: of all but JSON only a part is in memory at a time.

    Lines of JSONL that are broken are said behind the last row, all of them together.
    """
    reader = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet, ".json": squad.read}[file.suffix]
    return ((f"{name}:{number}", row) for number, row in reader(file))


def each_of_lines(lines: Iterable[bytes], name: str) -> Iterator[Raw]:
    """The rows of JSONL that is no file, as standard input; raises as `each_of_file` does."""
    lines = iter(lines)
    first = next(lines, b"")
    encoding.check(name, first[: encoding.HEAD_BYTES])
    return ((f"{name}, line {number}", row) for number, row in _of_jsonl(name, chain((first,), lines)))


def _find(folder: Path, split: str, name: str) -> Path:
    if folder.is_file() and folder.suffix in ENDINGS:  # one file: its rows are all to be trained on, or cut from
        if split == "train":
            return folder
        raise DataError(
            f"data.path must be a folder with a file for each split where data.splits.{split} is a name, but {folder} "
            f"is one file. Set data.splits.{split} to a share of its rows, such as 0.15"
        )
    if not folder.exists():
        raise DataError(f"data.path must be a file with rows or a folder with files, but there is no {folder}")
    if not folder.is_dir():
        raise DataError(f"data.path must be a folder with the files of the splits, but {folder} is not a folder")
    tried = [folder / name] if Path(name).suffix in ENDINGS else [folder / f"{name}{ending}" for ending in ENDINGS]
    found = [file for file in tried if file.is_file()]
    if len(found) > 1:  # what is no rows often lies beside them as JSON, such as a description of the data
        found = [file for file in found if file.suffix != ".json"]
    if len(found) != 1:
        state = "is missing" if not found else "is there more than once"
        there = ", ".join(sorted(file.name for file in folder.iterdir() if file.suffix in ENDINGS)) or "none"
        raise DataError(
            f"each split needs one file, but `{name}` {state} in {folder}: looked for "
            f"{', '.join(file.name for file in tried)}. Data files there: {there}. Set data.splits to their names"
        )
    return found[0]


def _read_jsonl(file: Path) -> Iterator[Numbered]:
    with file.open("rb") as lines:
        encoding.check(file, lines.read(encoding.HEAD_BYTES))
        lines.seek(0)
        yield from _of_jsonl(file, lines)


def _of_jsonl(source: Path | str, lines: Iterable[bytes]) -> Iterator[Numbered]:
    broken: dict[str, list[tuple[int, DataError]]] = {}  # by code: all of a file is said at once
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, _parsed(source, number, line)
            except DataError as error:
                broken.setdefault(error.code, []).append((number, error))
    if broken:
        raise DataError.joined([_of_lines(code, found) for code, found in broken.items()])


def _parsed(source: Path | str, number: int, line: bytes) -> dict[str, Any]:
    where = f"{source}, line {number}"
    if b"\0" in line:
        raise DataError(f"{where}: must be text, but has NULs, as damaged files do; {_NUL_CURE}", code="nul")
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        cure = encoding.recode(encoding.LATIN)
        raise DataError(f"{where}: must be UTF-8, but {error.reason}; {cure}", code="encoding") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: must be one JSON object, but {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be a JSON object, but is a {type(row).__name__}")
    return row


def _of_lines(code: str, found: list[tuple[int, DataError]]) -> DataError:
    """The first error of a kind, and the numbers of the other lines that have it."""
    (_, first), *others = found
    if not others:
        return first
    numbers = ", ".join(str(number) for number, _ in others[:_SHOWN])
    more = f", … ({len(others)})" if len(others) > _SHOWN else ""
    return DataError(f"{first}; so are lines {numbers}{more}", code)


def _read_csv(file: Path) -> Iterator[Numbered]:
    with file.open("rb") as head:
        encoding.check(file, head.read(encoding.HEAD_BYTES))
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            yield from _of_csv(file, text)
    except UnicodeDecodeError:
        encoding.decoded(file, file.read_bytes())  # knows the line
        raise


def _delimiter(text: TextIO) -> str:
    """What separates the fields of a CSV: that with which header and first row have the most, as many as each other."""
    fields: dict[str, tuple[bool, int]] = {}
    for delimiter in _DELIMITERS:
        text.seek(0)
        try:
            rows = filter(None, csv.reader(text, delimiter=delimiter, strict=True))  # a blank line is none
            counts = [len(row) for row in islice(rows, 2)]
        except csv.Error:  # said when it is read
            continue
        if counts:
            fields[delimiter] = (len(set(counts)) == 1 and counts[0] > 1, counts[0])
    text.seek(0)
    return max(fields, key=fields.__getitem__, default=",")  # of equals the first


def _of_csv(file: Path, text: TextIO) -> Iterator[Numbered]:
    delimiter = _delimiter(text)
    rows = _fields(file, text, delimiter)
    line, names = next(rows, (1, []))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"{file}, line {line}: each column must have a name of its own, but there is more than one "
            f"{', '.join(map(name_of, twice))}"
        )
    for line, fields in rows:
        if len(fields) != len(names):
            raise DataError(
                f"{file}, line {line}: must have {len(names)} fields as the header does, "
                f"but has more or fewer; is a {_DELIMITERS[delimiter]} unquoted?"
            )
        yield line, dict(zip(names, fields, strict=True))


def _fields(file: Path, text: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV that are not blank, each with the line that it begins at; a quoted field may go over several."""
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    begin = 1
    try:
        for fields in reader:
            if fields:
                yield begin, fields
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, in the row that begins at line {begin}: must be CSV, but {error}") from None


def _read_parquet(file: Path) -> Iterator[Numbered]:
    from datasets import Dataset
    from pyarrow import ArrowException, Table
    from pyarrow.parquet import ParquetFile

    done = 0
    try:
        with ParquetFile(file) as opened:
            metadata = opened.schema_arrow.metadata  # has the names of classes
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS):
                table = Table.from_batches([batch]).replace_schema_metadata(metadata)
                # `Dataset.from_parquet` would leave a copy in the user's cache.
                yield from _named(Dataset(table), done + 1)
                done += len(table)
    except (OSError, ArrowException) as error:
        raise DataError(f"{file}: must be a Parquet file, but {error}") from error


def _read_hub(path: str, split: str) -> list[Raw]:
    import datasets

    # What comes from the Hub is in the user's cache; what is converted of a local folder must not stay there.
    with TemporaryDirectory(prefix="sweeper-") if Path(path).is_dir() else nullcontext() as cache:
        try:
            dataset = datasets.load_dataset(path, split=split, cache_dir=cache, keep_in_memory=cache is not None)
        except Exception as error:  # the library raises many kinds, for a name, a network, a script
            raise DataError(
                f"data.path must name a dataset of the Hub with the split `{split}`, but {path} could not be loaded: "
                f"{type(error).__name__}: {error}",
                code=NOT_LOADED,
            ) from error
        return [(f"{path}[{split}]:{number}", row) for number, row in _named(dataset)]


def _named(dataset: Any, first: int = 1) -> Iterator[Numbered]:
    """Rows of a `datasets.Dataset`, class numbers turned into their names; -1, which is no class, into None."""
    from datasets import ClassLabel

    classes = {key: feature for key, feature in dataset.features.items() if isinstance(feature, ClassLabel)}
    for number, row in enumerate(dataset, start=first):
        for key, feature in classes.items():
            if row[key] is not None:
                row[key] = feature.int2str(row[key]) if row[key] >= 0 else None
        yield number, row
