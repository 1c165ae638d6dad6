from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sweeper.mirror.copying import Copier
from sweeper.mirror.remote import Remote
from sweeper.money.ledger import Ledger
from sweeper.paths import Home, StudyPaths
from sweeper.search.leases import Leases
from sweeper.search.views import open_storage
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import identify
from sweeper.tracking.tracker import STUDY, RunKey
from sweeper.trial import RunKind

URL = "memory://mirror/demo"


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    """fsspec keeps what is written to memory:// for the whole process."""
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def two_studies(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Home:
    """A store with the studies `demo` and `other`, as two killed workers left them; only to be copied."""
    home = Home(tmp_path_factory.mktemp("two"))
    home.create()
    shutil.copy(migrated, home.mlflow_file)
    storage = open_storage(home)
    for name in ("other", "demo"):
        study = optuna.create_study(study_name=name, storage=storage)
        study.set_user_attr("baseline", {"accuracy": 0.1})
        study.tell(study.ask(), 0.5)
        running = study.ask()
        Leases(storage.engine, 60).acquire(running._trial_id)
        Ledger(storage.engine).open(name, "cpu", 1.7e9, None)
        tracker = MlflowTracker(home, name)
        tracker.start(STUDY, name, {}, {"secret-of": name})
        tracker.start(RunKey(RunKind.TRIAL, 0), "0", {"rank": 8}, {})
        tracker.log(RunKey(RunKind.TRIAL, 0), {"accuracy": 0.5}, 1)
        tracker.flush()
        paths = home.study(name)
        paths.create()
        identify(paths)
        paths.config.write_text(f"study: {name}\n")
        paths.events.write_text('{"event": "tick"}\n')
        paths.launcher_lock.touch()
        paths.holder.write_text("{}")
        for number, file in (
            (0, "predictions.jsonl"),
            (0, "adapter/adapter.safetensors"),
            (1, "checkpoint.safetensors"),
        ):
            (paths.trial(number) / file).parent.mkdir(parents=True, exist_ok=True)
            (paths.trial(number) / file).write_text(f"{name} {file}")
    home.pace.mkdir()
    (home.pace / "cpu.json").write_text(json.dumps({"setup_s": 1.0}))
    return home


@pytest.fixture
def demo(two_studies: Home, tmp_path: Path) -> StudyPaths:
    """The study `demo` in a store of its own making, to be changed."""
    shutil.copytree(two_studies.root, tmp_path / "store")
    return Home(tmp_path / "store").study("demo")


def copier(paths: StudyPaths, url: str = URL) -> Copier:
    """As a launcher that begins has one."""
    return Copier(paths, Remote(url))


def empty_store(folder: Path, study: str = "demo") -> StudyPaths:
    """Where a study is to be in a store that has nothing."""
    home = Home(folder)
    home.create()
    paths = home.study(study)
    paths.create()
    return paths


def files(paths: StudyPaths) -> dict[str, str]:
    """What lies in a study's folder, what is this machine's own left out."""
    own = {paths.launcher_lock, paths.holder, paths.mirror, paths.mirror_lock}
    found = (file for file in sorted(paths.root.rglob("*")) if file.is_file() and file not in own)
    return {file.relative_to(paths.root).as_posix(): file.read_text() for file in found}
