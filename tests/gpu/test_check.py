"""The parts of `make gpu-check` and `make gpu-bundle` that need no GPU."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.engine.pack import Pack
from sweeper.models.targets import linear_names
from tests.gpu import check
from tests.gpu.bundle import trim
from tests.gpu.shapes import SHAPES, random_base


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
