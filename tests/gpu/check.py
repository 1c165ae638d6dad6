"""`make gpu-check`: what a CUDA machine says about the engine, in at most nine minutes, as one JSON file.

It runs the tests that are marked `gpu` and then measures, on models with random weights, the time of a
training step and the memory at its peak. It needs no network; what a machine lacks beside torch, transformers
and peft comes from `make gpu-bundle`. `--rehearse` does the same on the CPU with a toy, to try the check itself.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SITE = ROOT / ".gpu-site"
RESULTS = ROOT / "tests" / "gpu" / "results"
LIMIT_S = 9 * 60
TESTS_LIMIT_S = 4 * 60
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
SEQUENCE_TOKENS = 512
ANSWER_TOKENS = 32
RANK = 16
PACKED_SLOTS = (1, 2, 4, 8, 16)
WARM_UP_STEPS, STEPS = 2, 5
MARGIN_S = 30  # one step of the largest shape on a slow card
GIB = 1024**3
DISTRIBUTIONS = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "triton")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="the folder that `make gpu-bundle` wrote")
    parser.add_argument("--to", type=Path, help="the file to write; tests/gpu/results/CARD.json if left out")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a toy")
    arguments = parser.parse_args()
    deadline = time.monotonic() + LIMIT_S
    shutil.rmtree(SITE, ignore_errors=True)  # an older one would hide this checkout
    if arguments.bundle:
        unpack(arguments.bundle)
    sys.path[:0] = [str(SITE), str(ROOT)]

    import torch

    if not torch.cuda.is_available() and not arguments.rehearse:
        print("error: make gpu-check needs a CUDA device, and torch sees none", file=sys.stderr)
        return 2
    if arguments.bundle and not arguments.rehearse:
        refuse_other_cuda(torch.version.cuda)
    device = torch.device("cpu" if arguments.rehearse else "cuda")
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), **machine(device)}
    file = arguments.to or RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', result['card'].lower()).strip('-')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        """Writes what there is: whatever ends the check, nothing measured is lost."""
        result["duration_s"] = round(LIMIT_S - (deadline - time.monotonic()), 1)
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    print(json.dumps(result), flush=True)
    tests = result["tests"] = run_tests(min(TESTS_LIMIT_S, deadline - time.monotonic()))
    print(json.dumps(tests), flush=True)
    keep()
    result["solo"], result["packed"] = [], []
    for shape in ("toy",) if arguments.rehearse else ("0.5b", "8b"):
        for row in measured(shape, device, deadline):
            result[row.pop("kind")].append(row)
            print(json.dumps(row), flush=True)
            keep()
    print(f"written: {file}")
    is_passed = tests["failed"] == [] and tests["is_whole"] and (arguments.rehearse or tests["passed"] > 0)
    return 0 if is_passed else 1


def unpack(bundle: Path) -> None:
    """Lays this checkout and the bundle's wheels into a folder of our own; they come before what the machine has."""
    wheels = sorted(bundle.glob("*.whl"))
    if not wheels:
        raise SystemExit(
            f"error: {bundle} must hold wheels, but has none; run `make gpu-bundle` where there is a network"
        )
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for wheel in wheels:
        tags = re.findall(r"-(cp\d+)-cp", wheel.name)
        if tags and tags != [here]:
            raise SystemExit(
                f"error: {wheel.name} must be for this Python, {here}; "
                f"make gpu-bundle GPU_PYTHON={sys.version_info.major}.{sys.version_info.minor}"
            )
    shutil.copytree(ROOT / "sweeper", SITE / "sweeper")
    for folder in ("conf", "studies"):  # as pyproject.toml maps them
        shutil.copytree(ROOT / folder, SITE / "sweeper" / folder)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(SITE)


def refuse_other_cuda(version: str) -> None:
    """Ends where the bundle's bitsandbytes is not for torch's CUDA version."""
    wanted = "cuda" + "".join(version.split(".")[:2])
    there = [file.name for file in SITE.glob("bitsandbytes/libbitsandbytes_*.so")]
    if not any(wanted in name for name in there):
        raise SystemExit(
            f"error: bitsandbytes must have a library for this torch, {wanted}, but the bundle has "
            f"{', '.join(there)}; make gpu-bundle GPU_CUDA={wanted.removeprefix('cuda')}"
        )


def environment() -> dict[str, str]:
    """The environment of the tests: this checkout, what was unpacked, and no network."""
    path = os.pathsep.join([str(SITE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def machine(device: Any) -> dict[str, Any]:
    """The card, its driver, and the versions of what runs on it."""
    import torch

    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    versions["python"] = sys.version.split()[0]
    if device.type == "cpu":
        return {"card": "cpu rehearsal", "driver": None, "memory_gib": None, "cuda": None, "versions": versions}
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return {
        "card": properties.name,
        "driver": driver[0] if driver else None,
        "memory_gib": round(properties.total_memory / GIB, 2),
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def run_tests(limit_s: float) -> dict[str, Any]:
    """Runs the tests marked `gpu`; says which failed, and whether all of them ran in time."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # -P and append: what was unpacked comes before the checkout.
        command = [sys.executable, "-P", "-m", "pytest", "--import-mode=append", "-m", "gpu", f"--junitxml={report}"]
        # Versions differ from those of constraints.txt there: their warnings are not what is checked.
        command += ["-o", "filterwarnings=default", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        command += ["tests/engine", "tests/worker"]
        is_whole = True
        try:
            code = subprocess.run(command, cwd=ROOT, env=environment(), timeout=limit_s, check=False).returncode
            is_whole = code in (0, 1)
        except subprocess.TimeoutExpired:
            is_whole = False
        cases = list(ElementTree.parse(report).getroot().iter("testcase")) if report.is_file() else []
    names = {f"{case.get('classname')}::{case.get('name')}": {child.tag for child in case} for case in cases}
    return {
        "passed": sum(not tags & {"failure", "error", "skipped"} for tags in names.values()),
        "skipped": sum("skipped" in tags for tags in names.values()),
        "failed": sorted(name for name, tags in names.items() if tags & {"failure", "error"}),
        "is_whole": is_whole,
        "duration_s": round(time.monotonic() - started, 1),
    }


def measured(shape: str, device: Any, deadline: float) -> Iterator[dict[str, Any]]:
    """Step time and peak memory: one slot at growing sizes, with and without recomputing; then packs."""
    from tests.gpu.shapes import random_base

    if time.monotonic() > deadline - MARGIN_S:
        yield {"kind": "solo", "shape": shape, "error": "no time left"}
        return
    try:
        model = random_base(shape, device)
    except RuntimeError as error:
        yield {"kind": "solo", "shape": shape, "error": _first_line(error)}
        return
    vocabulary = model.config.vocab_size
    for gradient_checkpointing in (True, False):
        for tokens in TOKENS:
            row = {"kind": "solo", "shape": shape, "tokens": tokens, "gradient_checkpointing": gradient_checkpointing}
            yield row | _step(model, vocabulary, device, [tokens], gradient_checkpointing, deadline)
    for slots in PACKED_SLOTS:
        row = {"kind": "packed", "shape": shape, "slots": slots, "tokens": slots * SEQUENCE_TOKENS}
        yield row | _step(model, vocabulary, device, [SEQUENCE_TOKENS] * slots, True, deadline)


def _step(
    model: Any, vocabulary: int, device: Any, tokens: list[int], gradient_checkpointing: bool, deadline: float
) -> dict[str, Any]:
    """The median step of a pack whose slots have so many tokens each, and its peak; or why there is none."""
    from sweeper.engine.stack import detach

    if time.monotonic() > deadline - MARGIN_S:
        return {"error": "no time left"}
    _release(device)
    try:
        return _timed(model, vocabulary, device, tokens, gradient_checkpointing, deadline)
    except RuntimeError as error:  # out of memory comes as several kinds of it
        return {"error": _first_line(error)}
    finally:
        detach(model)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def _timed(
    model: Any, vocabulary: int, device: Any, tokens: list[int], gradient_checkpointing: bool, deadline: float
) -> dict[str, Any]:
    import torch

    from sweeper.data.prompt import Example
    from sweeper.engine.pack import Pack
    from sweeper.models.targets import linear_names
    from sweeper.trial import Rhythm
    from tests.conftest import trial_params

    length = min(SEQUENCE_TOKENS, tokens[0])
    rows = tokens[0] // length
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(2, vocabulary, (64, length), generator=generator).tolist()
    examples = [Example(prompt=tuple(row[:-ANSWER_TOKENS]), answer=tuple(row[-ANSWER_TOKENS:])) for row in drawn]
    pack = Pack(
        model,
        linear_names(model),
        examples,
        pad=0,
        chunk_tokens=sum(tokens),
        gradient_checkpointing=gradient_checkpointing,
    )
    rhythm = Rhythm(interval_examples=1000 * rows, evaluations=1, batch_size=rows)
    for number in range(len(tokens)):
        pack.admit(*pack.new_slot(number, trial_params(rank=RANK, batch_size=rows), rhythm, seed=number))
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = []
    for step in range(WARM_UP_STEPS + STEPS):
        wait()
        started = time.perf_counter()
        ticks = pack.tick()
        wait()
        assert all(tick.is_finite for tick in ticks)
        if step >= WARM_UP_STEPS:
            seconds.append(time.perf_counter() - started)
        elif time.monotonic() > deadline - MARGIN_S:
            return {"error": "no time left"}
        if time.monotonic() > deadline - MARGIN_S:
            break
    result: dict[str, Any] = {
        "step_s": round(statistics.median(seconds), 5),
        "slowest_s": round(max(seconds), 5),
        "steps": len(seconds),
    }
    if device.type == "cuda":
        result["peak_allocated_gib"] = round(torch.cuda.max_memory_allocated(device) / GIB, 4)
        result["peak_reserved_gib"] = round(torch.cuda.max_memory_reserved(device) / GIB, 4)
    return result


def _release(device: Any) -> None:
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


if __name__ == "__main__":
    sys.exit(main())
