"""Files as people have them: odd names, odd columns, in every format that is read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from sweeper.data import tickets

Brought = Callable[[str], Path]


def export_of(folder: Path, rows: int = 600) -> Path:
    """Tickets as a help desk would export them."""
    file = folder / "Ticket export (May).csv"
    with file.open("w", newline="", encoding="utf-8-sig") as opened:
        writer = csv.writer(opened)
        writer.writerow(["Ticket ID", "Created at", "Customer name", "Body (raw), cleaned", "Assigned team", "Prio"])
        for number, row in enumerate(tickets.splits()["train"][:rows]):
            day, customer = f"2026-01-{number % 28 + 1:02d}", f"customer {number % 97}"
            writer.writerow([f"T-{number:05d}", day, customer, row["text"], row["label"], number % 3 + 1])
    return file


def _chats(folder: Path) -> Path:
    file = folder / "chats.jsonl"
    turns = [
        ("user", "{text}"),
        ("assistant", "I see. Shall I hand it on?"),
        ("user", "Yes, to whom?"),
        ("assistant", "{label}"),
    ]
    lines = [
        json.dumps({"n": n, "dialog": [{"role": role, "content": words.format(**row)} for role, words in turns]})
        for n, row in enumerate(tickets.splits()["train"][:80])
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def _faq(folder: Path) -> Path:
    file = folder / "faq.parquet"
    rows: list[dict[str, Any]] = [
        {"Asked on": n, "userQuestion": row["text"], "OurReply": f"This is number {n}, of {row['label']}."}
        for n, row in enumerate(tickets.splits()["train"][:80])
    ]
    Dataset.from_list(rows).to_parquet(str(file))
    return file


def _mails(folder: Path) -> Path:
    made = folder / "mails 2026"
    made.mkdir()
    names = {"train": "mails_train", "validation": "mails-val", "test": "mails.test"}
    for split, name in names.items():
        lines = [
            json.dumps({"Subject line": "Hello", "E-Mail": row["text"], "Queue": row["label"]})
            for row in tickets.splits()[split][: 96 if split == "train" else 36]
        ]
        (made / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return made


@pytest.fixture
def brought(tmp_path: Path) -> Brought:
    """Makes a file or folder of a kind: csv, jsonl, parquet, folder."""
    makers = {"csv": export_of, "jsonl": _chats, "parquet": _faq, "folder": _mails}
    return lambda kind: makers[kind](tmp_path)
