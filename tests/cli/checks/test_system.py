"""WSL and compilers, with what the system says replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.cli.checks import system
from sweeper.cli.finding import State
from tests.cli.checks.stand_ins import Card, machine

WSL_2 = "5.15.153.1-microsoft-standard-WSL2"


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """WSL's folder for the driver's libraries, with them."""
    folder = tmp_path / "wsl"
    folder.mkdir()
    (folder / "libcuda.so.1").touch()
    monkeypatch.setattr(system, "WSL_LIBRARIES", folder)
    return folder


def test_elsewhere_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Card())
    assert system.wsl() is None


def test_a_card_under_wsl_gets_a_budget(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Card())
    monkeypatch.setattr("platform.release", lambda: WSL_2)
    found = system.wsl()
    assert found is not None
    assert found.state is State.NOTE
    assert "Windows may move what does not fit to host memory" in found.detail
    assert found.cure is not None
    assert found.cure.startswith("memory.budget_gib=22.0")
    assert "Sysmem Fallback Policy" in found.cure


def test_what_wsl_lacks(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, is_available=False)
    monkeypatch.setattr("platform.release", lambda: WSL_2)
    found = system.wsl()
    assert found is not None
    assert found.state is State.WARNING
    assert found.cure is not None
    assert found.cure.startswith(f"export LD_LIBRARY_PATH={libraries}:$LD_LIBRARY_PATH")
    (libraries / "libcuda.so.1").unlink()
    found = system.wsl()
    assert found is not None
    assert (found.state, "install NVIDIA's driver in Windows" in str(found.cure)) == (State.NOTE, True)
    monkeypatch.setattr("platform.release", lambda: "4.4.0-19041-Microsoft")
    found = system.wsl()
    assert found is not None
    assert found.cure == "in Windows: wsl --set-version DISTRIBUTION 2"


def test_a_compiler_is_looked_for_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    machine(monkeypatch, is_available=False)
    assert system.compiler() is None
    machine(monkeypatch, Card())
    found = system.compiler()
    assert found is not None
    assert found.state is State.WARNING
    assert "searches compile nothing" in found.detail
    assert found.cure == "sudo apt-get install build-essential python3-dev"


@pytest.mark.parametrize(("has_headers", "state"), [(True, State.OK), (False, State.WARNING)])
def test_a_compiler_needs_the_headers_of_python(
    has_headers: bool, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, Card())
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/clang" if name == "clang" else None)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    if has_headers:
        (tmp_path / "Python.h").touch()
    found = system.compiler()
    assert found is not None
    assert (found.state, found.detail.partition(",")[0]) == (state, "clang")
