from __future__ import annotations

from pathlib import Path

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
