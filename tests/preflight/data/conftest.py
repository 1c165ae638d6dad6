"""A folder of rows that are sound, which tests break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.paths import Home
from sweeper.preflight.data.report import DataReport, check_data

Check = Callable[..., DataReport]


@pytest.fixture
def folder(few_tickets: Path, tmp_path: Path) -> Path:
    """96 training rows in twelve labels, and 36 of either other split."""
    return Path(shutil.copytree(few_tickets, tmp_path / "rows"))


@pytest.fixture
def checked(composed_once: Callable[..., Config], home: Home, folder: Path) -> Check:
    """Checks the files of `folder`."""
    return lambda *overrides: check_data(
        composed_once("study=demo", "data=files", f"data.path={folder}", *overrides), home
    )


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def add(folder: Path, split: str, **row: Any) -> None:
    rows = [*read(folder, split), row]
    (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def found(report: DataReport) -> dict[str, str]:
    """The findings by their codes, in words; those of doubtful rows are left out where rows are few."""
    return {finding.code: str(finding) for finding in report.findings}
