"""The store's folder, and which database its trials are in."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.database import VARIABLE, database_problems, normalised, without_password
from sweeper.errors import ConfigError, StoreError
from sweeper.paths.files import is_valid_name, make_folder, write_atomically
from sweeper.paths.study import StudyPaths

HOME_VARIABLE = "SWEEPER_HOME"
LAUNCHED_S = "SWEEPER_LAUNCHED_S"  # in a worker's environment: when its launcher began, in seconds since 1970


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
            make_folder(folder)
