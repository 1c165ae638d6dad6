"""What the wheel has in it: an editable install, which the tests run in, hides what it lacks."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_package_is_named() -> None:
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "sweeper").rglob("__init__.py")}
    names = {".".join(folder.parts) for folder in folders} | {"sweeper.conf", "sweeper.studies"}
    assert set(SETUPTOOLS["packages"]) == names


def test_every_data_file_is_matched() -> None:
    folders = {
        "sweeper.conf": "conf",
        "sweeper.studies": "studies",
        "sweeper.draft": "sweeper/draft",
        "sweeper.models.tiny": "sweeper/models/tiny",
        "sweeper.report": "sweeper/report",
        "sweeper.retention": "sweeper/retention",
    }
    assert set(SETUPTOOLS["package-data"]) == {"sweeper", *folders}
    assert SETUPTOOLS["package-data"]["sweeper"] == ["py.typed"]
    for package, folder in folders.items():
        matched = {file for glob in SETUPTOOLS["package-data"][package] for file in (ROOT / folder).glob(glob)}
        there = {
            file
            for file in (ROOT / folder).rglob("*")
            # What a benchmark measured stays in the repository.
            if file.is_file() and file.suffix != ".py" and not {"__pycache__", "results"} & set(file.parts)
        }
        assert matched == there


def test_the_bundled_base_is_small() -> None:
    weights = ROOT / "sweeper" / "models" / "tiny" / "weights" / "model.safetensors"
    assert weights.stat().st_size <= 8 * 1024**2
