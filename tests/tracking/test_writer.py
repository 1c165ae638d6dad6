"""The thread that writes runs: order, batches, patience, and who hears what went wrong."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.errors import AwayError, TrackingError
from sweeper.tracking import writer as module
from sweeper.tracking.operation import Kind, Operation, Point
from sweeper.tracking.spool import Held, Spool, Waiting, waiting
from sweeper.tracking.tracker import STUDY, RunKey
from sweeper.tracking.writer import Writer
from sweeper.trial import RunKind

TRIAL, OTHER = (RunKey(RunKind.TRIAL, number) for number in (0, 1))
END = Operation(Kind.END, TRIAL, {"state": "FINISHED", "tags": {}})


class Store(module.Store):
    """What was written, call by call, and how often it fails before."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.calls: list[tuple[RunKey | None, list[int]]] = []
        self.failures, self.error = failures, error or ConnectionError("nobody there")
        self.lock = threading.Event()
        self.lock.set()

    def do(self, operation: Operation) -> None:
        self.lock.wait()
        if self.failures:
            self.failures -= 1
            raise self.error
        is_points = operation.kind is Kind.POINTS
        self.calls.append((operation.key, [point.step for point in operation.points] if is_points else []))

    def is_passing(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)

    def bars(self, error: Exception) -> bool:
        return isinstance(error, PermissionError)

    def in_words(self, error: Exception) -> str:
        return str(error)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)


def writer(store: Store, patience_s: float = 0.0, waits: Waiting | None = None) -> Writer:
    return Writer(store, patience_s, waits if waits is not None else Held())


def point(key: RunKey, step: int) -> Operation:
    return Operation.of_points(key, [Point("loss", 0.5, 0, step)])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_points_of_a_run_go_together_and_in_order() -> None:
    store = Store()
    made = writer(store)
    for step in range(5):
        made.give(point(TRIAL, step))
        made.give(point(OTHER, step))
    assert store.calls == []  # they wait for others
    assert made.flush()
    assert store.calls == [(TRIAL, [0, 1, 2, 3, 4]), (OTHER, [0, 1, 2, 3, 4])]
    store.lock.clear()
    made.give(point(TRIAL, 5))
    made.give(END)
    made.give(point(TRIAL, 6))
    store.lock.set()
    assert made.ask(lambda: len(store.calls)) == 5
    assert store.calls[2:] == [(TRIAL, [5]), (TRIAL, []), (TRIAL, [6])]
    assert made.count == 0


def test_points_that_nobody_waits_for_are_written_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.05)
    store = Store()
    made = writer(store)
    for step in range(3):  # also when the thread has ended meanwhile
        made.give(point(TRIAL, step))
        wait_for(lambda so_far=step + 1: len(store.calls) == so_far)  # type: ignore[misc]


def test_whoever_is_away_for_a_while_loses_nothing_and_is_said_once() -> None:
    store, lines = Store(failures=10**9), list[str]()
    made = writer(store, patience_s=30)
    made.announce = lines.append
    made.give(point(TRIAL, 0))
    flushing = threading.Thread(target=made.flush)
    flushing.start()
    wait_for(lambda: made.is_away)
    made.give(point(TRIAL, 1))  # nobody waits meanwhile
    store.failures = 0
    assert made.flush()
    flushing.join()
    assert store.calls == [(TRIAL, [0]), (TRIAL, [1])]
    assert not made.is_away
    assert lines[0] == "runs cannot be written now, and wait for up to 30 s: nobody there"
    assert [line.partition(" after")[0] for line in lines[1:]] == ["runs can be written again"]


def test_a_refusal_is_said_at_the_next_call_and_at_every_later_one(tmp_path: Path) -> None:
    for waits in (Held(), Spool(tmp_path, "worker-0")):
        made = writer(Store(failures=1, error=PermissionError("no right")), 30, waits)
        made.give(point(TRIAL, 0))
        for call in (made.flush, lambda of=made: of.give(END), lambda of=made: of.ask(int), made.flush):  # type: ignore[misc]
            with pytest.raises(TrackingError, match=r"^no right$"):
                call()
        made.close()
    assert waiting(tmp_path) == 1  # what was refused is there for when the right is


def test_patience_has_an_end_where_nothing_is_kept() -> None:
    made = writer(Store(failures=10**9), patience_s=0.2)
    made.give(point(TRIAL, 0))
    begun = time.monotonic()
    with pytest.raises(AwayError, match=r"nobody there \(it was tried again for 0.\d s\)"):
        made.flush()
    assert 0.2 <= time.monotonic() - begun < 5
    hasty = writer(Store(failures=1))
    hasty.give(point(TRIAL, 0))
    with pytest.raises(TrackingError, match=r"^nobody there$"):  # without any, the first failure is the last
        hasty.flush()


def test_a_store_that_stays_away_stops_nobody_where_what_waits_is_kept(tmp_path: Path) -> None:
    store, lines = Store(failures=10**9), list[str]()
    made = writer(store, 0.3, Spool(tmp_path, "worker-0"))
    made.announce = lines.append
    made.give(point(TRIAL, 0))
    assert not made.settle()
    with pytest.raises(AwayError, match="cannot be asked"):
        made.ask(int)
    for step in range(1, 100):
        made.give(point(TRIAL, step))
    made.give(END)
    begun = time.monotonic()
    assert not made.flush()
    assert time.monotonic() - begun < 10
    assert made.count == waiting(tmp_path) == 101
    made.close()
    assert lines == ["runs cannot be written now, and wait on the disk until they can: nobody there"]

    again = Store()  # of the next session
    other = writer(again, 0.3, Spool(tmp_path, "worker-0"))
    other.give(point(OTHER, 0))
    assert other.flush()
    assert again.calls == [(TRIAL, [0]), (TRIAL, [*range(1, 100)]), (TRIAL, []), (OTHER, [0])]
    assert (other.count, waiting(tmp_path)) == (0, 0)
    other.close()


def test_what_is_refused_in_a_second_session_too_stops_no_third(tmp_path: Path) -> None:
    made = writer(Store(failures=1, error=ValueError("no such parameter")), 0, Spool(tmp_path, "worker-0"))
    made.give(END)
    with pytest.raises(TrackingError, match="no such parameter"):
        made.flush()
    made.close()
    store, lines = Store(failures=1, error=ValueError("no such parameter")), list[str]()
    made = writer(store, 0, Spool(tmp_path, "worker-0"))
    made.announce = lines.append
    made.give(point(TRIAL, 0))
    assert made.flush()
    assert store.calls == [(TRIAL, [0])]
    assert lines == ["something of a run is left out, for it is refused again: no such parameter"]
    made.close()


def test_what_waits_for_long_takes_little_memory(tmp_path: Path) -> None:
    made = writer(Store(failures=10**9), 0, Spool(tmp_path, "worker-0"))
    made.give(END)
    assert not made.settle()
    tracemalloc.start()
    for step in range(2_000):
        made.give(Operation.of_points(TRIAL, [Point(f"metric/{name}", 0.25, 0, step) for name in range(40)]))
    _, highest_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert highest_bytes < 1024**2  # 80,000 points take ten times as much
    assert made.count == 2_001
    assert len(list(tmp_path.rglob("*.jsonl"))) > 2  # of which one at a time is read
    made.close()


def test_who_stops_does_not_wait_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOPPING_S", 0.1)
    made = writer(Store(failures=10**9), patience_s=300)
    stopping = threading.Event()
    made.is_stopping = stopping.is_set
    made.give(point(TRIAL, 0))
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
        made.give(point(TRIAL, 0))
    monkeypatch.setattr(threading.Thread, "start", start)
    made.give(point(STUDY, 1))
    made.flush()
    assert store.calls[-1] == (STUDY, [1])


def test_an_error_that_has_no_words_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_words(_store: Store, error: Exception) -> str:
        raise ValueError("no words")

    monkeypatch.setattr(Store, "in_words", no_words)
    made = writer(Store(failures=1))
    made.give(point(TRIAL, 0))
    with pytest.raises(TrackingError, match="ConnectionError, and ValueError in saying so"):
        made.flush()


def test_a_line_that_is_no_operation_is_not_waited_for(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "worker-0")
    spool.add(point(TRIAL, 1))
    spool.close()
    [file] = tmp_path.rglob("*.jsonl")
    file.write_bytes(b'{"do": "points", "ru\n' + file.read_bytes())
    store = Store()
    made = writer(store, waits=Spool(tmp_path, "worker-0"))
    assert made.count == 1
    waiter = threading.Thread(target=made.flush, daemon=True)
    waiter.start()
    waiter.join(20)
    assert not waiter.is_alive()
    assert (store.calls, made.count) == ([(TRIAL, [1])], 0)
    made.close()
