from __future__ import annotations

import time
from pathlib import Path

import pytest

from sweeper.clock import now_s
from sweeper.events import EventLog, EventReader


def test_a_reader_gets_what_is_whole_and_new(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert list(EventReader(file).new()) == []  # not there yet
    log = EventLog(file)
    log.write("old")
    reader = EventReader(file)
    log.write("tick", step=1)
    with file.open("a") as half:
        half.write('{"event": "ti')
    assert [event["event"] for event in reader.new()] == ["tick"]
    with file.open("a") as half:
        half.write('ck"}\n')
    assert [event["event"] for event in reader.new()] == ["tick"]
    assert list(reader.new()) == []
    log.close()


def test_what_was_cut_off_is_no_event_and_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    for _ in range(2):  # as after a kill
        log = EventLog(file)
        log.write("loading", model="tiny")
        log.close()
        with file.open("a") as half:
            half.write('{"event": "loading", "time": 17')
    reader = EventReader(file, 0)
    assert [event["event"] for event in reader.new()] == ["loading", "loading"]
    log = EventLog(file)
    log.write("tick")
    log.close()
    assert [event["event"] for event in reader.new()] == ["tick"]
    assert list(EventReader.of_session(file, "loading", 0.0).new()) == []  # the latest is the half one


def test_events_are_in_order_whatever_is_done_to_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    began_s = now_s()
    log.write("loading", model="tiny")
    for jump_s in (-86_400, 86_400):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: began_s + jump_s)
        log.write("tick")
    log.close()
    events = list(EventReader.of_session(tmp_path / "events.jsonl", "loading", began_s).new())
    assert [event["event"] for event in events] == ["loading", "tick", "tick"]
    assert 0 <= events[2]["time"] - events[0]["time"] < 60
