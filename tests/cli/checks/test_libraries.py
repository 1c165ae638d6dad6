"""Versions of packages, and bitsandbytes' library, in folders made up for it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import bitsandbytes.cextension as cextension
import pytest

from sweeper.cli.checks import libraries
from sweeper.cli.finding import Finding, State
from tests.cli.checks.stand_ins import Card, machine


def library(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> Finding | None:
    """What is found where bitsandbytes has these libraries."""
    for name in names:
        (folder / f"libbitsandbytes_{name}.so").touch()
    monkeypatch.setattr(libraries, "_folder", lambda: folder)
    return libraries.quantised_library()


def test_what_is_missing_or_too_old_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert libraries.libraries().state is State.OK
    there = importlib.metadata.version

    def version(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError
        return "2.4.1+cu121" if name == "torch" else there(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    found = libraries.libraries()
    assert (found.state, found.detail) == (State.MISSING, "peft is missing; torch 2.4.1+cu121 must be >=2.11")
    assert found.cure == "pip install 'peft>=0.20' 'torch>=2.11'"


def test_without_its_own_metadata_the_libraries_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.requires", requires)
    assert libraries.libraries().detail.startswith("torch 2.")


def test_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert libraries.python().is_ok
    monkeypatch.setattr("sys.version_info", (3, 10, 14))
    monkeypatch.setattr("platform.python_version", lambda: "3.10.14")
    found = libraries.python()
    assert (found.state, found.detail) == (State.MISSING, "3.10.14, but must be 3.11 or newer")


def test_where_bitsandbytes_is() -> None:
    assert libraries._folder() == Path(cextension.__file__).parent


@pytest.mark.parametrize(
    ("names", "torch_cuda", "chosen"),
    [
        (["cuda126", "cuda128", "cuda130"], "12.8", "cuda128"),
        (["cuda126", "cuda128", "cuda130"], "12.9", "cuda128"),
        (["cuda126", "cuda128", "cuda130"], "12.1", "cuda126"),
        (["cuda126", "cuda128"], "13.0", None),
        (["cpu", "rocm72"], "12.8", None),
    ],
)
def test_the_library_for_the_cuda_of_torch(
    names: list[str], torch_cuda: str, chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bitsandbytes itself chooses."""
    machine(monkeypatch, Card(), torch_cuda=torch_cuda)
    monkeypatch.delenv("BNB_CUDA_VERSION", raising=False)
    found = library(monkeypatch, tmp_path, *names)
    monkeypatch.setattr(cextension, "PACKAGE_DIR", tmp_path)
    major, minor = map(int, torch_cuda.split("."))
    specs = cextension.CUDASpecs((8, 9), f"{major}{minor}", (major, minor))
    its = cextension.get_cuda_bnb_library_path(specs)
    assert found is not None
    if chosen is None:
        assert not its.exists()
        assert found.state is State.MISSING
        assert found.cure is not None
        assert found.cure.startswith("pip install -U --force-reinstall --no-deps bitsandbytes")
    else:
        assert its.name == f"libbitsandbytes_{chosen}.so"
        assert found == Finding("4-bit library", State.OK, f"{its.name}, for torch's CUDA {torch_cuda}")


def test_a_library_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Card(), torch_cuda="12.8")
    monkeypatch.setenv("BNB_CUDA_VERSION", "130")
    found = library(monkeypatch, tmp_path, "cuda128")
    assert found is not None
    assert (found.state, found.cure) == (State.MISSING, "unset BNB_CUDA_VERSION")
    assert "it has 12.8" in found.detail
    assert libraries.quantised_training() is None  # or bitsandbytes would print a trace
    found = library(monkeypatch, tmp_path, "cuda130")
    assert found is not None
    assert (found.state, "unset" in str(found.cure)) == (State.NOTE, True)


def test_the_library_for_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, is_available=False, torch_cuda=None)
    found = library(monkeypatch, tmp_path, "cuda130")
    assert found is not None
    assert (found.state, "many times slower" in found.detail) == (State.WARNING, True)
    assert library(monkeypatch, tmp_path, "cpu") is None


def test_a_library_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Card(), torch_cuda="12.8")
    library(monkeypatch, tmp_path, "cuda128")
    broken = cextension.ErrorHandlerMockBNBNativeLibrary("libcudart.so.12: cannot open shared object file")
    monkeypatch.setattr(cextension, "lib", broken)
    found = libraries.quantised_training()
    assert found is not None
    assert found.state is State.MISSING
    assert found.detail.endswith("libcudart.so.12: cannot open shared object file")
