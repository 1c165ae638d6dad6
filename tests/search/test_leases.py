from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil
import pytest
import sqlalchemy
from optuna.trial import TrialState, create_trial

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.errors import LeaseLostError
from sweeper.paths import Home
from sweeper.search.leases import Holder, Leases, renewing
from sweeper.search.patience import Patience, attach
from sweeper.search.study import Search
from sweeper.search.views import view
from sweeper.trial import Reason
from tests.search.conftest import RECORD, ask, curve

Compose = Callable[..., Config]
HERE = Holder.this_process()
ELSEWHERE = replace(HERE, host="another-machine")
THERE = replace(HERE, host="a-third-machine")


def leases(home: Home, holder: Holder, duration_s: float = 60.0) -> Leases:
    engine = sqlalchemy.create_engine(home.optuna_url, connect_args={"timeout": 60})
    return Leases(engine, duration_s, holder)


def test_one_holder_at_a_time(home: Home) -> None:
    one, other = leases(home, HERE), leases(home, ELSEWHERE)
    assert one.acquire(7)
    assert one.acquire(7)  # its own
    assert not other.acquire(7)
    assert not other.renew(7)
    assert one.renew(7)
    other.release(7)  # not its to release
    assert not other.acquire(7)
    one.release(7)
    assert other.acquire(7)
    assert not one.renew(7)


def test_a_lease_expires_unless_it_is_renewed(home: Home) -> None:
    one, other = leases(home, HERE, 1.0), leases(home, ELSEWHERE, 1.0)
    assert one.acquire(1)
    with renewing(one, 1.0):
        assert not other.acquire(1)
        time.sleep(1.5)
        assert not other.acquire(1)
    time.sleep(1.2)
    assert not leases(home, THERE, 1.0).acquire(1)  # who looks for the first time has seen no silence
    assert other.acquire(1)
    one.renew_all()  # has none left
    assert not one.renew(1)


def test_a_clock_that_jumps_ends_no_lease(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = leases(home, ELSEWHERE, 1.0), leases(home, THERE, 1.0)
    assert one.acquire(1)
    assert not other.acquire(1)
    now_s = time.time
    for jump_s in (1e6, -1e6):  # the database's own clock is never asked
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: now_s() + jump_s)
        assert not other.acquire(1)
    asked: list[str] = []

    @sqlalchemy.event.listens_for(other.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    time.sleep(1.1)
    assert other.acquire(1)
    assert asked
    assert not any(word in statement.lower() for statement in asked for word in ("now", "timestamp", "julianday"))


def test_what_was_not_seen_while_the_database_was_away_is_no_silence(home: Home) -> None:
    other = leases(home, THERE, 0.5)
    patience = Patience("it", 10.0, lambda line: None)
    attach(other.engine, patience)
    assert leases(home, ELSEWHERE).acquire(1)
    assert not other.acquire(1)
    time.sleep(0.6)
    patience.outages += 1
    assert not other.acquire(1)
    time.sleep(0.6)
    assert other.acquire(1)


def test_the_lease_of_a_process_that_is_gone_can_be_taken_at_once(home: Home) -> None:
    done = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = replace(HERE, pid=done.pid, started_s=psutil.Process(done.pid).create_time())
    assert not gone.is_gone
    assert leases(home, gone).acquire(1)
    assert not leases(home, HERE).acquire(1)
    done.communicate(b"\n")
    assert gone.is_gone
    assert leases(home, HERE).acquire(1)
    assert replace(HERE, started_s=HERE.started_s - 100).is_gone  # the number belongs to another process now
    assert not replace(gone, host="another-machine").is_gone  # which this machine cannot know
    assert not replace(gone, boot="another boot").is_gone


def fight(url: str, host: str, start: Barrier, rounds: int, won: Path) -> None:
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": 60})
    fighter = Leases(engine, 1.0, replace(HERE, host=host))
    for number in range(0, rounds, 2):
        assert not fighter.acquire(number)
    time.sleep(1.1)  # and by now each has seen for itself that nobody renews them
    for number in range(rounds):
        start.wait()
        if fighter.acquire(number):
            with won.open("a") as file:
                file.write(f"{number}\n")


def test_of_several_that_take_an_expired_lease_one_gets_it(home: Home, tmp_path: Path) -> None:
    """In real processes, which begin each round together."""
    fighters, rounds = 4, 40
    dead = leases(home, ELSEWHERE)
    for number in range(0, rounds, 2):  # every other one has never been leased
        assert dead.acquire(number)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(fighters)
    files = [tmp_path / f"won-{index}" for index in range(fighters)]
    processes = [
        context.Process(target=fight, args=(home.optuna_url, f"machine-{index}", start, rounds, files[index]))
        for index in range(fighters)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    won = [int(line) for file in files if file.is_file() for line in file.read_text().splitlines()]
    assert sorted(won) == list(range(rounds))
    assert sum(file.is_file() for file in files) > 1  # or there was no fight


def test_a_silent_workers_trial_goes_on_elsewhere_and_is_no_longer_its_own(composed: Compose, home: Home) -> None:
    config = composed("study=demo", "search.lease_s=1", "search.trials=2")
    silent, other = Search(home, config, holder=ELSEWHERE), Search(home, config, holder=THERE)
    asked = ask(silent)
    assert other.requeue_orphans() == []
    assert ask(other).number == 1  # the first is in flight elsewhere
    assert other.ask() is None
    time.sleep(1.1)
    with other.renewing():
        again = ask(other)
        assert (again.number, again.params) == (asked.number, asked.params)
        for tell in (
            lambda: silent.report(asked.number, curve(0.5), may_prune=True),
            lambda: silent.complete(asked.number, 0.5, RECORD, {}),
            lambda: silent.prune(asked.number, Reason.DIVERGED, RECORD, {}),
            lambda: silent.fail(asked.number, "trace", {}),
        ):
            with pytest.raises(LeaseLostError, match=r"trial 0 was not renewed for search.lease_s=1 s"):
                tell()
        silent.requeue(asked.number, has_crashed=True)  # takes nothing from the new holder
        assert view(home, "demo").counts() == {"RUNNING": 2}
        other.complete(asked.number, 0.7, RECORD, {})
    assert view(home, "demo").trials[0].value == 0.7


def test_two_workers_share_a_study(composed: Compose, home: Home) -> None:
    config = composed("study=demo", "search.trials=10")
    workers = [Search(home, config, holder=holder) for holder in (ELSEWHERE, THERE)]
    numbers = []
    for index in range(10):
        asked = ask(workers[index % 2])
        numbers.append(asked.number)
    assert sorted(numbers) == list(range(10))
    assert [worker.ask() for worker in workers] == [None, None]


def test_a_trial_that_was_made_but_never_asked_is_asked_next(composed: Compose, home: Home) -> None:
    """As a worker leaves it that is killed between the two."""
    search = Search(home, composed("study=demo", "search.trials=2"))
    search._study._storage.create_new_trial(search._study._study_id, create_trial(state=TrialState.WAITING))
    asked = ask(search)
    assert (asked.number, set(asked.params)) == (0, {"rank", "alpha_ratio", "learning_rate"})
    assert ask(search).number == 1
    assert search.ask() is None


def test_an_orphan_that_was_told_meanwhile_is_left_alone(
    composed: Compose, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("study=demo", "search.trials=2")
    one, other = Search(home, config, holder=ELSEWHERE), Search(home, config, holder=THERE)
    number = ask(one).number
    acquire = Leases.acquire

    def tells_first(self: Leases, trial_id: int) -> bool:
        if self is other._leases and one.in_flight:
            one.complete(number, 0.5, RECORD, {})
        return acquire(self, trial_id)

    monkeypatch.setattr(Leases, "acquire", tells_first)
    assert other.requeue_orphans() == []
    assert view(home, "demo").counts() == {"COMPLETE": 1}
    with sqlalchemy.create_engine(home.optuna_url).connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM sweeper_leases")) == 0


def test_a_lease_that_outlived_its_trial_is_deleted(composed: Compose, home: Home) -> None:
    config = composed("study=demo", "search.trials=2")
    search = Search(home, config, holder=ELSEWHERE)
    search.complete(ask(search).number, 0.5, RECORD, {})
    assert leases(home, ELSEWHERE).acquire(1)  # as if it had been killed before it gave it back
    Search(home, config).release_told()
    assert leases(home, THERE).acquire(1)


def ask_all(root: Path, host: str, start: Barrier, numbers: Path) -> None:
    configs: list[Config] = []
    compose.main(["study=demo", "sampler=random", "search.trials=20"], configs.append)
    search = Search(Home(root), configs[0], holder=replace(HERE, host=host))
    start.wait()
    while asked := search.ask():
        with numbers.open("a") as file:
            file.write(f"{asked.number} {asked.params['learning_rate']}\n")


def test_workers_that_ask_at_once_ask_for_the_total_and_no_more(composed: Compose, home: Home, tmp_path: Path) -> None:
    """In real processes; each ask is drawn with its own number's seed."""
    Search(home, composed("study=demo", "sampler=random", "search.trials=20"))
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    files = [tmp_path / f"asked-{index}" for index in range(3)]
    processes = [
        context.Process(target=ask_all, args=(home.root, f"machine-{index}", start, files[index])) for index in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        assert process.exitcode == 0
    asked = [line.split() for file in files if file.is_file() for line in file.read_text().splitlines()]
    assert sorted(int(number) for number, _ in asked) == list(range(20))
    assert len({rate for _, rate in asked}) == 20
