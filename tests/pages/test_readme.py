"""The README's commands, one after another, as a newcomer types them: in an empty folder, without a network.

In a short form its launches are cut; with SWEEPER_TESTS=all they are run word for word (half an hour).
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from sweeper.data import tickets
from tests.pages.written import README, ROOT, blocks, commands

IN_FULL = os.environ.get("SWEEPER_TESTS") == "all"
# Seconds in place of minutes. It learns next to nothing.
CUT = [
    "train.examples=64",
    "evaluation.count=2",
    "evaluation.rows=24",
    "search.trials=2",
    "engine.slots=2",
    "retention.choices=null",
    "retention.passages=null",
    "confirmation.top=0",
]
INSTALL = "make .venv/installed && source .venv/bin/activate"  # how the tests come to their environment
SERVERS = {
    "sweeper ui": "http://127.0.0.1:5000/health",
    "sweeper ui demo --open": "http://127.0.0.1:5000/health",
    "sweeper serve my-adapter": "http://127.0.0.1:8000/v1/models",
}


def to_run(command: str) -> str:
    """A command of the README as it is run here."""
    if command == "make demo":
        command = "sweeper launch study=demo"
    command = command.removeprefix("source .venv/bin/activate && ")
    if IN_FULL:
        return command
    if command.startswith("sweeper launch ") and "--cfg" not in command:
        return f"{command} {' '.join(CUT)}"
    if command.startswith("sweeper export "):
        return f"{command} --force"  # of a winner that is not better than the base
    if command.startswith("sweeper best "):
        return f"{command} || test $? = 1"  # as it says of such a winner
    return command


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a newcomer's terminal: an empty home, no store, no network, sweeper on the PATH."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "sweeper").write_text(f'#!/bin/sh\nexec {sys.executable} -m sweeper "$@"\n')
    (bin_folder / "sweeper").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SWEEPER_", "HF_HOME"))}
    path = f"{bin_folder}:{os.environ['PATH']}"
    return {**kept, "HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), "BROWSER": "true", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a help desk's export, whose columns are as they come, and rows without an answer."""
    made = tmp_path / "work"
    made.mkdir()
    rows = tickets.splits()["train"]
    with (made / "helpdesk.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Ticket #", "Body (raw), cleaned", "Assigned team", "Prio"])
        writer.writerows([f"T-{n:05d}", row["text"], row["label"], n % 3 + 1] for n, row in enumerate(rows[:1200]))
    with (made / "new.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Body (raw), cleaned", "Received"])
        writer.writerows([row["text"], "today"] for row in rows[1200:1210])
    return made


def run(command: str, shell: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-ec", command], env=shell, cwd=folder, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def serve(command: str, url: str, shell: dict[str, str], folder: Path) -> None:
    """Runs a server until it answers, and ends it as Ctrl-C does."""
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(["bash", "-c", f"exec {command}"], env=shell, cwd=folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.2)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, 130)


def test_make_demo_is_the_launch_that_is_run_here() -> None:
    recipe = re.search(r"^demo: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    assert recipe[1].splitlines()[0] == "\t$(BIN)/sweeper launch study=demo"


def test_own_data_take_five_commands_at_most() -> None:
    text = (
        README.read_text(encoding="utf-8").partition("\n## Your own data in five commands\n")[2].partition("\n## ")[0]
    )
    [block] = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(block.splitlines()) <= 5


@pytest.mark.timeout(7200 if IN_FULL else 900)
def test_every_command_of_the_readme_works(shell: dict[str, str], folder: Path) -> None:
    written = commands(README)
    assert [command for command in written if command.startswith("make ")] == ["make demo", INSTALL]
    for command in written:
        if command == INSTALL:
            continue
        command = to_run(command)
        if command in SERVERS:
            if command == "sweeper serve my-adapter" and shutil.which("vllm"):
                continue  # not tried: README, "Limits"
            serve(command, SERVERS[command], shell, folder)
        else:
            run(command, shell, folder)
    with (folder / "answered.csv").open(newline="", encoding="utf-8") as file:
        answered = list(csv.DictReader(file))
    assert len(answered) == 10
    assert {row["prediction"] for row in answered} <= {row["label"] for row in tickets.splits()["train"]}
    assert answered[0]["Received"] == "today"
    [code] = blocks(README, "python")
    if not IN_FULL:
        cut = ", ".join(map(repr, CUT))
        code = code.replace('"study=demo", "search.trials=8"', f'"study=demo", {cut}')
        code = code.replace('"study=tickets"', f'"study=tickets", {cut}').replace('export("', 'export(force=True, to="')
    (folder / "notebook.py").write_text(code)
    run(f"{sys.executable} notebook.py", shell, folder)
    assert (folder / "notebook-adapter" / "sweeper.json").is_file()
