"""Who gets a place, and for how long others are waited for; on stand-ins for the pack and the memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sweeper.errors import OutOfRoomError
from sweeper.worker import room
from sweeper.worker.room import Room, Waiting


class Events(list[str]):
    def write(self, _event: str, message: str = "", **_values: object) -> None:
        self.append(message)


class Memory(SimpleNamespace):
    """The readings: `pressed` says, question by question, whether a neighbour leaves too little."""

    pressed: list[bool]

    def is_pressed(self) -> bool:
        return self.pressed.pop(0) if len(self.pressed) > 1 else self.pressed[0]

    def has_room(self, _params: Any, _stack: Any) -> bool:
        return True

    def in_words(self, failure: str) -> str:
        return f"{failure}; 1 of 2 GiB"


class Pack(SimpleNamespace):
    stack = SimpleNamespace(clear=lambda: None)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, events: Events) -> Room:
    monkeypatch.setattr(room, "NEIGHBOUR_PAUSE_S", 0.0)
    config: Any = SimpleNamespace(memory=SimpleNamespace(wait_s=60.0))
    bench: Any = SimpleNamespace(pack=Pack(slots=[]))
    memory: Any = Memory(pressed=[False], guard=SimpleNamespace(describe=lambda: "all is full"))
    recorder: Any = SimpleNamespace(events=events, wait=lambda number: None)
    checkpoints: Any = SimpleNamespace()
    empty: Any = lambda asked: SimpleNamespace(params=asked.params)  # noqa: E731
    return Room(config, bench, memory, checkpoints, recorder, refuse=lambda *_: None, empty=empty)


def fails(times: int) -> Any:
    """Runs out of memory so many times, and then answers."""
    left = [times]

    def work() -> str:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("out of memory")
        return "done"

    return work


def waiting(number: int, beside: int | None = None, is_pressed: bool = False) -> Waiting:
    asked: Any = SimpleNamespace(number=number, params={})
    return Waiting(asked, beside, is_pressed)


def test_what_needs_no_trial_waits_for_neighbours(made: Room, events: Events) -> None:
    made._memory.pressed = [True]  # type: ignore[attr-defined]
    assert made.outlast(fails(3)) == "done"
    assert events == ["waiting for memory that others hold: out of memory"]
    made.outlast(fails(1))  # another wait, which is said again
    assert len(events) == 2


def test_what_does_not_fit_without_neighbours_is_said(made: Room) -> None:
    with pytest.raises(OutOfRoomError, match="the base alone must fit, but: out of memory; 1 of 2 GiB"):
        made.outlast(fails(1))


def test_a_wait_has_an_end(made: Room) -> None:
    made._memory.pressed = [True]  # type: ignore[attr-defined]
    made._config.memory.wait_s = 0.0
    with pytest.raises(OutOfRoomError, match=r"more than memory\.wait_s = 0 s .*raise memory\.wait_s. Now all is full"):
        made.outlast(fails(10**6))


def test_what_did_not_fit_beside_so_many_waits_for_fewer(made: Room) -> None:
    made._bench.pack.slots = ["a", "b"]  # type: ignore[list-item]
    made.waiting = {4: waiting(4, beside=1)}
    assert made.next_waiting() is None
    made._bench.pack.slots.pop()
    assert made.next_waiting() is made.waiting[4].asked


def test_what_a_neighbour_pressed_out_comes_back_when_it_is_gone(made: Room) -> None:
    made._bench.pack.slots = ["a", "b"]  # type: ignore[list-item]
    made.waiting = {4: waiting(4, beside=0, is_pressed=True)}
    made._memory.pressed = [True, False]  # type: ignore[attr-defined]
    assert made.next_waiting() is None
    assert made.next_waiting() is made.waiting[4].asked
