"""How fast an adapter answers, where it is known what each batch takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from sweeper.engine.pack import Pack
from sweeper.memory.guard import Guard
from sweeper.memory.planner import Load, Planner, Profile
from sweeper.memory.readings import ByteBudget
from sweeper.serving.served import Served
from sweeper.serving.speed import PASSES, Measured, measure
from sweeper.tasks.classification import Classification
from sweeper.tasks.generation import Generation
from sweeper.trial import Prediction, Rhythm
from tests.conftest import small_model, trial_params
from tests.memory.test_guard import Tensors

PROMPTS = [tuple(range(2, 2 + length)) for length in (4, 9, 6, 12, 5)]


def pack_of_one(planner: Planner | None = None) -> Pack:
    pack = Pack(small_model(torch.float32), ["model.layers.0.mlp.up_proj"], [], pad=0, chunk_tokens=16, planner=planner)
    params = trial_params(target_modules="mlp.up_proj")
    pack.admit(*pack.new_slot(0, params, Rhythm(interval_examples=1, evaluations=1, batch_size=1), seed=0))
    return pack


class Paced:
    """Answers within seconds that are told by the size of a batch, on a clock of its own."""

    room_tokens = None

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.sizes: list[int] = []
        self.now_s = 0.0

    def predict(
        self, pack: Pack, slots: Sequence[int], prompts: Sequence[Any], with_adapters: bool
    ) -> list[list[Prediction]]:
        self.sizes.append(len(prompts))
        pack.answer_tokens += 2 * len(prompts)
        self.now_s += self.seconds(len(prompts))
        return [[Prediction("yes", 1.0) for _ in prompts] for _ in slots]


def timed(task: Any, sizes: Sequence[int] = (1, 2, 4, 8, 16, 32), requests: int = 8) -> Measured:
    clock_s = (lambda: task.now_s) if isinstance(task, Paced) else time.perf_counter
    return measure(Served(pack_of_one(), task, PROMPTS, "it"), sizes, requests, lambda _: None, clock_s)


def test_batches_grow_while_that_is_faster() -> None:
    task = Paced(lambda size: 0.25 * max(size, 4))  # four at once take as long as one, and then it is full
    found = timed(task)
    assert [speed.batch for speed in found.speeds] == [1, 2, 4, 8, 16]  # two more, lest one was slow by chance
    assert found.ended == "up to 16 together are no faster"
    assert [speed.requests_per_s for speed in found.speeds] == [1, 2, 4, 4, 4]
    assert [speed.latency_s for speed in found.speeds] == [1, 1, 1, 2, 4]
    assert task.sizes.count(1) == 1 + PASSES * 8  # the first warms up
    assert task.sizes.count(16) == 1 + PASSES  # whole batches alone: rows come more than once
    assert found.prompt_tokens == 6
    assert found.answer_tokens == 2
    # Eight requests of five rows: all of them, of 36 tokens, and three once more.
    assert 36 + 4 + 5 + 6 + 8 * 2 <= 8 * found.speeds[0].tokens_per_s <= 36 + 12 + 9 + 6 + 8 * 2


def test_the_spread_is_that_of_batches_and_passes() -> None:
    seconds = iter([9.0, *[1.0] * 8, *[2.0] * 8, *[1.0] * 7, 5.0])  # a slow first one warms up
    [speed] = timed(Paced(lambda size: next(seconds)), (1,)).speeds
    assert (speed.low, speed.requests_per_s, speed.high) == (8 / 16, 8 / 12, 8 / 8)
    assert (speed.latency_s, speed.latency_p95_s) == (1.0, 2.0)


def test_answers_are_those_of_the_task() -> None:
    labels = Classification({"a": (5, 6), "b": (5, 7, 9), "c": (5, 7, 8)})
    chosen = timed(labels, (1, 2), requests=4)
    assert 1 <= chosen.answer_tokens <= 2  # a is known by its second token, b and c by their third
    written = timed(Generation(str, 3, end=1), (1, 2), requests=4)
    assert 1 <= written.answer_tokens <= 3
    assert [speed.batch for speed in written.speeds] == [1, 2]
    assert written.ended == "2 is the largest that was asked for"


class PerToken:
    """A thousand bytes a token, and as many as are wanted to hold."""

    def expected_bytes(self, load: Load, profile: Profile) -> int:
        return 1000 * load.rows * load.seq

    transient_bytes = expected_bytes

    def optimizer_bytes(self, profile: Profile) -> int:
        return 0

    def observe(self, expected_bytes: int, measured_bytes: int) -> None:
        """Nothing is learned."""


@pytest.mark.parametrize(("room_tokens", "batches"), [(60, [1, 2, 4]), (30, [1, 2]), (20, [1])])
def test_no_batch_is_tried_that_would_not_fit(room_tokens: int, batches: list[int]) -> None:
    pack = pack_of_one(Planner(guard=Guard(ByteBudget(Tensors(), 1000 * room_tokens)), cost=PerToken()))
    task = Generation(str, 3, end=1)  # at the most 12 tokens and 3 that are written
    found = measure(Served(pack, task, PROMPTS, "it"), (1, 2, 4, 8), 2, announce=lambda _: None)
    assert [speed.batch for speed in found.speeds] == batches
    assert found.ended == f"{2 * batches[-1]} requests of up to 12 tokens do not fit into the memory that is free"


def test_a_batch_that_ran_out_of_memory_all_the_same_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    pack, answer = pack_of_one(), Pack.greedy

    def greedy(self: Pack, chunk: Any, *rest: Any) -> Any:
        if len(chunk.items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, chunk, *rest)

    monkeypatch.setattr(Pack, "greedy", greedy)
    found = measure(Served(pack, Generation(str, 3, end=1), PROMPTS, "it"), (1, 2, 4, 8), 2, announce=lambda _: None)
    assert [speed.batch for speed in found.speeds] == [1, 2]
    assert "4 requests of up to 12 tokens do not fit" in found.ended
