"""`make gpu-check`: what a CUDA machine says about the engine, in at most nine minutes, as one JSON file.

It runs the tests that are marked `gpu`, while the memory of the shapes is foretold on the CPU. Then it measures, on
models with random weights: first the memory of training steps, beside what was foretold; then, in the time that is
left, the time of a step and its peak, which on a slow card ends before the largest sizes. It needs no network; what
a machine lacks beside torch, transformers and peft comes from `make gpu-bundle`. `--rehearse` does the same on the
CPU with a toy, to try the check itself.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
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
from concurrent.futures import Future, ThreadPoolExecutor
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
TESTS = (  # where tests are marked `gpu`; others would ask for what the bundle has not, such as mlflow
    "tests/engine",
    "tests/export/test_on_card.py",
    "tests/export/test_parity.py",
    "tests/memory/test_readings.py",
    "tests/money/test_energy.py",
    "tests/worker/test_session.py",
)
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
    os.environ.update(environment())

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
    importlib.import_module("tests.gpu.memory")  # not in a thread: what it imports sets a signal's handler

    shapes = ("toy",) if arguments.rehearse else ("0.5b", "8b")
    # One after the other: each is two processes, and the tests want some of the CPU too.
    background = ThreadPoolExecutor(max_workers=1)
    formulas = {shape: background.submit(formula_of, shape) for shape in shapes}
    tests = result["tests"] = run_tests(min(TESTS_LIMIT_S, deadline - time.monotonic()))
    print(json.dumps(tests), flush=True)
    keep()
    result["memory"] = {}
    for memory in compared(formulas, device, deadline):
        result["memory"] = memory
        print(json.dumps(memory["rows"][-1]), flush=True)
        keep()
    print(json.dumps(result["memory"]["summary"]), flush=True)
    background.shutdown(wait=False, cancel_futures=True)  # of what did not come in time
    result["solo"], result["packed"] = [], []
    for shape in shapes:
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
    """The environment of what is started: this checkout, what was unpacked, and no network."""
    path = os.pathsep.join([str(SITE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "KINETO_LOG_LEVEL": "99",
    }


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
        command += TESTS
        is_whole = True
        try:
            code = subprocess.run(command, cwd=ROOT, timeout=limit_s, check=False).returncode
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


def formula_of(shape: str) -> Any:
    from tests.gpu import memory

    return memory.formula_of(shape)


def compared(formulas: dict[str, Future[Any]], device: Any, deadline: float) -> Iterator[dict[str, Any]]:
    """The result's part `memory`, anew after each row of it."""
    from tests.gpu import memory

    backend = memory.backend_of(device)
    context_gib = memory.context_gib(backend)  # before there are tensors, as a worker does it
    workspace_bytes = backend.workspace_bytes if backend is not None else 0
    rows: list[dict[str, Any]] = []
    for shape, formula in formulas.items():
        for row in memory.compared(shape, formula, device, deadline - MARGIN_S, workspace_bytes):
            rows.append(row)
            yield {
                "context_gib": context_gib,
                "workspace_gib": round(workspace_bytes / GIB, 4),
                "context_after_gib": memory.context_gib(backend),  # with the kernels that were loaded since
                "summary": memory.summary(rows),
                "rows": rows,
            }


def measured(shape: str, device: Any, deadline: float) -> Iterator[dict[str, Any]]:
    """Step time and peak memory: one slot at growing sizes, with and without recomputing; then packs."""
    from tests.gpu.memory import first_line
    from tests.gpu.shapes import random_base

    if time.monotonic() > deadline - MARGIN_S:
        yield {"kind": "solo", "shape": shape, "error": "no time left"}
        return
    try:
        model = random_base(shape, device)
    except RuntimeError as error:
        yield {"kind": "solo", "shape": shape, "error": first_line(error)}
        return
    for gradient_checkpointing in (True, False):
        for tokens in TOKENS:
            row = {"kind": "solo", "shape": shape, "tokens": tokens, "gradient_checkpointing": gradient_checkpointing}
            yield row | _step(model, device, [tokens], gradient_checkpointing, deadline)
    for slots in PACKED_SLOTS:
        row = {"kind": "packed", "shape": shape, "slots": slots, "tokens": slots * SEQUENCE_TOKENS}
        yield row | _step(model, device, [SEQUENCE_TOKENS] * slots, True, deadline)


def _step(model: Any, device: Any, tokens: list[int], gradient_checkpointing: bool, deadline: float) -> dict[str, Any]:
    """The median step of a pack whose slots have so many tokens each, and its peak; or why there is none."""
    from sweeper.engine.stack import detach
    from tests.gpu.memory import first_line

    if time.monotonic() > deadline - MARGIN_S:
        return {"error": "no time left"}
    _release(device)
    try:
        return _timed(model, device, tokens, gradient_checkpointing, deadline)
    except RuntimeError as error:  # out of memory comes as several kinds of it
        return {"error": first_line(error)}
    finally:
        detach(model)


def _timed(model: Any, device: Any, tokens: list[int], gradient_checkpointing: bool, deadline: float) -> dict[str, Any]:
    import torch

    from sweeper.preflight.case import Case
    from tests.gpu.shapes import random_pack

    length = min(SEQUENCE_TOKENS, tokens[0])
    case = Case(RANK, length, tokens[0] // length, len(tokens), ANSWER_TOKENS, is_checkpointed=gradient_checkpointing)
    pack = random_pack(model, case)
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
