"""What a mirror gets of a study, as of one moment, while the study goes on.

Files of a store are written whole under another name first, so a hard link to one holds it as it is until it has been
copied, however often it is replaced or deleted meanwhile; files that only grow are read as far as they went.

Files, then MLflow's database, then Optuna's, then files once more: whatever a restored study is told to have must be
there, and nothing may be there that it does not know of.

- A trial is told after its adapter and its predictions are written, and both may be deleted later, when better trials
  were told. The first look finds what is deleted before the second, the second what the database has just learnt of.
- A checkpoint is that of the first look, so never newer than the trials, their reports and their bookings: as after a
  kill. One of the second look could be of a trial that the database does not have, and that is asked once more, with
  other parameters.
- A trial is asked before it has a run, and told when its course has been logged. So its run is never further than what
  Optuna has of it, and one that is a moment behind is caught up with, as after a kill.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from sweeper.mirror import excerpt
from sweeper.mirror.manifest import Entry
from sweeper.paths import StudyPaths


@dataclass(frozen=True)
class Taken:
    """One file.

    Attributes:
        held: where its content is; None: that is known from an earlier copy.
    """

    size: int
    mtime_ns: int
    held: Path | None


@dataclass
class Snapshot:
    """One study.

    Attributes:
        known: what an earlier copy had, by the paths in the store's folder.
        files: what it is made of, by the same.
    """

    paths: StudyPaths
    known: Mapping[str, Entry]
    files: dict[str, Taken] = field(default_factory=dict)
    has_trials: bool = False
    _count: Iterator[int] = field(default_factory=count)

    def take(self) -> None:
        """Takes everything.

        Raises:
            OSError: if there is no room for it.
            StoreError: if a database is damaged, or cannot be copied.
        """
        self.drop()
        self.paths.mirroring.mkdir(parents=True)
        self._take_files(lambda _: True)
        self._take_databases()
        self._take_files(lambda file: file.name != self.paths.checkpoint(0).name)

    def drop(self) -> None:
        """Lets go of what is held, or was by a process that was killed."""
        shutil.rmtree(self.paths.mirroring, ignore_errors=True)

    def _take_files(self, is_wanted: Callable[[Path], bool]) -> None:
        root = self.paths.home.root
        for file in filter(is_wanted, self._files()):
            name = file.relative_to(root).as_posix()
            try:
                status = file.stat()
                size, mtime_ns = status.st_size, status.st_mtime_ns
                seen = self.files.get(name)
                if seen is not None and (seen.size, seen.mtime_ns) == (size, mtime_ns):
                    continue
                before = self.known.get(name)
                is_known = before is not None and (before.size, before.mtime_ns) == (size, mtime_ns)
                self.files[name] = Taken(size, mtime_ns, None if is_known else self._hold(file))
            except FileNotFoundError:  # it has been deleted just now
                continue

    def _hold(self, file: Path) -> Path:
        held = self.paths.mirroring / f"{next(self._count)}"
        try:
            os.link(file, held)
        except FileNotFoundError:
            raise
        except OSError:  # a disk without hard links
            shutil.copyfile(file, held)
        return held

    def _files(self) -> Iterator[Path]:
        home, paths = self.paths.home, self.paths
        # What is this machine's: who runs the study here, and how far its mirror is.
        own = {paths.holder, paths.deleting, paths.mirror}
        for folder in (paths.root, home.artifacts / paths.name, home.memory, home.pace):
            for at, folders, names in os.walk(folder):
                folders[:] = sorted(
                    name for name in folders if not name.startswith(".")
                )  # half written or half deleted
                for name in sorted(names):
                    file = Path(at, name)
                    if (
                        not name.startswith(".")
                        and file.suffix != ".lock"
                        and file not in own
                        and not file.is_symlink()
                    ):
                        yield file

    def _take_databases(self) -> None:
        home = self.paths.home
        if home.mlflow_file.is_file():
            self._take_database(home.mlflow_file, excerpt.take_runs)
        if home.optuna_file.is_file():
            self.has_trials = self._take_database(home.optuna_file, excerpt.take_trials)

    def _take_database(self, file: Path, take: Callable[[Path, Path, str], bool]) -> bool:
        held = self.paths.mirroring / file.name
        if not take(file, held, self.paths.name):
            return False
        self.files[file.relative_to(self.paths.home.root).as_posix()] = Taken(held.stat().st_size, 0, held)
        return True
