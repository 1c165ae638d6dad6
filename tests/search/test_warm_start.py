"""Past trials from wherever they are; what they are read from is the same to the byte afterwards."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.paths import Home
from sweeper.search.study import Search
from sweeper.search.views import view
from sweeper.search.warm_start import starts
from tests.launch.test_launch import sweeper
from tests.postgresql import postgresql as postgresql
from tests.search.conftest import ask

Compose = Callable[..., Config]
RATES = (0.004, 0.002, 0.008, 0.006)  # the higher, the worse: a loss
DISTRIBUTIONS = {
    "rank": CategoricalDistribution([8, 16, 999]),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "layers": CategoricalDistribution([1, 2]),
}


def fill(storage: Any, name: str = "lr", direction: str = "minimize") -> optuna.Study:
    """Someone else's study, with attributes that mean something to them, and trials that did not end well."""
    study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    for index, rate in enumerate(RATES):
        params = {"rank": 999 if index == 3 else 16, "learning_rate": rate, "layers": 1}
        attributes = {"reason": "because", "curve": 3}
        study.add_trial(create_trial(value=rate, params=params, distributions=DISTRIBUTIONS, user_attrs=attributes))
    params = {"rank": 8, "learning_rate": 0.0001, "layers": 1}
    study.add_trial(create_trial(state=TrialState.FAIL, params=params, distributions=DISTRIBUTIONS))
    study.add_trial(create_trial(state=TrialState.PRUNED, params=params, distributions=DISTRIBUTIONS))
    return study


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def started(composed: Compose, home: Home, given: str, *overrides: str) -> tuple[dict[str, Any], list[str]]:
    return starts(home, composed("study=demo", f"search.warm_start='{given}'", *overrides))


BEST = {  # the space of `demo` has no layers
    "lr, trial 1": {"rank": 16, "learning_rate": 0.002},
    "lr, trial 0": {"rank": 16, "learning_rate": 0.004},
}


def refusal(composed: Compose, home: Home, given: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        started(composed, home, given, *overrides)
    return str(raised.value)


@pytest.mark.parametrize("kind", ["sqlite", "file", "write-ahead", "read-only", "journal"])
def test_a_storage_of_someone_else_is_read_and_not_written(
    composed: Compose, home: Home, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    file = folder / "their trials?.db"
    if kind == "journal":
        fill(JournalStorage(JournalFileBackend(str(file))))
    else:
        file = folder / "their trials.db"
        fill(f"sqlite:///{file}")
    if kind == "write-ahead":
        connection = sqlite3.connect(file)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    if kind == "read-only":
        file.chmod(0o400)
        folder.chmod(0o500)
    before = fingerprint(folder)
    given = f"sqlite:///{file}#lr" if kind == "sqlite" else f"{file}#lr"
    found, left_out = started(composed, home, given, "search.warm_start_trials=3")
    assert found == BEST
    assert left_out == ["lr, trial 3: rank=999 is outside search.space"]
    assert fingerprint(folder) == before
    assert "unknown study `other`. Known: lr" in refusal(composed, home, f"{file}#other")


def test_an_older_schema_is_not_migrated(composed: Compose, home: Home, tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    fill(f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    connection.close()
    before = file.read_bytes()
    assert started(composed, home, f"{file}#lr", "search.warm_start_trials=2")[0] == BEST  # what it says is enough
    assert file.read_bytes() == before
    with sqlite3.connect(file) as connection:  # as Optuna before 2.4 had it
        connection.execute("DROP TABLE trial_values")
    connection.close()
    before = file.read_bytes()
    message = refusal(composed, home, f"{file}#lr")
    assert "can read as it is, since nothing is written there" in message
    assert "`study.trials_dataframe().to_csv(FILE)` writes a CSV" in message
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).execute("CREATE TABLE t (x)").connection.close()
    assert "no such table" in refusal(composed, home, f"{empty}#lr")
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["empty.db", "old.db"]


def test_what_is_no_storage(composed: Compose, home: Home, tmp_path: Path) -> None:
    assert "must be a file that is there, but there is none at /no/such.db" in refusal(composed, home, "/no/such.db#s")
    text = tmp_path / "notes.txt"
    text.write_text("rank 16 was good\nreally\n")
    assert "must be a storage that Optuna" in refusal(composed, home, f"{text}#s")
    assert f"must be an SQLite database, but {text} is none" in refusal(composed, home, f"sqlite:///{text}#s")
    assert "or the path of a journal file, but got redis://" in refusal(composed, home, "redis://host#s")
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/two.db", study_name="two", directions=["minimize"] * 2)
    assert study.directions
    assert "must have one objective, but 'two' in" in refusal(composed, home, f"{tmp_path}/two.db#two")


def test_postgresql_is_read_and_not_written(composed: Compose, home: Home, postgresql: str) -> None:
    import psycopg

    address = postgresql.replace("+psycopg", "")
    # Tables that are not there are not made.
    assert "is not: " in refusal(composed, home, f"{postgresql}#lr")
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    storage = RDBStorage(postgresql)
    fill(storage)
    storage.engine.dispose()

    with psycopg.connect(address) as connection:
        connection.execute("DELETE FROM version_info")  # Optuna would write it again
    assert "read-only transaction" in refusal(composed, home, f"{postgresql}#lr")
    with psycopg.connect(address) as connection:
        connection.execute("INSERT INTO version_info VALUES (1, 12, '5.0.0')")
    found, _ = started(composed, home, f"{postgresql}#lr", "search.warm_start_trials=2")
    assert found == BEST


def csv(tmp_path: Path, text: str, name: str = "past.csv") -> str:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_csv_that_optuna_writes(composed: Compose, home: Home, tmp_path: Path) -> None:
    study = fill(None, direction="maximize")
    file = tmp_path / "past.csv"
    study.trials_dataframe().to_csv(file)
    found, left_out = started(composed, home, str(file))
    assert found == {
        "past.csv, line 4": {"rank": 16, "learning_rate": 0.008},
        "past.csv, line 2": {"rank": 16, "learning_rate": 0.004},
    }
    assert left_out == [
        "past.csv's columns params_layers are no parameters of search.space",
        "past.csv, line 5: rank=999 is outside search.space",
    ]


def test_less_is_better_where_the_study_says_so(composed: Compose, home: Home, tmp_path: Path) -> None:
    (tmp_path / "losses.csv").write_text("rank,value\n8,0.9\n16,0.1\n32,0.5\n")
    cost = ["objective.metric={_target_: scoring.cost, name: cost}", "objective.direction=minimize"]
    found, _ = started(composed, home, str(tmp_path / "losses.csv"), "search.warm_start_trials=2", *cost)
    assert found == {"losses.csv, line 3": {"rank": 16}, "losses.csv, line 4": {"rank": 32}}


def test_what_was_told_twice_is_one_start(composed: Compose, home: Home, tmp_path: Path) -> None:
    (tmp_path / "past.csv").write_text("rank,value\n8,0.9\n8,0.9\n8,0.9\n16,0.8\n32,0.7\n64,0.6\n")
    found, _ = started(composed, home, str(tmp_path / "past.csv"), "search.warm_start_trials=3")
    assert [start["rank"] for start in found.values()] == [8, 16, 32]


def test_a_csv_by_hand(composed: Compose, home: Home, tmp_path: Path) -> None:
    text = (
        "rank,learning_rate,schedule,value,comment\n8.0,1e-3,linear,0.5,\n16,2E-3,,0.7,good\n\n64,0.01,constant,.6,x\n"
    )
    given = csv(tmp_path, "\ufeff" + text)
    more = ["+search.space.schedule=[linear,constant]", "+search.space.rslora=[true,false]"]
    found, left_out = started(composed, home, given, *more)
    assert list(found.items()) == [
        ("past.csv, line 3", {"rank": 16, "learning_rate": 0.002}),
        ("past.csv, line 5", {"rank": 64, "learning_rate": 0.01, "schedule": "constant"}),
        ("past.csv, line 2", {"rank": 8, "learning_rate": 0.001, "schedule": "linear"}),
    ]
    assert type(found["past.csv, line 2"]["rank"]) is int
    assert left_out == ["past.csv's columns comment are no parameters of search.space"]
    text = "rslora,batch_size,value,state\nTrue,8.0,0.5,COMPLETE\nfalse,9,0.9,PRUNED\n"
    found, _ = started(composed, home, csv(tmp_path, text), "+search.space.batch_size={low:4,high:64}", *more)
    assert found == {"past.csv, line 2": {"rslora": True, "batch_size": 8}}
    assert type(found["past.csv, line 2"]["batch_size"]) is int


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["line 1: there must be a column value", "line 1: there must be columns for parameters"]),
        ("rank,score\n8,1\n", ["line 1: there must be a column value, what the trial reached, but got rank, score"]),
        (
            "layers,value\n8,1\n",
            ["columns for parameters of search.space (rank, alpha_ratio, learning_rate), alone or"],
        ),
        (
            "rank,params_rank,value\n8,8,1\n",
            ["line 1: there must be one column for rank, but there are rank and params_"],
        ),
        ("rank,value,value\n8,1,1\n", ["line 1: there must be one column value, but there are 2"]),
        ("rank,value\n8,1\n8\n8,1,2\n", ["line 3: must have 2 values", "but has fewer", "line 4:", "but has more"]),
        ("rank,value\n8,good\n8,\n", ["line 2: value: must be a number", "'good'", "line 3: value:", "but got ''"]),
        ("rank,value\n8,nan\n", ["line 2: value: must be a number where a trial is complete, but got 'nan'"]),
        ("learning_rate,value\nfast,1\n", ["line 2: learning_rate: must be a number, but got 'fast'"]),
        ("rank,value,state\n8,1,DONE\n", ["line 2: state: must be one of COMPLETE, PRUNED, FAIL", "'DONE'"]),
        ("rank,value,state\n8,,FAIL\n", ["must have complete trials, but"]),
        ('rank,value\n"8,1\n', ["must be a CSV in UTF-8, but"]),
        ("rank,value\n" + "8,x\n" * 9, ["line 6: value", "and 4 more lines of"]),
    ],
)
def test_what_is_wrong_with_a_csv_is_said_with_its_line(
    composed: Compose, home: Home, tmp_path: Path, text: str, words: list[str]
) -> None:
    message = refusal(composed, home, csv(tmp_path, text))
    for word in words:
        assert word in message


def test_a_csv_that_cannot_be_read(composed: Compose, home: Home, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("rank,value,ü\n8,1,x\n".encode("latin-1"))
    assert "must be a CSV in UTF-8" in refusal(composed, home, str(tmp_path / "latin.csv"))
    assert "No such file" in refusal(composed, home, str(tmp_path / "gone.csv"))


def test_what_was_taken_stays_whatever_becomes_of_the_source(
    composed: Compose, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = csv(tmp_path, "rank,value\n8,0.5\n16,0.7\n64,0.6\n")
    config = composed("study=demo", f"search.warm_start='{given}'")
    interrupted = Search(home, config)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(interrupted._study, "enqueue_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            interrupted.enqueue_starts()
    Path(given).unlink()
    search = Search(home, config)
    assert search.enqueue_starts() == []
    assert [ask(search).params["rank"] for _ in range(3)] == [16, 64, 8]
    assert [trial.start for trial in view(home, "demo").trials] == [f"past.csv, line {line}" for line in (3, 4, 2)]


def test_a_launch_says_what_is_wrong_before_a_worker_starts(home: Home, tmp_path: Path) -> None:
    given = csv(tmp_path, "rank\n8\n")
    done = sweeper(home, "launch", "study=demo", f"search.warm_start={given}")
    assert done.returncode == 2
    assert "line 1: there must be a column value" in done.stderr
    assert not home.optuna_file.exists()
