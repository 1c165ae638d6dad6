from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from sweeper.launching.progress import Event, Progress
from sweeper.launching.screen import Output, View, show
from tests.launch.test_progress import EVALUATED, STARTED, ended, tick

NAME = "t07 r64 a/r2 lr2e-4"
_TOLD: list[Event] = [
    {"event": "loading", "model": "tiny"},
    {"event": "baseline", "accuracy": 0.129, "accuracy_se": 0.02},
    STARTED,
    {**STARTED, "number": 7, "name": NAME},
    tick(110.0, (3, 10), (7, 2)),
    tick(120.0, (3, 20), (7, 7), peak_gib=3.0),
    {**EVALUATED, "number": 7},
    ended("COMPLETE", 0.5),
    tick(130.0, (7, 17), peak_gib=2.5),
    {"event": "spent", "time": 130.0, "usd": 0.0123, "device_s": 1234.6, "usd_per_s": 0.0001},
]
STORY: list[Event] = [{"worker": 0, **event} for event in _TOLD]


class Terminal(io.TextIOWrapper):
    """A terminal that keeps what it is sent."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


def told(**changes: float) -> Progress:
    progress = Progress("demo", "accuracy", 16, began_s=70.0, **changes)  # type: ignore[arg-type]
    for event in STORY:
        progress.apply(event)
    return progress


def frame(progress: Progress, width: int, encoding: str = "utf-8") -> list[str]:
    """The live view at the time of its latest event, line by line."""
    terminal = Terminal(encoding)
    Console(file=terminal, width=width, color_system=None).print(View(progress, 130.0))
    return [line.rstrip() for line in terminal.text().splitlines()]


def test_a_wide_terminal() -> None:
    assert frame(told(limit_usd=0.5), 120) == [
        "demo  1:00  training",
        "ended: 1 of 16 (1 complete)",
        "best accuracy: 0.500 (trial 3)   untuned base: 0.129",
        "spent: $0.0123 of $0.5   search ends in about 4 min",
        "memory ━━━━━━────────────── 2.5 of 8 GiB, highest 3",
        "",
        "slot  trial                                       step   loss  last accuracy  tokens/s",
        "   2  t07 r64 a/r2 lr2e-4  ━━━━━━━━━━━━━━━━━───  17/20  1.500          0.250       750",
    ]


def test_sixty_columns_have_room_for_what_matters() -> None:
    lines = frame(told(limit_usd=0.5), 60)
    assert max(map(len, lines)) <= 60
    assert lines[-2:] == [
        "slot  trial                           loss  accuracy",
        "   2  t07 r64 a/r2 lr2e-4  ━━━━━━━─  1.500     0.250",
    ]
    long = told()
    long.in_flight["trial", 7].name = NAME + " d0.05 wd0.01 bs16 ep3 warmup0.03"
    lines = frame(long, 60)
    assert max(map(len, lines)) <= 60
    assert lines[-1] == "   2  t07 r64 a/r2 lr2e-4 d0.0…  ━━━━━━━─  1.500     0.250"


def test_an_encoding_without_bars_has_others() -> None:
    lines = frame(told(), 120, "ascii")
    assert "memory ######-----" in lines[4]
    assert "#################---  17/20" in lines[-1]


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"usd": None, "device_s": 1234.6, "usd_per_s": None}, "spent: 1,235 device s of 2 h"),
        ({"usd": None, "device_s": 4500.0, "usd_per_s": None}, "spent: 1.25 device h of 2 h"),
        ({"usd": 0.25, "device_s": 900.0, "usd_per_s": 0.0}, "spent: $0.250, 900 device s of 2 h"),
    ],
)
def test_hours_are_a_budget_too(event: Event, shown: str) -> None:
    progress = Progress("demo", "accuracy", 16, limit_s=7200.0)
    progress.apply({"event": "spent", "time": 130.0, **event})
    assert frame(progress, 120)[3].startswith(f"{shown}   search ends within about ")
    assert frame(progress, 120)[3].endswith(", with its budget")  # of the trials' pace, nothing is known


def test_the_budget_that_is_spent_first_is_said() -> None:
    assert (
        frame(told(limit_usd=0.02), 120)[3] == "spent: $0.0123 of $0.02   search ends in about 1 min, with its budget"
    )


def test_what_is_not_known_is_not_shown() -> None:
    assert frame(Progress("demo", "accuracy", 16, began_s=70.0), 120) == [
        "demo  1:00  starting",
        "ended: 0 of 16",
        "best accuracy: none yet",
    ]


@pytest.mark.parametrize("no_color", ["1", ""])
def test_no_colour_leaves_no_escape_codes_but_the_cursors(monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLORTERM", raising=False)
    terminal = Terminal("utf-8")
    monkeypatch.setattr("sys.stdout", terminal)
    with show(Progress("demo", "accuracy", 16)) as screen:
        screen.update([*STORY, {"event": "checkpoint_skipped", "number": 3, "message": "it must [fit]"}])
    text = terminal.text()
    assert "warning: it must [fit]" in text  # above the view
    assert NAME in text
    assert bool(re.search(r"\x1b\[[0-9;]*m", text)) == (no_color == "")


@pytest.mark.parametrize("term", ["dumb", None])
def test_without_a_terminal_that_moves_its_cursor_there_are_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], term: str | None
) -> None:
    if term is not None:
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("FORCE_COLOR", "1")
    with show(Progress("demo", "accuracy", 16)) as screen:
        screen.update(STORY)
    assert capsys.readouterr().out.splitlines() == [
        "loading tiny",
        "untuned base: validation accuracy 0.129 ± 0.020",
        "t03 r8: started",
        f"{NAME}: started",
        f"{NAME}: validation accuracy 0.250 ± 0.020 after 40 examples",
        "t03 r8: complete at accuracy 0.500; 1 of 16 ended",
    ]


def test_beside_what_a_script_reads_progress_is_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with show(Progress("demo", "accuracy", 16), Output.BESIDE) as screen:
        screen.update(STORY)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", "loading tiny")


def test_scripts_get_the_events(capsys: pytest.CaptureFixture[str]) -> None:
    with show(Progress("demo", "accuracy", 16), Output.JSON) as screen:
        screen.update([*STORY, {"event": "of_later", "slots": [{"number": 3, "loss": float("nan")}]}])
    lines = capsys.readouterr().out.splitlines()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = [json.loads(line, parse_constant=refuse) for line in lines]
    assert found == [*STORY, {"event": "of_later", "slots": [{"number": 3, "loss": None}]}]
