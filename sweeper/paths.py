"""Where everything lies: one object owns every file name under `SWEEPER_HOME`.

SWEEPER_HOME/                 default ./sweeps; may be moved as a whole
├── optuna.db                 every study's trials (Optuna's schema), unless store.json says where else they are
├── store.json                the database of the studies' trials, where that is a server's; without its password
├── mlflow.db                 every study's runs (MLflow's schema)
├── opening.lock              held while a database is made
├── artifacts/                what the runs point to: configs, adapters
├── models/                   bases converted once
└── studies/NAME/
    ├── config.yaml           the composed configuration
    ├── changes.yaml          what later launches changed, an entry each
    ├── model.json            which base it is: a commit of the Hub, or what files a folder had
    ├── splits.json           which row is in which split, where the study cut them
    ├── data.json             what the data doctor found in the rows, without their text
    ├── code/                 a copy of the study's own task and metric, which workers import
    ├── tracking.json         the study's id, and the servers where it has runs
    ├── spool/worker-0/       what is still to be written to the runs, while their store does not take it
    ├── mirror.json           how far its mirror is, and under which id this machine writes there
    ├── mirror.lock, .mirror/   which process copies it there, and what it is copying to the mirror
    ├── launcher.lock, launcher.json   which process holds the lock, or held it last
    ├── worker.lock           which every worker shares, to keep out what needs the study for itself
    ├── workers/              for each: 0.lock, 0.json, which process it is, or was last; 0.outcome.json, how it ended,
    │                         written once, always; token, by which a node tells that it sees this very folder;
    │                         jobs.json and submitit/, of workers that are jobs of SLURM
    ├── logs/worker-0.log     what a worker said, and what it said before: worker-0.log.1 and so on
    ├── events.jsonl          what happened, a line each, for progress display
    ├── on_finish.log         what the command of `on_finish` wrote
    ├── learning_curve.json, learning_curve.png   what parts of the training rows give, and its picture
    ├── cost.json, cost.csv, cost.png    where the dollars went: by label, trial and session; every line; its picture
    ├── deleting              only while the study is being deleted, or where that was interrupted
    ├── base/                 what the untuned base predicts, row by row: predictions.jsonl, predictions-test.jsonl;
    │                         retention.jsonl: how it does the items of the retention suite
    ├── side/confirmation-0701/   a training that is no trial: checkpoint.safetensors while it runs; then result.json
    │                         and predictions.jsonl
    └── trials/0007/          config.yaml; checkpoint.safetensors while it runs; adapter/ if it is kept;
                              predictions.jsonl of its best evaluation, predictions-test.jsonl of a winner;
                              inference.json: what serving its adapter costs, if that was measured
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.database import VARIABLE, database_problems, normalised, without_password
from sweeper.errors import ConfigError, StoreError
from sweeper.redaction import redacted

VALIDATION, TEST = "validation", "test"  # the splits that are scored: while trials train, and once for a winner
HOME_VARIABLE = "SWEEPER_HOME"
LAUNCHED_S = "SWEEPER_LAUNCHED_S"  # in a worker's environment: when its launcher began, in seconds since 1970
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def is_valid_name(name: str) -> bool:
    """Whether `name` is safe as a folder, study and experiment name."""
    return re.fullmatch(NAME_PATTERN, name) is not None


def write_atomically(path: Path, content: str | bytes, is_for_all: bool = False) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Args:
        is_for_all: whoever may look into its folder can read it, as what is to be passed on.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        if is_for_all:
            os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"the store must be a folder that can be written, but {folder} is not: {error.strerror}. "
            "Set SWEEPER_HOME or store.home=DIR to another folder"
        ) from error


@dataclass(frozen=True)
class Home:
    """The store's folder.

    Attributes:
        optuna: the database of its trials that was asked for, if any; which one it is says `optuna_url`.
    """

    root: Path
    optuna: str | None = field(default=None, compare=False)

    @classmethod
    def from_environment(cls) -> Home:
        return cls(Path(os.environ.get(HOME_VARIABLE, "sweeps")).absolute())

    @classmethod
    def named(cls, folder: str, optuna: str | None) -> Home:
        """The store of a configuration: `store.home` and `store.optuna`."""
        return cls(Path(folder).expanduser().absolute(), optuna)

    @property
    def optuna_url(self) -> str:
        """The database of the trials: what was asked for, or is kept, or the environment names; or else the file.

        It has the password in it that the environment has, and so is neither kept nor shown.

        Raises:
            ConfigError: if the environment names no such database.
            StoreError: if what is kept cannot be read.
        """
        given = os.environ.get(VARIABLE)
        if given and (problems := database_problems(VARIABLE, given)):
            raise ConfigError(problems)
        url = self.optuna or self.kept_optuna or (given if given and not self.optuna_file.exists() else None)
        if url is None:
            return f"sqlite:///{self.optuna_file}"
        is_given = given and without_password(normalised(given)) == without_password(normalised(url))
        return normalised(given if given and is_given else url)

    @property
    def optuna_file(self) -> Path:
        """The database of the trials, where that is no server's."""
        return self.root / "optuna.db"

    @property
    def optuna_place(self) -> str:
        """The database of the trials, for whoever reads it."""
        return without_password(self.optuna_url) if self.is_on_server else str(self.optuna_file)

    @property
    def is_on_server(self) -> bool:
        """Whether the trials are in the database of a server."""
        return not self.optuna_url.startswith("sqlite:")

    @property
    def has_optuna(self) -> bool:
        """Whether there may be trials: a file appears with the first study."""
        return self.is_on_server or self.optuna_file.is_file()

    @property
    def kept(self) -> Path:
        """What is kept of the store itself."""
        return self.root / "store.json"

    @property
    def kept_optuna(self) -> str | None:
        """The server's database that holds the trials of this store; None where nothing says so."""
        try:
            return str(json.loads(self.kept.read_text(encoding="utf-8"))["optuna"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.kept} must say which database the store's trials are in, but it cannot be read: {error}. "
                f'It has one line: {{"optuna": "postgresql+psycopg://USER@HOST:PORT/DATABASE"}}'
            ) from error

    def keep_optuna(self) -> None:
        """Notes where the trials are, so that every command finds them."""
        if self.is_on_server and self.kept_optuna is None:
            write_atomically(self.kept, json.dumps({"optuna": self.optuna_place}) + "\n")

    @property
    def mlflow_url(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlflow_file(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def opening_lock(self) -> Path:
        """Held by whoever may be the first to open a database: two would make its tables at once."""
        return self.root / "opening.lock"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def memory(self) -> Path:
        """What is known of the memory that models take here."""
        return self.root / "memory"

    @property
    def pace(self) -> Path:
        """What is known of the time that work takes here."""
        return self.root / "pace"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    def study(self, name: str) -> StudyPaths:
        """The paths of the study `name`; raises StoreError for a name that is not safe as a path."""
        if not is_valid_name(name):
            raise StoreError(f"a study name has 1 to 64 letters, digits, dots, dashes or underscores, but got {name!r}")
        return StudyPaths(self, name)

    def create(self) -> None:
        """Makes the folder; raises StoreError where it cannot be written."""
        for folder in (self.root, self.artifacts, self.models, self.studies):
            _make(folder)


@dataclass(frozen=True)
class StudyPaths:
    """The files of one study."""

    home: Home
    name: str

    @property
    def root(self) -> Path:
        return self.home.studies / self.name

    def create(self) -> None:
        """Makes the study's folder; raises StoreError where it cannot be written."""
        _make(self.root)
        self.workers.mkdir(exist_ok=True)

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def changes(self) -> Path:
        return self.root / "changes.yaml"

    @property
    def model(self) -> Path:
        return self.root / "model.json"

    @property
    def splits(self) -> Path:
        return self.root / "splits.json"

    @property
    def data(self) -> Path:
        """What was found in the rows when the study began."""
        return self.root / "data.json"

    @property
    def code(self) -> Path:
        """A copy of the modules of the study's own task and metric."""
        return self.root / "code"

    @property
    def tracking(self) -> Path:
        return self.root / "tracking.json"

    @property
    def mirror(self) -> Path:
        """Which generation of the study's mirror is of this folder."""
        return self.root / "mirror.json"

    @property
    def mirror_lock(self) -> Path:
        """Held by the process that copies this folder to the mirror."""
        return self.root / "mirror.lock"

    @property
    def mirroring(self) -> Path:
        """What a copy to the mirror holds until it is made."""
        return self.root / ".mirror"

    @property
    def spool(self) -> Path:
        """What is still to be written to the runs, a folder for each worker."""
        return self.root / "spool"

    @property
    def launcher_lock(self) -> Path:
        return self.root / "launcher.lock"

    @property
    def work_lock(self) -> Path:
        """Shared by every worker; whoever holds it alone keeps them out."""
        return self.root / "worker.lock"

    @property
    def holder(self) -> Path:
        return self.root / "launcher.json"

    @property
    def workers(self) -> Path:
        """Which processes the workers are, and how they ended."""
        return self.root / "workers"

    def worker_lock(self, index: int) -> Path:
        return self.workers / f"{index}.lock"

    def worker_holder(self, index: int) -> Path:
        return self.workers / f"{index}.json"

    def outcome(self, index: int) -> Path:
        return self.workers / f"{index}.outcome.json"

    @property
    def token(self) -> Path:
        """A word that nobody else writes: a node that reads it there shares this folder."""
        return self.workers / "token"

    @property
    def jobs(self) -> Path:
        """Which jobs of SLURM the workers are."""
        return self.workers / "jobs.json"

    @property
    def submissions(self) -> Path:
        """What submitit keeps of each job: what is run, what it printed, what came of it."""
        return self.workers / "submitit"

    def worker_indices(self) -> list[int]:
        """Of every worker that the study has had here."""
        return sorted(int(file.stem) for file in self.workers.glob("*.lock") if file.stem.isdecimal())

    @property
    def outcomes(self) -> list[Path]:
        """How the workers of the last session ended."""
        return sorted(self.workers.glob("*.outcome.json"))

    @property
    def old_outcome(self) -> Path:
        """How the worker ended in a study from before there were several."""
        return self.root / "outcome.json"

    @property
    def deleting(self) -> Path:
        """The mark of a study that is to go: everything that is left of it will be deleted."""
        return self.root / "deleting"

    @property
    def logs(self) -> Path:
        """What workers said, a file for each."""
        return self.root / "logs"

    def worker_log(self, index: int) -> Path:
        return self.logs / f"worker-{index}.log"

    @property
    def launcher_log(self) -> Path:
        """What a launcher said since its terminal was gone."""
        return self.logs / "launcher.log"

    @property
    def of_one_worker(self) -> list[Path]:
        """The files of the worker in a study from before there were several."""
        return [self.root / "worker.log", self.root / "worker.json", self.old_outcome]

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def on_finish_log(self) -> Path:
        return self.root / "on_finish.log"

    @property
    def learning_curve(self) -> Path:
        return self.root / "learning_curve.json"

    @property
    def learning_curve_picture(self) -> Path:
        return self.root / "learning_curve.png"

    @property
    def cost(self) -> Path:
        """Where the dollars went, as it stood when a session last ended."""
        return self.root / "cost.json"

    @property
    def cost_table(self) -> Path:
        return self.root / "cost.csv"

    @property
    def cost_picture(self) -> Path:
        return self.root / "cost.png"

    @property
    def report_page(self) -> Path:
        """What `sweeper report` wrote last, and its Markdown with the pictures of that."""
        return self.root / "report.html"

    @property
    def report_text(self) -> Path:
        return self.root / "report.md"

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    @property
    def base(self) -> Path:
        """What is kept of the untuned base."""
        return self.root / "base"

    @property
    def side(self) -> Path:
        """Trainings that are no trials."""
        return self.root / "side"

    @property
    def known(self) -> set[str]:
        """Every name that a study's folder may have; what else lies there is not sweeper's."""
        files = (self.config, self.launcher_lock, self.work_lock, self.holder, self.workers, self.logs)
        others = (
            *self.of_one_worker,
            self.changes,
            self.model,
            self.splits,
            self.data,
            self.code,
            self.tracking,
            self.mirror,
            self.mirror_lock,
            self.mirroring,
            self.spool,
            self.events,
            self.on_finish_log,
            self.learning_curve,
            self.learning_curve_picture,
            self.cost,
            self.cost_table,
            self.cost_picture,
            self.report_page,
            self.report_text,
            self.pictures,
            self.deleting,
            self.base,
            self.side,
            self.trials,
        )
        return {file.name for file in (*files, *others)}

    @property
    def written(self) -> set[str]:
        """Every file name in it that is written at once, those of its folders too."""
        files = (
            *(self.predictions(None, split) for split in (VALIDATION, TEST)),
            *(self.wrong_rows(None, split) for split in (VALIDATION, TEST)),
            self.retention,
            self.readings(0),
            self.inference(0),
            self.side_result("", 0),
            self.worker_holder(0),
            self.outcome(0),
            self.token,
            self.jobs,
        )
        return {name for name in self.known if Path(name).suffix} | {file.name for file in files}

    def trial(self, number: int) -> Path:
        return self.trials / f"{number:04d}"

    def predictions(self, number: int | None, split: str = VALIDATION) -> Path:
        """What a trial predicted for the rows of a split, or without a number the untuned base."""
        folder = self.base if number is None else self.trial(number)
        return folder / ("predictions.jsonl" if split == VALIDATION else f"predictions-{split}.jsonl")

    @property
    def retention(self) -> Path:
        """How the untuned base does each item of the retention suite, without text."""
        return self.base / "retention.jsonl"

    def wrong_rows(self, number: int | None, split: str = VALIDATION) -> Path:
        """The wrong ones of these with their text, where `tracking.log_text` asks for that."""
        return self.predictions(number, split).with_name(f"wrong_rows-{split}.csv")

    def trial_config(self, number: int) -> Path:
        return self.trial(number) / "config.yaml"

    def readings(self, number: int) -> Path:
        """The memory around a trial's end, where that was for memory."""
        return self.trial(number) / "memory.json"

    def inference(self, number: int) -> Path:
        """How fast a trial's adapter answers, and what that costs."""
        return self.trial(number) / "inference.json"

    def checkpoint(self, number: int) -> Path:
        return self.trial(number) / "checkpoint.safetensors"

    def checkpoints_bytes(self) -> int:
        """What the checkpoints of all trials take on the disk, half-written ones included."""
        files = [*self._checkpoints("checkpoint.safetensors"), *self._checkpoints(".checkpoint.safetensors.tmp/*")]
        return sum(file.stat().st_size for file in files)

    def drop_checkpoint(self, number: int) -> None:
        """Deletes the checkpoint of a trial that has ended, and what a killed writer left of one."""
        file = self.checkpoint(number)
        file.unlink(missing_ok=True)
        shutil.rmtree(file.with_name(f".{file.name}.tmp"), ignore_errors=True)

    def _checkpoints(self, pattern: str) -> list[Path]:
        """Files of that name in the folders of trials and side runs."""
        return [file for folder in (self.trials, self.side) for file in folder.glob(f"*/{pattern}")]

    def adapter(self, number: int) -> Path:
        return self.trial(number) / "adapter"

    def side_runs(self) -> list[tuple[str, int]]:
        """Kind and number of each side run that has a folder."""
        found = (re.fullmatch(r"([a-z-]+)-(\d{4,})", path.name) for path in sorted(self.side.glob("*")))
        return [(match[1], int(match[2])) for match in found if match is not None]

    def side_run(self, kind: str, number: int) -> Path:
        return self.side / f"{kind}-{number:04d}"

    def side_checkpoint(self, kind: str, number: int) -> Path:
        return self.side_run(kind, number) / "checkpoint.safetensors"

    def side_result(self, kind: str, number: int) -> Path:
        return self.side_run(kind, number) / "result.json"

    def side_predictions(self, kind: str, number: int) -> Path:
        """What it predicted for the rows that it was scored on at its end, where there were any."""
        return self.side_run(kind, number) / "predictions.jsonl"

    def write_outcome(self, index: int, outcome: dict[str, Any]) -> None:
        """Writes how a worker ended, what is said of that without secrets."""
        said = {name: redacted(outcome[name]) for name in ("message", "trace") if outcome.get(name) is not None}
        write_atomically(self.outcome(index), json.dumps({**outcome, **said}, indent=2))
