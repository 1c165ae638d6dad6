"""The thread that writes runs: order, batches, patience, and who hears what went wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from sweeper.errors import TrackingError
from sweeper.tracking import writer as module
from sweeper.tracking.tracker import STUDY, RunKey
from sweeper.tracking.writer import Point, Writer
from sweeper.trial import RunKind

TRIAL, OTHER = (RunKey(RunKind.TRIAL, number) for number in (0, 1))


class Store:
    """What was written, call by call, and how often it fails before."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.calls: list[tuple[RunKey, list[int]]] = []
        self.failures, self.error = failures, error or ConnectionError("nobody there")
        self.lock = threading.Event()
        self.lock.set()

    def write(self, key: RunKey, points: list[Point]) -> None:
        self.lock.wait()
        if self.failures:
            self.failures -= 1
            raise self.error
        self.calls.append((key, [point.step for point in points]))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)


def writer(store: Store, patience_s: float = 0.0) -> Writer:
    def is_passing(error: Exception) -> bool:
        return isinstance(error, ConnectionError)

    return Writer(store.write, is_passing, str, nullcontext, patience_s)


def point(step: int) -> list[Point]:
    return [Point("loss", 0.5, 0, step)]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_points_of_a_run_go_together_and_in_order() -> None:
    store = Store()
    made = writer(store)
    for step in range(5):
        made.add(TRIAL, point(step))
        made.add(OTHER, point(step))
    assert store.calls == []  # they wait for others
    made.flush()
    assert store.calls == [(TRIAL, [0, 1, 2, 3, 4]), (OTHER, [0, 1, 2, 3, 4])]
    made.add(TRIAL, point(5))
    made.then(lambda _: store.calls.append((STUDY, [])))
    made.add(TRIAL, point(6))
    assert made.ask(lambda _: len(store.calls)) == 5
    assert store.calls[2:] == [(TRIAL, [5]), (STUDY, []), (TRIAL, [6])]


def test_points_that_nobody_waits_for_are_written_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.05)
    store = Store()
    writer(store).add(TRIAL, point(0))
    wait_for(lambda: store.calls == [(TRIAL, [0])])


def test_whoever_is_away_for_a_while_loses_nothing_and_is_said_once() -> None:
    store, lines = Store(failures=3), list[str]()
    made = writer(store, patience_s=30)
    made.announce = lines.append
    made.add(TRIAL, point(0))
    flushing = threading.Thread(target=made.flush)
    store.failures = 10**9
    flushing.start()
    wait_for(lambda: made.is_away)
    made.add(TRIAL, point(1))  # nobody waits meanwhile
    store.failures = 0
    made.flush()
    flushing.join()
    assert store.calls == [(TRIAL, [0]), (TRIAL, [1])]
    assert not made.is_away
    assert lines[0].startswith(
        "runs cannot be written now, and are held back for up to 30 s (tracking.patience_s): nob"
    )
    assert [line.partition(" after")[0] for line in lines[1:]] == ["runs can be written again"]


def test_a_refusal_is_said_at_the_next_call_and_at_every_later_one() -> None:
    made = writer(Store(failures=1, error=PermissionError("no right")), patience_s=30)
    made.add(TRIAL, point(0))
    for call in (made.flush, lambda: made.add(TRIAL, point(1)), lambda: made.ask(lambda _: 1), made.flush):
        with pytest.raises(TrackingError, match=r"^no right$"):
            call()


def test_patience_has_an_end() -> None:
    made = writer(Store(failures=10**9), patience_s=0.2)
    made.add(TRIAL, point(0))
    begun = time.monotonic()
    with pytest.raises(TrackingError, match=r"nobody there \(it was tried again for 0.\d s; tracking.patience_s"):
        made.flush()
    assert 0.2 <= time.monotonic() - begun < 5
    hasty = writer(Store(failures=1))
    hasty.add(TRIAL, point(0))
    with pytest.raises(TrackingError, match=r"^nobody there$"):  # without any, the first failure is the last
        hasty.flush()


def test_what_is_held_has_a_bound_and_whoever_brings_more_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_POINTS", 3)
    store = Store()
    made = writer(store)
    store.lock.clear()
    for step in range(3):
        made.add(TRIAL, point(step))
    adding = threading.Thread(target=made.add, args=(TRIAL, point(3)))
    adding.start()
    adding.join(0.2)
    assert adding.is_alive()
    flushing = threading.Thread(target=made.flush)
    flushing.start()
    store.lock.set()
    adding.join(10)
    flushing.join(10)
    assert not adding.is_alive()
    made.flush()
    assert [step for _, steps in store.calls for step in steps] == [0, 1, 2, 3]


def test_who_only_asks_does_not_break_up_what_waits_for_a_store_that_is_away() -> None:
    store = Store(failures=10**9)
    made = writer(store, patience_s=30)
    made.add(TRIAL, point(0))
    assert not made.settle()
    for step in range(1, 200):
        made.add(TRIAL, point(step))
        made.add(OTHER, point(step))
        assert not made.settle()
    store.failures = 0
    made.flush()
    assert store.calls == [(TRIAL, [0]), (TRIAL, [*range(1, 200)]), (OTHER, [*range(1, 200)])]


def test_who_stops_does_not_wait_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOPPING_S", 0.1)
    made = writer(Store(failures=10**9), patience_s=300)
    stopping = threading.Event()
    made.is_stopping = stopping.is_set
    made.add(TRIAL, point(0))
    assert not made.settle()
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 300.0)
    begun = time.monotonic()
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(TrackingError, match="nobody there"):
        made.flush()
    assert time.monotonic() - begun < 20


def test_a_thread_that_cannot_be_made_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    store, start = Store(), threading.Thread.start
    made = writer(store)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        made.add(TRIAL, point(0))
    monkeypatch.setattr(threading.Thread, "start", start)
    made.add(OTHER, point(1))
    made.flush()
    assert store.calls[-1] == (OTHER, [1])


def test_an_error_that_has_no_words_is_heard_of() -> None:
    def no_words(error: Exception) -> str:
        raise ValueError("no words")

    made = Writer(Store(failures=1).write, lambda _: False, no_words, nullcontext, 0.0)
    made.add(TRIAL, point(0))
    with pytest.raises(TrackingError, match="ConnectionError, and ValueError in saying so"):
        made.flush()
