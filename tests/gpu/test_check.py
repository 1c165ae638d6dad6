"""The parts of `make gpu-check` and `make gpu-bundle` that need no GPU."""

from __future__ import annotations

import json
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
from tests.gpu import check, memory, packs, steps
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
    for shape in check.SPEED_SHAPES:
        values = dict(SHAPES[shape])
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        counts[shape] = model.num_parameters() / 1e9
    assert counts["0.5b"] == pytest.approx(0.494, abs=0.001)
    assert counts["1.5b"] == pytest.approx(1.544, abs=0.001)
    assert counts["8b"] == pytest.approx(8.030, abs=0.001)


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


def test_parts_and_shapes_are_chosen_and_what_is_unknown_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["check.py", "--parts", "packs,steps", "--shapes", "8b,1.5b"])
    arguments = check.asked()
    assert (arguments.parts, arguments.shapes) == (("steps", "packs"), ("1.5b", "8b"))  # in the check's own order
    assert check.file_name("NVIDIA H200", arguments.parts, arguments.shapes) == "nvidia-h200-steps-packs-1.5b-8b.json"
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.file_name("NVIDIA H200", check.asked().parts, None) == "nvidia-h200.json"
    monkeypatch.setattr(sys, "argv", ["check.py", "--parts", "speed"])
    with pytest.raises(SystemExit):
        check.asked()
    assert "must be of tests, memory, steps, packs, but got speed" in capsys.readouterr().err


def test_parts_share_the_time_and_what_one_leaves_is_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    deadline = now + check.LIMIT_S
    parts = tuple(check.PLAN_S)
    assert sum(check.PLAN_S.values()) == check.LIMIT_S - check.MARGIN_S
    for number, part in enumerate(parts):  # where each takes all that it may
        now = check.end_of(part, parts[number:], deadline)
    assert now == pytest.approx(deadline - check.MARGIN_S)
    now = 1000.0
    assert check.end_of("packs", ("packs",), deadline) == now + 510
    now = 1060.0  # the tests took a minute
    assert check.end_of("memory", parts[1:], deadline) == pytest.approx(now + 450 * 65 / 270)
    now = deadline
    assert check.end_of("packs", ("packs",), deadline) == now
    now = 1000.0
    ends = []
    for _, end_s in check.shares(("0.5b", "1.5b", "8b"), 1090.0):
        ends.append(end_s)
        now += 10.0  # of 30, 40 and 70
    assert ends == [1030.0, 1050.0, 1090.0]


def test_the_chosen_parts_are_rehearsed_with_a_toy_and_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "TOKENS", {False: (64, 128, 256), True: (64,)})
    monkeypatch.setattr(packs, "SLOTS", (2,))
    monkeypatch.setattr(packs, "TOKENS", (64, 128))
    monkeypatch.setattr(packs, "LONG_TOKENS", ())
    run = check.Check(CPU, time.monotonic() + check.LIMIT_S, ("steps", "packs"), ("toy",))
    news = list(run.run())
    result = json.loads(json.dumps(run.result))
    assert result["gemm"]["tflop_per_s"] > 0
    assert news[1:5] == result["steps"]["rows"]
    assert len(result["packs"]["rows"]) == 2
    assert [(fit["shape"], fit["of"], fit["points"]) for fit in result["packs"]["fits"]] == [("toy", "steps", 3)]
    assert all("predicted_speedup" in row for row in result["packs"]["rows"])
    assert {goal["lowest"] for goal in result["packs"]["goals"]} == {None}
    assert list(result["parts"]) == ["steps", "packs"]
    assert all(part["missing"] == [] and part["took_s"] <= part["limit_s"] for part in result["parts"].values())


def test_where_the_time_is_up_it_is_said_what_is_missing() -> None:
    run = check.Check(CPU, time.monotonic() + check.MARGIN_S, ("steps", "packs"), ("toy",))
    list(run.run())
    assert len(run.result["parts"]["steps"]["missing"]) == 12
    missing = run.result["parts"]["packs"]["missing"]
    assert missing[0] == {"shape": "toy", "slots": 16, "slot_tokens": 64, "error": "no time left"}
    assert len(missing) == 2 * 4 + 2 * 6
    assert run.result["packs"]["fits"] == []


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
        # A bound: the rows of a chunk are copied in attention where there are several, and it is linear in both.
        assert -0.03 < row["error"] < 0.05, row
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
