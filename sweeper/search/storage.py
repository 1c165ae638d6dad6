"""Optuna's storage: SQLite in the store, or PostgreSQL, which may be away for a while without harm.

Of what Optuna asks of PostgreSQL, each call is tried again while that is away. A call that was done although its answer
was lost changes nothing when it is done again: attributes, parameters and reported values are written over by
themselves; the three others see what they have done.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, select
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from sweeper.database import without_password
from sweeper.errors import ConfigError, StoreError
from sweeper.paths import Home
from sweeper.schema_versions import refuse_other
from sweeper.search.patience import Patience, attach
from sweeper.search.tables import refuse_newer

_SQLITE = {"timeout": 60}  # how many seconds a writer waits for another to leave
_MIGRATIONS = Path(optuna.storages.__file__).parent / "_rdb" / "alembic"
_OPENINGS = 3  # of a database whose tables several make at once: one of them does
_MARK = "sweeper:made"  # a trial's attribute, by which whoever made it knows it again
# A connection that nobody answers any more is noticed within seconds, where the system's own limits are hours; and one
# whose client is silent within a transaction is ended by the server, which would keep what that had locked.
_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # ms
    "application_name": "sweeper",
    "options": "-c idle_in_transaction_session_timeout=30s",
}


def open_storage(home: Home, patience: Patience | None = None) -> RDBStorage:
    """Optuna's storage of a store.

    Args:
        patience: for a server's database; None: it is asked once.

    Raises:
        ConfigError: if its driver is not installed.
        StoreError: if it cannot be opened.
    """
    try:
        if not home.is_on_server:
            if home.optuna_file.is_file():
                _look(home.optuna_url, home.optuna_place, _SQLITE)
            return RDBStorage(home.optuna_url, engine_kwargs={"connect_args": _SQLITE})
        held = patience or Patience(home.optuna_place)
        # Who only looks leaves no connection behind.
        pool = {"pool_pre_ping": True} if patience is not None else {"poolclass": NullPool}
        return held(partial(_opened, home.optuna_url, held, pool))
    except ImportError as error:
        raise ConfigError(
            f"store.optuna: PostgreSQL needs its driver, but psycopg is not installed ({error}): "
            "pip install 'sweeper[postgresql]'"
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        kind = "a PostgreSQL database that can be opened" if home.is_on_server else "Optuna's SQLite store"
        raise StoreError(f"{home.optuna_place} must be {kind}, but it cannot be opened: {error}") from error


def keep_storage(home: Home) -> None:
    """Holds a store to the one database that its trials are in.

    Raises:
        ConfigError: if another is asked for than the store's.
        StoreError: if it cannot be opened.
    """
    if not home.is_on_server:
        return
    kept = home.kept_optuna
    own = kept or str(home.optuna_file)
    if kept is None and home.optuna_file.is_file():
        found = RDBStorage(f"sqlite:///{home.optuna_file}", engine_kwargs={"connect_args": _SQLITE})
        kept = own if optuna.study.get_all_study_names(found) else None
    if kept is not None and kept != home.optuna_place:
        raise ConfigError(
            f"store.optuna: the studies of a store are in one database, but those of {home.root} are in {own}, and "
            f"{home.optuna_place} is asked for; store.home=DIR takes another store"
        )
    open_storage(home).engine.dispose()  # what is kept can be reached
    home.keep_optuna()


def _look(url: str, place: str, connect: dict[str, Any]) -> None:
    """Refuses tables of another form than today's, Optuna's and our own, before anything is made."""
    engine = create_engine(url, poolclass=NullPool, connect_args=connect)
    upgrade = f"optuna storage upgrade --storage {place if '://' in place else 'sqlite:///' + place}"
    refuse_other(engine, "Optuna", optuna.__version__, _MIGRATIONS, upgrade, place)
    refuse_newer(engine)


def _opened(url: str, patience: Patience, pool: dict[str, Any]) -> RDBStorage:
    _look(url, without_password(url), _CONNECT)
    for opening in range(1, _OPENINGS + 1):
        try:
            return _PatientStorage(url, patience, pool)
        except (IntegrityError, ProgrammingError):  # another one made its tables at this moment
            if opening == _OPENINGS:
                raise
    raise AssertionError  # not reached


class _PatientStorage(RDBStorage):  # type: ignore[misc]
    """A storage on a server."""

    def __init__(self, url: str, patience: Patience, pool: dict[str, Any]) -> None:
        self._patience = patience
        self._begun: set[str] = set()  # the marks of trials that may be there
        super().__init__(url, engine_kwargs={"connect_args": _CONNECT, **pool})
        attach(self.engine, patience)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Changes a trial's state, for whoever holds its lease: a state that it has already is this call's own."""
        attempts = 0

        def is_so() -> bool:
            trial = RDBStorage.get_trial(self, trial_id)
            return attempts > 1 and trial.state == state and (values is None or list(values) == trial.values)

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                return RDBStorage.set_trial_state_values(self, trial_id, state, values) or is_so()
            except UpdateFinishedTrialError:
                if is_so():
                    return True
                raise

        return self._patience(attempt)

    def delete_study(self, study_id: int) -> None:
        attempts = 0

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            try:
                RDBStorage.delete_study(self, study_id)
            except KeyError:
                if attempts == 1:
                    raise

        self._patience(attempt)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is not None:  # as every trial is made here
            template_trial = copy.deepcopy(template_trial)
            template_trial.system_attrs[_MARK] = uuid.uuid4().hex
        return self._patience(partial(super()._create_new_trial, study_id, template_trial))

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        """A new trial, or the one that an earlier attempt has made; others who make one wait outside."""
        mark = template_trial.system_attrs[_MARK] if template_trial is not None else None
        if mark in self._begun:
            attribute = models.TrialSystemAttributeModel
            made = select(models.TrialModel).join(attribute).where(attribute.key == _MARK)
            made = made.where(models.TrialModel.study_id == study_id, attribute.value_json == f'"{mark}"')
            if (known := session.scalars(made).first()) is not None:
                return known
        if mark is not None:
            self._begun.add(mark)
        return super()._get_prepared_new_trial(study_id, template_trial, session)


def _patient(name: str) -> Callable[..., Any]:
    call = getattr(RDBStorage, name)

    def tried(self: _PatientStorage, *arguments: Any, **named: Any) -> Any:
        return self._patience(partial(call, self, *arguments, **named))

    return tried


for _name in (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_all_studies",
    "_set_trial_param",
    "get_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "_get_trials",
    "_get_best_trial_id",
):
    setattr(_PatientStorage, _name, _patient(_name))
