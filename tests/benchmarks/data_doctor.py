"""How long the data doctor takes, and how many flipped labels it finds.

    python tests/benchmarks/data_doctor.py [FOLDER]

10,000 rows of 200 to 2,000 characters made of the bundled tickets, all checks, tokens included; the seconds of the
process, for others may be using the machine. Then 20 labels flipped at random, five times, among the bundled tickets
and the training and validation rows of FOLDER (JSONL with text and label): how many are named, and how many others. A
minute.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.data import tickets
from sweeper.data.row import Row
from sweeper.paths import Home
from sweeper.preflight.data.report import check_data
from sweeper.preflight.data.suspects import suspects

COUNTS = {"train": 8000, "validation": 1000, "test": 1000}
FLIPPED, DRAWS = 20, 5


def write_long_rows(folder: Path) -> None:
    """Splits of rows that are some tickets long, with the label of the first."""
    draw, made = random.Random(5), tickets.tickets(77)
    for split, count in COUNTS.items():
        lines = []
        for _ in range(count):
            text, label = next(made)
            length = draw.randint(200, 2000)
            while len(text) < length:
                text += " " + next(made)[0]
            lines.append(json.dumps({"text": text[:length], "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def seconds() -> tuple[float, float]:
    """Of the process and of the clock."""
    with tempfile.TemporaryDirectory() as folder:
        write_long_rows(Path(folder))
        configs: list[Config] = []
        compose.main(["study=demo", "data=files", f"data.path={folder}", "prompt.max_tokens=2048"], configs.append)
        before = time.process_time(), time.perf_counter()
        report = check_data(configs[0], Home(Path(folder) / "store"), is_launched=False)
        taken = time.process_time() - before[0], time.perf_counter() - before[1]
    for finding in report.findings:
        print(f"  {finding.severity}: {finding}")
    return taken


def flipped(rows: list[Row], seed: int) -> tuple[int, int]:
    """Of the flipped labels and of the others, how many are suspected."""
    draw = random.Random(seed)
    labels = sorted({row.label for row in rows})
    chosen = set(draw.sample(range(len(rows)), FLIPPED))
    changed = [
        replace(row, label=draw.choice([label for label in labels if label != row.label])) if n in chosen else row
        for n, row in enumerate(rows)
    ]
    _, found = suspects(changed)
    places = {rows[n].place for n in chosen}
    hits = sum(row.place in places for row in found)
    return hits, len(found) - hits


def rows_of(raw: list[dict[str, Any]]) -> list[Row]:
    return [Row(row["text"], row["label"], f"row {number}") for number, row in enumerate(raw)]


def main() -> None:
    process_s, clock_s = seconds()
    print(f"{sum(COUNTS.values()):,} rows: {process_s:.1f} s of the process, {clock_s:.1f} s of the clock", flush=True)
    sets = {"tickets": rows_of(tickets.splits()["train"])}
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        files = [folder / f"{split}.jsonl" for split in ("train", "validation")]
        sets[folder.name] = rows_of([json.loads(line) for file in files for line in file.read_text().splitlines()])
    for name, rows in sets.items():
        none = len(suspects(rows)[1])
        counts = [flipped(rows, seed) for seed in range(DRAWS)]
        print(f"{name}: {none} of {len(rows):,} suspected as they are; {FLIPPED} flipped: (named, others) {counts}")


if __name__ == "__main__":
    main()
