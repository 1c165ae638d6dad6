from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sweeper.engine import checkpoint
from sweeper.errors import CheckpointError
from sweeper.trial import Prediction
from tests.conftest import random_examples, small_model
from tests.engine.checkpoint_writer import made
from tests.engine.oracle import STEPS, TRIALS, admit, largest_difference, new_pack

KILLS = 50


def test_a_trial_goes_on_from_its_file_as_if_nothing_had_happened(tmp_path: Path) -> None:
    examples = random_examples(30)
    whole, broken = (new_pack(small_model(), examples) for _ in range(2))
    params = TRIALS[2].model_copy(update={"dropout": 0.2})
    slot, reference = admit(broken, 4, params), admit(whole, 4, params)
    predictions = [Prediction("a label", 0.75), Prediction("größer", None)]
    for _ in range(STEPS):
        whole.tick()
    for step in range(STEPS):
        if step == 7:
            slot.evaluations.append({"accuracy": 0.5, "macro_f1": 0.25})
            slot.best_evaluation, slot.best_adapter = 0, broken.weights(slot)
            slot.best_predictions = predictions
            slot.peak_bytes, slot.predicted_bytes = 3000, 4000
            before = broken.remove(slot)
            checkpoint.save(tmp_path / "new" / "c.safetensors", slot, before)
            best = slot.best_adapter
            slot, state = checkpoint.load(tmp_path / "new" / "c.safetensors")
            assert slot.evaluations == [{"accuracy": 0.5, "macro_f1": 0.25}]
            assert slot.best_adapter is not None
            assert slot.best_predictions == predictions
            assert (slot.peak_bytes, slot.predicted_bytes) == (3000, 4000)
            assert best is not None
            assert largest_difference(slot.best_adapter.tensors["weight"], best.tensors["weight"]) == 0.0
            broken = new_pack(small_model(), examples)  # another worker, another place in the pack
            admit(broken, 1, TRIALS[0])
            broken.admit(slot, state)
        broken.tick()
    assert (slot.number, slot.seed, slot.step) == (4, reference.seed, STEPS)
    assert slot.supervised_tokens == reference.supervised_tokens
    for kind, tensors in whole.state(reference).tensors.items():
        assert largest_difference(broken.state(slot).tensors[kind], tensors) <= 1e-12


@pytest.mark.parametrize("place", [40, 200, -1, -10_000])
def test_a_damaged_file_is_refused(tmp_path: Path, place: int) -> None:
    file = tmp_path / "c.safetensors"
    checkpoint.save(file, *made(3))
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="must be"):
        checkpoint.load(file)


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    checkpoint.save(file, *made(3))
    content = file.read_bytes()
    for length in (0, 5, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(file)


def test_one_that_does_not_fit_leaves_the_last(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    checkpoint.save(file, *made(1))
    size = file.stat().st_size
    with pytest.raises(
        CheckpointError, match=r"must fit into checkpoint\.max_gib, but .*/c\.safetensors takes 0\.0234"
    ):
        checkpoint.save(file, *made(2), room_bytes=size // 2)
    assert checkpoint.load(file)[0].step == 1
    checkpoint.save(file, *made(2), room_bytes=size)
    assert checkpoint.load(file)[0].step == 2


def test_a_disk_that_refuses_leaves_the_last(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    checkpoint.save(file, *made(1))
    (tmp_path / ".c.safetensors.tmp").touch()  # no folder can be made there, not even by root
    with pytest.raises(CheckpointError, match="must be writable"):
        checkpoint.save(file, *made(2))
    assert checkpoint.load(file)[0].step == 1


def test_killed_at_any_moment_the_last_good_one_loads(tmp_path: Path) -> None:
    """kill -9, fifty times: half of them at random moments, half of them when a file is being written."""
    file = tmp_path / "c.safetensors"
    temporary = tmp_path / ".c.safetensors.tmp"
    chance = random.Random(0)
    checkpoint.save(file, *made(1))
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.checkpoint_writer", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    cut_short = 0
    done = 1
    with writer:
        for kill in range(KILLS):
            print(done + 1, file=writer.stdin, flush=True)
            victim = int(writer.stdout.readline().split()[1])
            if kill % 2:
                wait_until_half_written(temporary)
            else:
                time.sleep(chance.uniform(0.0, 0.3))
            os.kill(victim, signal.SIGKILL)
            lines = list(iter(writer.stdout.readline, "dead\n"))
            done = int(lines[-1]) if lines else done
            if is_half_written(temporary):
                cut_short += 1
                [half] = temporary.iterdir()  # never more than one
                with pytest.raises(CheckpointError):
                    checkpoint.load(half)

            slot, state = checkpoint.load(file)
            # What was acknowledged is there, or the next, which was in place before it could be.
            assert slot.step in (done, done + 1)
            _, expected = made(slot.step)
            for kind, tensors in expected.tensors.items():
                assert all(torch.equal(state.tensors[kind][name], tensors[name]) for name in tensors)
            done = slot.step
        writer.stdin.close()
    assert cut_short >= KILLS // 4  # or the moments were not in the middle


def is_half_written(folder: Path) -> bool:
    """Whether a file's end is still zeros: safetensors makes it as long as it will be, and fills it then."""
    try:
        for file in folder.iterdir():
            with file.open("rb") as opened:
                opened.seek(-64, os.SEEK_END)
                return not any(opened.read())
    except OSError:  # not there, or empty, or renamed meanwhile
        pass
    return False


def wait_until_half_written(folder: Path, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_half_written(folder):
        assert time.monotonic() < deadline, "nothing was written"
