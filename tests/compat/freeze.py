"""Makes tests/compat/study.tar.gz: a finished study as today's code leaves it, for the code of later days to read.

    python -m tests.compat.freeze tests/compat/NAME.tar.gz

The archive holds `store/`, the data that the study read under `data/`, and `expected.json`, what the commands said of
it. It is made once for each form that stores have had, with the code of that day, and never again.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.conftest import SHORT

PLACE = "/frozen"  # stands in the archive's files for the folder that it was made in, and for that of the package
PACKAGE = str(Path(__file__).parents[2])
STUDY = "frozen"
SETTINGS = [  # a small adapter, of which one stays
    *(*SHORT, f"study.name={STUDY}", "search.trials=5", "store.keep_adapters=1"),
    *("search.space.rank=[2,4]", "lora.target_modules=[q_proj]"),
]
COMMANDS = (["list"], ["status", STUDY], ["best", STUDY, "--force"], ["cost", STUDY])
_BINARY = {".db", ".safetensors", ".png"}


def sweeper(folder: Path, *arguments: str) -> str:
    """What a command prints, over the store in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments],
        env={**os.environ, "SWEEPER_HOME": str(folder / "store"), "MLFLOW_TRACKING_URI": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def make(folder: Path) -> dict[str, Any]:
    """Runs the study in `folder`; returns what the commands say of it."""
    from sweeper.data import tickets

    (folder / "data").mkdir()
    for split, rows in tickets.splits().items():
        lines = [json.dumps(row) for row in rows[: 96 if split == "train" else 36]]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    sweeper(folder, "launch", *SETTINGS, f"data.path={folder / 'data'}")
    sweeper(folder, "report", STUDY)
    return {command[0]: json.loads(sweeper(folder, *command, "--json")) for command in COMMANDS}


def strip(folder: Path) -> None:
    """Takes out what is big or is made again, and every mention of the folder."""
    store = folder / "store"
    for name in ("models", "memory", "pace"):
        shutil.rmtree(store / name, ignore_errors=True)
    for file in store.rglob("*"):
        if file.suffix in (".png", ".html") or file.name.endswith((".lock", "-wal", "-shm")):
            file.unlink()
    places = {str(folder): PLACE, PACKAGE: PLACE, os.uname().nodename: "machine"}
    for database in (store / "optuna.db", store / "mlflow.db"):
        _rewrite(database, places)
    for file in [path for path in store.rglob("*") if path.is_file() and path.suffix not in _BINARY]:
        text = file.read_text(encoding="utf-8")
        file.write_text(_replaced(text, places), encoding="utf-8")


def _replaced(text: str, places: dict[str, str]) -> str:
    for old, new in places.items():
        text = text.replace(old, new)
    return text


def _rewrite(database: Path, places: dict[str, str]) -> None:
    """Replaces in all texts of a database."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info('{table}')").fetchall():
                if not any(word in kind.upper() for word in ("CHAR", "TEXT")):
                    continue
                for old, new in places.items():
                    connection.execute(
                        f'UPDATE "{table}" SET "{column}" = REPLACE("{column}", ?, ?) WHERE instr("{column}", ?)',
                        (old, new, old),
                    )
        connection.commit()
        connection.execute("VACUUM")


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        expected = make(folder)
        strip(folder)
        text = _replaced(json.dumps(expected, indent=1), {str(folder): PLACE})
        (folder / "expected.json").write_text(text, encoding="utf-8")
        with tarfile.open(target, "w:gz") as archive:
            for part in ("store", "data", "expected.json"):
                archive.add(folder / part, part, filter=_nobodys)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
