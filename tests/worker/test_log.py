from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sweeper.worker.log import KEPT

TOKEN = "hf_" + "a1B2" * 8

SPEAKS = """
import logging, os, sys, threading, warnings
from pathlib import Path
from sweeper.worker import log

log.begin(Path(sys.argv[1]))
logging.getLogger("library").warning("token %s", sys.argv[2])
warnings.warn("this is old", stacklevel=1)
print("printed in", end=" ")
print("pieces: " + sys.argv[2])
threading.Thread(target=lambda: 1 / 0).start()
os.system("echo a child speaks")
sys.exit if len(sys.argv) < 4 else os.abort()
raise ValueError("with " + sys.argv[2])
"""

FLOODS = """
import logging, os, sys
from pathlib import Path
from sweeper.worker import log

log.MAX_BYTES = 10_000
log.begin(Path(sys.argv[1]))
for number in range(1000):
    logging.getLogger("library").info("line %d of many", number)
os.write(1, b"past the streams\\n")
"""


def run(code: str, file: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", code, str(file), *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, file.read_text(encoding="utf-8")


def test_everything_that_is_said_is_in_it_without_secrets(tmp_path: Path) -> None:
    code, elsewhere, text = run(SPEAKS, tmp_path / "worker.log", TOKEN)
    assert (code, elsewhere) == (1, "")
    assert "WARNING library: token [redacted]" in text
    assert "UserWarning: this is old" in text
    assert "INFO printed: printed in pieces: [redacted]" in text
    assert "WARNING printed: ZeroDivisionError: division by zero" in text
    assert "a child speaks" in text
    assert "WARNING printed: ValueError: with [redacted]" in text
    assert TOKEN not in text


def test_a_crash_of_the_interpreter_leaves_its_trace(tmp_path: Path) -> None:
    _, _, text = run(SPEAKS, tmp_path / "worker.log", TOKEN, "crash")
    assert "Fatal Python error: Aborted" in text


def test_it_is_bounded_and_the_latest_file_has_the_latest_words(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    _, _, text = run(FLOODS, file)
    assert text.endswith("line 999 of many\npast the streams\n")
    files = sorted(tmp_path.glob("worker.log*"))
    assert [one.name for one in files] == ["worker.log", *(f"worker.log.{number}" for number in range(1, KEPT + 1))]
    assert max(one.stat().st_size for one in files) <= 10_100
