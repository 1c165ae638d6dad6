"""The parts of `make gpu-check` and `make gpu-bundle` that need no GPU."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import zipfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.engine.pack import Pack
from sweeper.errors import ModelError
from sweeper.memory.formula import Formula
from sweeper.models.targets import linear_names
from sweeper.preflight.case import Case
from sweeper.preflight.trace import fit
from tests.gpu import check, memory
from tests.gpu.bundle import trim
from tests.gpu.shapes import SHAPES, random_base, random_pack

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def formula() -> Future[Formula]:
    """The toy's, fitted as `formula_of` has it, but in this process."""
    found: Future[Formula] = Future()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "fitted", fit)
        found.set_result(memory.formula_of("toy"))
    return found


def test_a_random_base_is_quantised_and_whole() -> None:
    model = random_base("toy", torch.device("cpu"))
    assert len(linear_names(model)) == 14
    assert all(model.get_submodule(name).weight.quant_state.nested for name in linear_names(model))
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert torch.isfinite(model(input_ids=torch.tensor([[5, 6, 7]])).logits).all()


def test_the_shapes_are_of_the_published_size() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    counts = {}
    for shape in ("0.5b", "8b"):
        values = dict(SHAPES[shape])
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        counts[shape] = model.num_parameters() / 1e9
    assert counts["0.5b"] == pytest.approx(0.494, abs=0.001)
    assert counts["8b"] == pytest.approx(8.030, abs=0.001)


def test_steps_are_measured_and_the_base_is_left_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TOKENS", (64, 1024))
    monkeypatch.setattr(check, "PACKED_SLOTS", (1, 2))
    rows = list(check.measured("toy", torch.device("cpu"), time.monotonic() + 100))
    assert [(row["kind"], row["tokens"]) for row in rows] == [
        *(("solo", tokens) for _ in range(2) for tokens in (64, 1024)),
        ("packed", 512),
        ("packed", 1024),
    ]
    assert all(row["step_s"] > 0 for row in rows)
    late = next(check.measured("toy", torch.device("cpu"), time.monotonic()))
    assert late["error"] == "no time left"


def test_a_wheel_keeps_the_library_of_one_cuda_version(tmp_path: Path) -> None:
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    files = ["bitsandbytes/__init__.py", "bitsandbytes/libbitsandbytes_cpu.so"]
    files += [f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cuda129", "cuda130", "rocm70")]
    record = "bitsandbytes-1.dist-info/RECORD"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in files:
            archive.writestr(name, name)
        archive.writestr(record, "".join(f"{name},sha256=x,1\n" for name in files))
    with pytest.raises(SystemExit, match=r"no libbitsandbytes_cuda118\.so; there are .*cuda129\.so"):
        trim(wheel, "118")
    trim(wheel, "130")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.namelist() == [files[0], files[3], record]
        assert [line.split(",")[0] for line in archive.read(record).decode().splitlines()] == [files[0], files[3]]
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_bundle_is_laid_beside_a_whole_copy_of_this_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SITE", tmp_path / "site")
    with pytest.raises(SystemExit, match="must hold wheels"):
        check.unpack(tmp_path)
    with zipfile.ZipFile(tmp_path / "not_here-1-py3-none-any.whl", "w") as archive:
        archive.writestr("not_here.py", "")
    check.unpack(tmp_path)
    assert (tmp_path / "site" / "not_here.py").is_file()
    assert (tmp_path / "site" / "sweeper" / "conf" / "config.yaml").is_file()
    assert (tmp_path / "site" / "sweeper" / "studies" / "demo" / "config.yaml").is_file()
    library = tmp_path / "site" / "bitsandbytes" / "libbitsandbytes_cuda130.so"
    library.parent.mkdir()
    library.touch()
    check.refuse_other_cuda("13.0")
    with pytest.raises(SystemExit, match=r"cuda128, but the bundle has libbitsandbytes_cuda130\.so; make .*CUDA=128"):
        check.refuse_other_cuda("12.8")
    (tmp_path / "yaml-1-cp39-cp39-manylinux1.whl").touch()
    with pytest.raises(SystemExit, match="must be for this Python"):
        check.unpack(tmp_path)


def test_what_fails_is_a_row_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TOKENS", (64,))
    monkeypatch.setattr(check, "PACKED_SLOTS", (1,))
    ticks = iter(range(100))
    tick = Pack.tick

    def breaks(pack: Pack) -> Any:
        if next(ticks) == 3:
            raise RuntimeError("CUDA error: out of memory\nmore")
        return tick(pack)

    monkeypatch.setattr(Pack, "tick", breaks)
    rows = list(check.measured("toy", torch.device("cpu"), time.monotonic() + 100))
    assert [row.get("error") for row in rows] == ["RuntimeError: CUDA error: out of memory", None, None]


def test_the_cases_are_enough_and_spread_and_the_smaller_ones_come_first() -> None:
    assert 2 * len(memory.CASES) >= 32
    tokens = [case.slots * case.rows * case.seq for case in memory.CASES]
    assert tokens == sorted(tokens)
    assert tokens[-1] == memory.EXTENT.most_tokens
    for name, values in {
        "rank": memory.EXTENT.ranks,
        "seq": memory.EXTENT.seqs,
        "slots": (1, 4),
        "target_modules": ("all-linear", "attention"),
        "is_checkpointed": (False, True),
        "optimizer_state": ("8bit", "device"),
    }.items():
        found = {getattr(case, name) for case in memory.CASES}
        assert (min(found), max(found)) == values


def test_a_tick_of_a_random_pack_is_one_chunk_with_some_padding() -> None:
    model = random_base("toy", CPU)
    pack = random_pack(model, Case(rank=8, seq=32, rows=3, slots=2, answer_tokens=4), short_tokens=3)
    pack.tick()
    assert pack.planner.step.chunks == 1
    assert [len(row.prompt) + len(row.answer) for row in pack.examples] == [32, 32, 29]
    assert [slot.train_tokens for slot in pack.slots] == [93, 93]
    assert [slot.supervised_tokens for slot in pack.slots] == [12, 12]


def test_steps_take_what_is_predicted(formula: Future[Formula], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "TOY_CASES", memory.TOY_CASES[:4])
    assert {case.is_checkpointed for case in memory.TOY_CASES} == {False, True}
    rows = list(memory.compared("toy", formula, CPU, time.monotonic() + 100))
    assert len(rows) == len(memory.TOY_CASES)
    for row in rows:
        assert row["error"] == pytest.approx(0, abs=0.03), row
        assert row["error"] == pytest.approx(row["predicted_gib"] / row["measured_gib"] - 1, abs=1e-3)
        assert row["measured_held_gib"] == pytest.approx(row["predicted_held_gib"], rel=0.01)
    summary = memory.summary(rows)
    assert summary["count"] == len(rows)
    assert summary["lowest_error"] == min(row["error"] for row in rows)
    assert abs(summary["worst_error"]) == max(abs(row["error"]) for row in rows)


def test_a_case_that_runs_out_of_memory_is_a_row_and_is_not_made_smaller(
    formula: Future[Formula], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "TOY_CASES", memory.CASES[1:4])
    calls = iter(range(100))
    backward = Pack._backward

    def breaks(pack: Pack, *arguments: Any) -> Any:
        if next(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return backward(pack, *arguments)

    monkeypatch.setattr(Pack, "_backward", breaks)
    rows = list(memory.compared("toy", formula, CPU, time.monotonic() + 100))
    assert rows[1]["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert rows[1]["predicted_gib"] > 0
    assert ["measured_gib" in row for row in rows] == [True, False, True]
    assert memory.summary(rows)["count"] == 2
    assert memory.summary(rows[1:2]) == {"count": 0}


def test_what_is_not_foretold_or_comes_too_late_is_said(formula: Future[Formula]) -> None:
    unknown: Future[Formula] = Future()
    assert list(memory.compared("toy", unknown, CPU, time.monotonic())) == [{"shape": "toy", "error": "no time left"}]
    unknown.set_exception(ModelError("the memory must be traceable"))
    [row] = memory.compared("toy", unknown, CPU, time.monotonic() + 100)
    assert row["error"] == "ModelError: the memory must be traceable"
    late = list(memory.compared("toy", formula, CPU, time.monotonic()))
    assert {row["error"] for row in late} == {"no time left"}
    parts = list(check.compared({"toy": formula}, CPU, time.monotonic()))
    assert parts[-1] == {
        "context_gib": None,
        "workspace_gib": 0.0,
        "context_after_gib": None,
        "summary": {"count": 0},
        "rows": late,
    }


def test_every_test_that_can_run_on_a_gpu_is_run() -> None:
    known = [check.ROOT / path for path in check.TESTS]
    marked = [
        file
        for file in (check.ROOT / "tests").rglob("test_*.py")
        if re.search(r"mark\.gpu|marks=.*gpu|\bdevice: torch\.device\b", file.read_text(encoding="utf-8"))
    ]
    assert marked
    # Without what the bundle has not.
    program = "import sys, pytest; sys.modules['mlflow'] = None; sys.exit(pytest.main(sys.argv[1:]))"
    asked = ["--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider", *check.TESTS]
    found = subprocess.run([sys.executable, "-c", program, *asked], cwd=check.ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert [
        file for file in marked if not any(file.is_relative_to(path) for path in known) and file.name != "test_check.py"
    ] == []
