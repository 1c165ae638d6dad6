"""`make gpu-check`: what a CUDA machine says about the engine, in at most nine minutes, as one JSON file.

Its parts, all on models with random weights, which `--parts` and `--shapes` choose among:

    tests   the tests that are marked `gpu`, while the memory of the shapes is foretold on the CPU
    memory  the memory of training steps, beside what was foretold
    steps   t(T): the time and the peak of the step of a single trial, T = 64 to 8,192
    packs   S(K, T) = K · t(1, T) / t(K, T), beside what a line through t(T) foretells, and the goals

Each may take its share of the time that is left when it begins (`PLAN_S`), and in it each shape an equal one; what
one leaves is the next one's. What there was no time for is said under `parts`. It needs no network; what a machine
lacks beside torch, transformers and peft comes from `make gpu-bundle`. `--rehearse` does the same on the CPU with a
toy, to try the check itself.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import re
import shutil
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
MARGIN_S = 30  # one step of the largest shape on a slow card
# What each part may take of the time where all of them need it. The tests end long before that on an H200; from what it
# wrote, `memory` takes 100 s there, `steps` 85 s and `packs` 260 s.
PLAN_S = {"tests": 240, "memory": 65, "steps": 65, "packs": 140}
MEMORY_SHAPES = ("0.5b", "8b")  # what fits these two fits what is between them
SPEED_SHAPES = ("0.5b", "1.5b", "8b")
CELL = ("shape", "rank", "seq", "rows", "slots", "slot_tokens", "tokens", "target_modules", "is_checkpointed")
GIB = 1024**3
TESTS = (  # where tests are marked `gpu`; others would ask for what the bundle has not, such as mlflow
    "tests/engine",
    "tests/export/test_on_card.py",
    "tests/export/test_parity.py",
    "tests/memory/test_readings.py",
    "tests/models/test_quantised.py",
    "tests/money/test_energy.py",
    "tests/worker/test_session.py",
)
DISTRIBUTIONS = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "triton")


def main() -> int:
    arguments = asked()
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
    importlib.import_module("tests.gpu.memory")  # not in a thread: what it imports sets a signal's handler
    check = Check(device, deadline, arguments.parts, ("toy",) if arguments.rehearse else arguments.shapes)
    file = arguments.to or RESULTS / file_name(check.result["card"], arguments.parts, arguments.shapes)
    file.parent.mkdir(parents=True, exist_ok=True)
    for news in check.run():
        print(json.dumps(news), flush=True)
        # Whatever ends the check, nothing measured is lost.
        file.write_text(json.dumps(check.result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {file}")
    tests = check.result.get("tests")
    is_passed = tests is None or (
        tests["failed"] == [] and tests["is_whole"] and (arguments.rehearse or tests["passed"] > 0)
    )
    return 0 if is_passed else 1


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="the folder that `make gpu-bundle` wrote")
    parser.add_argument("--to", type=Path, help="the file to write; tests/gpu/results/CARD.json if left out")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a toy")
    parser.add_argument("--parts", type=_among(tuple(PLAN_S)), default=tuple(PLAN_S), metavar="PART,…")
    parser.add_argument("--shapes", type=_among(SPEED_SHAPES), metavar="SHAPE,…", help="of all parts but the tests")
    return parser.parse_args()


def _among(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def chosen(text: str) -> tuple[str, ...]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(known)}, but got {', '.join(unknown)}")
        return tuple(name for name in known if name in names)

    return chosen


def file_name(card: str, parts: tuple[str, ...], shapes: tuple[str, ...] | None) -> str:
    """Where the result goes; a check of some parts alone does not take the place of a whole one."""
    chosen = [] if parts == tuple(PLAN_S) else list(parts)
    name = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return "-".join([name, *chosen, *(shapes or ())]) + ".json"


class Check:
    """The parts that were asked for, one after the other.

    Args:
        deadline: when all must be over, by `time.monotonic`.
        shapes: None: those of each part.

    Attributes:
        result: what there is so far.
    """

    def __init__(self, device: Any, deadline: float, parts: tuple[str, ...], shapes: tuple[str, ...] | None) -> None:
        self.device = device
        self.deadline = deadline
        self.parts = parts
        self.shapes = shapes
        self.result: dict[str, Any] = {"date": datetime.date.today().isoformat(), **machine(device), "parts": {}}
        self._formulas: dict[str, Future[Any]] = {}

    def run(self) -> Iterator[Any]:
        """Says what is new in `result` each time that it grows."""
        yield dict(self.result)
        # One after the other: each is two processes, and the tests want some of the CPU too.
        background = ThreadPoolExecutor(max_workers=1)
        if "memory" in self.parts:
            self._formulas = {shape: background.submit(formula_of, shape) for shape in self.shapes or MEMORY_SHAPES}
        does = {"tests": self._tests, "memory": self._memory, "steps": self._steps, "packs": self._packs}
        for number, part in enumerate(self.parts):
            started = time.monotonic()
            end_s = end_of(part, self.parts[number:], self.deadline)
            told: dict[str, Any] = {"limit_s": round(end_s - started, 1)}
            self.result["parts"][part] = told
            for news in does[part](end_s):
                told["took_s"] = round(time.monotonic() - started, 1)
                told["missing"] = missing(self.result[part].get("rows", []))
                self.result["duration_s"] = round(LIMIT_S - (self.deadline - time.monotonic()), 1)
                yield news
        background.shutdown(wait=False, cancel_futures=True)  # of what did not come in time
        yield self.result["parts"]

    def _tests(self, end_s: float) -> Iterator[Any]:
        self.result["tests"] = run_tests(end_s - time.monotonic())
        yield self.result["tests"]

    def _memory(self, end_s: float) -> Iterator[Any]:
        for grown in compared(self._formulas, self.device, end_s):
            self.result["memory"] = grown
            yield grown["rows"][-1]
        yield self.result["memory"]["summary"]

    def _steps(self, end_s: float) -> Iterator[Any]:
        from tests.gpu import steps

        rate = self._gemm()
        rows = []
        for shape, shape_end_s in shares(self.shapes or SPEED_SHAPES, end_s):
            for row in steps.measured(shape, self.device, shape_end_s, rate):
                rows.append(row)
                self.result["steps"] = {"rows": rows}
                yield row

    def _packs(self, end_s: float) -> Iterator[Any]:
        from tests.gpu import goals, packs

        rate = self._gemm()
        rows = []
        for shape, shape_end_s in shares(self.shapes or SPEED_SHAPES, end_s):
            for row in packs.measured(shape, self.device, shape_end_s, rate):
                rows.append(row)
                known = goals.foretold(rows, self.result.get("steps", {"rows": []})["rows"])
                self.result["packs"] = {**known, "goals": goals.table(rows)}
                yield known["rows"][-1]
        yield self.result["packs"]["fits"]
        yield self.result["packs"]["goals"]

    def _gemm(self) -> float:
        """The rate of a large matrix product, in TFLOP/s, measured once."""
        from tests.gpu import timing

        if "gemm" not in self.result:
            self.result["gemm"] = timing.gemm(self.device)
        rate: float = self.result["gemm"]["tflop_per_s"]
        return rate


def end_of(part: str, left: tuple[str, ...], deadline: float) -> float:
    """When a part must be over: its share of the time that is left for it and the parts after it."""
    now = time.monotonic()
    return now + max(0.0, deadline - MARGIN_S - now) * PLAN_S[part] / sum(PLAN_S[each] for each in left)


def shares(shapes: tuple[str, ...], end_s: float) -> Iterator[tuple[str, float]]:
    """Each shape with when it must be over; what one leaves of its share is for those after it."""
    for number, shape in enumerate(shapes):
        now = time.monotonic()
        yield shape, now + max(0.0, end_s - now) / (len(shapes) - number)


def missing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells that have no figure, each with the reason."""
    return [
        {**{key: row[key] for key in CELL if key in row}, "error": row["error"]}
        for row in rows
        if isinstance(row.get("error"), str)
    ]


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


def compared(formulas: dict[str, Future[Any]], device: Any, end_s: float) -> Iterator[dict[str, Any]]:
    """The result's part `memory`, anew after each row of it."""
    from tests.gpu import memory

    backend = memory.backend_of(device)
    context_gib = memory.context_gib(backend)  # before there are tensors, as a worker does it
    workspace_bytes = backend.workspace_bytes if backend is not None else 0
    rows: list[dict[str, Any]] = []
    for shape, formula in formulas.items():
        for row in memory.compared(shape, formula, device, end_s, workspace_bytes):
            rows.append(row)
            yield {
                "context_gib": context_gib,
                "workspace_gib": round(workspace_bytes / GIB, 4),
                "context_after_gib": memory.context_gib(backend),  # with the kernels that were loaded since
                "summary": memory.summary(rows),
                "rows": rows,
            }


if __name__ == "__main__":
    sys.exit(main())
