"""The wheel, installed as others install it: away from the clone, and beside a torch that is there already."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import SHORT

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what belongs to it, elsewhere, so that nothing is written into the clone."""
    source, to = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "sweeper", "conf", "studies"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        else:
            shutil.copy(ROOT / name, source / name)
    _pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(to), str(source))
    [built] = to.glob("sweeper-*.whl")
    return built


def _pip(python: Path, *arguments: str, ends: int = 0) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments],
        env=kept, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == ends, done.stdout + done.stderr
    return done.stdout + done.stderr


def _environment(folder: Path) -> Path:
    """An environment with pip alone; its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def _packages(python: Path) -> Path:
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(found.stdout.strip())


def test_an_installed_wheel_does_what_the_clone_does(wheel: Path, tmp_path: Path) -> None:
    python = _environment(tmp_path / "env")
    _pip(python, "install", "--no-deps", "--no-index", str(wheel))
    # What it needs is what the tests have; a path alone, so that the clone's editable install does not count.
    (_packages(python) / "needed.pth").write_text("\n".join(site.getsitepackages()))
    work = tmp_path / "work"
    work.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SWEEPER_", "PYTHONPATH"))}

    def sweeper(*arguments: str) -> str:
        done = subprocess.run(
            [tmp_path / "env" / "bin" / "sweeper", *arguments],
            env=kept, cwd=work, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import sweeper; print(sweeper.__file__)"],
        env=kept, cwd=work, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(tmp_path)
    assert (_packages(python) / "sweeper" / "py.typed").is_file()
    sweeper("launch", *(option for option in SHORT if option != "data=files"), "search.trials=2")
    sweeper("export", "demo", "--to", "adapter", "--force")
    [line] = sweeper("predict", "adapter", "the app closes by itself").splitlines()
    assert line.strip()
    assert (work / "sweeps" / "studies" / "demo").is_dir()
    assert "tickets" in sweeper("launch", "study=tickets", "--cfg", "job")


def _stand_in(folder: Path, name: str, its_version: str) -> Path:
    """A distribution of that name and version with nothing in it."""
    stem = f"{name.replace('-', '_')}-{its_version}"
    file = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {its_version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return file


def _requirements(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    found = [Requirement(line.removeprefix("Requires-Dist: ")) for line in lines if line.startswith("Requires-Dist: ")]
    return [one for one in found if one.marker is None]


def _index(folder: Path, wheel: Path) -> Path:
    """Stand-ins for all that the wheel requires, at the versions that are here."""
    folder.mkdir()
    for requirement in _requirements(wheel):
        _stand_in(folder, requirement.name, version(requirement.name).partition("+")[0])
    return folder


def test_a_torch_for_cuda_that_is_there_stays(wheel: Path, tmp_path: Path) -> None:
    python = _environment(tmp_path / "env")
    index = _index(tmp_path / "index", wheel)
    _stand_in(index, "torch", "99.0")  # newer, and for a CPU
    there = _stand_in(tmp_path, "torch", "2.13.0+cu130")
    _pip(python, "install", "--no-index", "--no-deps", str(there))
    from_index = ["install", "--no-index", "--find-links", str(index)]
    _pip(python, *from_index, str(wheel))
    assert "Version: 2.13.0+cu130\n" in _pip(python, "show", "torch")
    _pip(python, *from_index, "--force-reinstall", "--no-deps", "-c", str(ROOT / "constraints.txt"), str(wheel))
    assert "Version: 2.13.0+cu130\n" in _pip(python, "show", "torch")


def test_a_torch_that_is_too_old_can_be_held_fast(wheel: Path, tmp_path: Path) -> None:
    """pip refuses, instead of putting another one in its place: README, "Install"."""
    python = _environment(tmp_path / "env")
    index = _index(tmp_path / "index", wheel)
    _pip(python, "install", "--no-index", "--no-deps", str(_stand_in(tmp_path, "torch", "2.6.0+cu124")))
    held = tmp_path / "held.txt"
    held.write_text("torch==2.6.0+cu124\n")
    said = _pip(python, "install", "--no-index", "--find-links", str(index), "-c", str(held), str(wheel), ends=1)
    assert "torch" in said
    assert "Version: 2.6.0+cu124\n" in _pip(python, "show", "torch")
