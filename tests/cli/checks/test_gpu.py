"""A card, its driver and torch: whichever piece between them is missing is named, with what to type."""

from __future__ import annotations

import sys
import tomllib
import warnings
from pathlib import Path

import pynvml
import pytest
import torch

from sweeper.cli.checks import gpu
from sweeper.cli.finding import Finding, State
from tests.cli.checks.stand_ins import Card, machine

V100 = Card("Tesla V100-SXM2-16GB", 16.0, (7, 0))
T4 = Card("Tesla T4", 15.0, (7, 5))
B200 = Card("NVIDIA B200", 180.0, (10, 0))
CUT = Card("NVIDIA H100 80GB HBM3", 80.0, (9, 0), instances=("MIG-one", "MIG-two"))
Patch = pytest.MonkeyPatch


def said(finding: Finding | None) -> tuple[State, str, str]:
    assert finding is not None
    return finding.state, finding.detail, finding.cure or ""


def test_a_card_that_torch_uses_needs_nothing(monkeypatch: Patch) -> None:
    machine(monkeypatch, Card())
    detail = "NVIDIA GeForce RTX 4090 (24.0 GiB); driver 580.95; computes in bfloat16"
    assert gpu.gpu() == Finding("gpu", State.OK, detail)
    assert said(gpu.driver())[0] is State.OK
    assert (gpu.compute_capability(), gpu.mig()) == (None, None)


def test_no_driver_at_all(monkeypatch: Patch) -> None:
    machine(monkeypatch, is_available=False, torch_cuda=None, failure=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    state, detail, cure = said(gpu.gpu())
    assert state is State.NOTE
    assert "none: the NVML library, which comes with the NVIDIA driver, is not on this machine" in detail
    assert "searches run on the CPU" in detail
    assert "sudo ubuntu-drivers install" in cure
    assert "gpu=cpu or gpu=free" in cure
    assert (gpu.driver(), gpu.compute_capability(), gpu.mig()) == (None, None, None)


@pytest.mark.parametrize(
    ("system", "release", "cure"),
    [
        ("Darwin", "24.0", "CUDA needs Linux"),
        ("Linux", "5.15.153.1-microsoft-standard-WSL2", "install its driver in Windows"),
    ],
)
def test_where_the_driver_is_installed(monkeypatch: Patch, system: str, release: str, cure: str) -> None:
    machine(monkeypatch, is_available=False, failure=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.release", lambda: release)
    assert cure in said(gpu.gpu())[2]
    assert "ubuntu-drivers" not in said(gpu.gpu())[2]


def test_in_a_container_it_is_started_with_its_cards(monkeypatch: Patch, tmp_path: Path) -> None:
    machine(monkeypatch, is_available=False, failure=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    (tmp_path / ".dockerenv").touch()
    monkeypatch.setattr(gpu, "CONTAINER_MARKS", (str(tmp_path / ".dockerenv"),))
    assert "docker run --gpus all" in said(gpu.gpu())[2]


@pytest.mark.parametrize(
    ("failure", "detail", "cure"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded", "sudo modprobe nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "have different versions", "restart the machine"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no permission", "usermod -aG video"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVMLError_Unknown", "nvidia-smi says more"),
    ],
)
def test_a_driver_that_does_not_answer(monkeypatch: Patch, failure: int, detail: str, cure: str) -> None:
    machine(monkeypatch, is_available=False, failure=failure)
    found = said(gpu.gpu())
    assert found[0] is State.WARNING
    assert detail in found[1]
    assert cure in found[2]


def test_without_pynvml_torch_is_believed(monkeypatch: Patch) -> None:
    machine(monkeypatch, Card())
    monkeypatch.setitem(sys.modules, "pynvml", None)
    state, detail, cure = said(gpu.gpu())
    assert (state, cure) == (State.NOTE, "pip install nvidia-ml-py")
    assert "NVIDIA GeForce RTX 4090; computes in bfloat16. NVML is not used" in detail


def test_a_driver_without_cards(monkeypatch: Patch) -> None:
    machine(monkeypatch, is_available=False)
    assert said(gpu.gpu())[:2] == (State.NOTE, "none; driver 580.95 is loaded, but has no card to give")


@pytest.mark.parametrize(
    ("card", "cuda", "index"),
    [(Card(), 13000, "cu130"), (Card(), 12040, "cu126"), (B200, 12080, "cu128"), (V100, 13000, "cu126")],
)
def test_torch_for_cpus_on_a_machine_with_a_card(monkeypatch: Patch, card: Card, cuda: int, index: str) -> None:
    """CUDA 13 has nothing for Volta any more, and CUDA 12.6 nothing for Blackwell yet."""
    machine(monkeypatch, card, torch_cuda=None, is_available=False, cuda=cuda)
    state, detail, cure = said(gpu.gpu())
    assert state is State.WARNING
    assert f"torch {torch.__version__} is a build without CUDA" in detail
    assert cure.startswith("pip uninstall -y torch && pip install 'torch>=2.11' --index-url ")
    assert cure.endswith(f"/whl/{index}")
    assert gpu.driver() is None


def test_the_torch_that_is_named_is_the_one_that_sweeper_needs() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert gpu.TORCH in project["dependencies"]


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        ("", "CUDA_VISIBLE_DEVICES='' hides every card"),
        ("-1", "CUDA_VISIBLE_DEVICES='-1' hides every card"),
        ("3", "CUDA_VISIBLE_DEVICES='3' begins with a card that there is not"),
        ("GPU-bbbb,0", "begins with a card that there is not"),
    ],
)
def test_cards_that_the_environment_hides(monkeypatch: Patch, visible: str, words: str) -> None:
    machine(monkeypatch, Card(), is_available=False, visible=visible)
    state, detail, cure = said(gpu.gpu())
    assert state is State.WARNING
    assert words in detail
    assert cure == "unset CUDA_VISIBLE_DEVICES, or export CUDA_VISIBLE_DEVICES=0"


@pytest.mark.parametrize("visible", [None, "0", "GPU-aa"])
def test_what_torch_says_is_passed_on_where_nothing_else_explains_it(monkeypatch: Patch, visible: str | None) -> None:
    machine(monkeypatch, Card(), is_available=False, visible=visible)

    def is_available() -> bool:
        warnings.warn("CUDA initialization: CUDA unknown error (Triggered internally at x.cpp:1)", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    state, detail, cure = said(gpu.gpu())
    assert state is State.WARNING
    assert detail.endswith("searches run on the CPU: CUDA initialization: CUDA unknown error")
    assert "modprobe nvidia_uvm" in cure


def test_a_driver_that_is_too_old_for_torch(monkeypatch: Patch) -> None:
    machine(monkeypatch, Card(), torch_cuda="13.0", is_available=False, driver="550.54", cuda=12040)
    assert said(gpu.gpu())[2] == "see driver"
    state, detail, cure = said(gpu.driver())
    assert state is State.WARNING
    assert detail == "550.54 knows CUDA up to 12.4; torch is built for 13.0: it is too old"
    assert cure.startswith("update the NVIDIA driver to 580 or newer")
    assert cure.endswith("whl/cu126")


def test_no_torch_is_old_enough_for_some_drivers(monkeypatch: Patch) -> None:
    machine(monkeypatch, Card(), torch_cuda="12.6", is_available=False, driver="470.1", cuda=11040)
    cure = said(gpu.driver())[2]
    assert cure.startswith("update the NVIDIA driver to 525 or newer")
    assert "pip" not in cure
    machine(monkeypatch, Card(), torch_cuda=None, is_available=False, driver="470.1", cuda=11040)
    assert said(gpu.gpu())[2].startswith("update the NVIDIA driver to 525 or newer")
    machine(monkeypatch, Card(), torch_cuda="14.1", is_available=False)
    assert said(gpu.driver())[2].startswith("update the NVIDIA driver to one for CUDA 14")


@pytest.mark.parametrize(
    ("torch_cuda", "cuda", "words"),
    [
        ("12.8", 12040, "which will do within a major version"),
        ("12.8", 13000, "knows CUDA up to 13.0; torch is built for 12.8"),
        ("13.0", 12040, "CUDA's package for forward compatibility"),  # torch has a device, so something provides for it
    ],
)
def test_a_driver_that_will_do(monkeypatch: Patch, torch_cuda: str, cuda: int, words: str) -> None:
    machine(monkeypatch, Card(), torch_cuda=torch_cuda, cuda=cuda)
    state, detail, cure = said(gpu.driver())
    assert (state, cure) == (State.OK, "")
    assert words in detail


def test_a_card_that_torch_has_no_kernels_for(monkeypatch: Patch) -> None:
    machine(monkeypatch, V100)
    state, detail, cure = said(gpu.compute_capability())
    assert state is State.MISSING
    assert "has kernels for sm_75, sm_80, " in detail
    assert detail.endswith("but Tesla V100-SXM2-16GB has 7.0")
    assert cure.endswith("whl/cu126; or engine.device=cpu")


def test_where_nvml_does_not_say_the_capability(monkeypatch: Patch) -> None:
    machine(monkeypatch, Card(capability=None), torch_cuda=None, is_available=False)
    assert said(gpu.gpu())[2].endswith("whl/cu130")


def test_a_card_without_bfloat16(monkeypatch: Patch) -> None:
    machine(monkeypatch, T4)
    state, detail, cure = said(gpu.compute_capability())
    assert (state, cure) == (State.NOTE, "")
    assert detail.startswith("Tesla T4 has 7.5, and bfloat16 begins with 8.0: model.dtype=auto computes in float16")


@pytest.mark.parametrize(
    ("kernels", "capability", "has"),
    [
        (["sm_80"], (8, 9), True),  # binaries run within their major version
        (["sm_86"], (8, 0), False),
        (["sm_80"], (9, 0), False),
        (["sm_80", "compute_80"], (9, 0), True),  # PTX is compiled for what came later
        (["sm_90a"], (9, 0), False),
        (["sm_120"], (12, 1), True),
        ([], (9, 0), True),
    ],
)
def test_which_kernels_run_where(
    monkeypatch: Patch, kernels: list[str], capability: tuple[int, int], has: bool
) -> None:
    machine(monkeypatch, Card(capability=capability))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)
    assert (gpu.compute_capability() is None) == has


def test_an_instance_must_be_named_on_a_card_that_is_cut(monkeypatch: Patch) -> None:
    machine(monkeypatch, CUT)
    state, detail, cure = said(gpu.mig())
    assert state is State.WARNING
    assert "NVIDIA H100 80GB HBM3 is in MIG mode, and CUDA_VISIBLE_DEVICES names no instance" in detail
    assert cure == "export CUDA_VISIBLE_DEVICES=MIG-one,MIG-two (a worker for each)"


def test_instances_that_are_named(monkeypatch: Patch) -> None:
    machine(monkeypatch, CUT, visible="MIG-one")
    state, detail, cure = said(gpu.mig())
    assert state is State.NOTE
    assert "electricity is not measured" in detail
    assert "gpu.price_usd_per_hour=" in cure


def test_a_card_that_is_to_be_cut_and_is_not(monkeypatch: Patch) -> None:
    machine(monkeypatch, Card(CUT.name, instances=()), is_available=False)
    state, _, cure = said(gpu.mig())
    assert state is State.WARNING
    assert "sudo nvidia-smi mig -i 0 -lgip" in cure
    assert "sudo nvidia-smi -i 0 -mig 0" in cure
    machine(monkeypatch, Card(CUT.name))  # one that could be, and is whole
    assert gpu.mig() is None
