from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from sweeper.config.schema import Config
from sweeper.paths import Home
from sweeper.search.leases import Holder, renewing
from sweeper.search.study import Search
from sweeper.worker.lead import Lead

ELSEWHERE = replace(Holder.this_process(), host="another-machine")


@pytest.fixture
def join(home: Home, composed_once: Callable[..., Config]) -> Callable[[Holder | None], tuple[Search, Lead]]:
    def join_as(holder: Holder | None = None) -> tuple[Search, Lead]:
        search = Search(home, composed_once("study=demo", "search.lease_s=1.2"), holder=holder)
        return search, Lead(search)

    return join_as


Join = Callable[..., tuple[Search, Lead]]


def test_one_leads_until_it_leaves(join: Join) -> None:
    (_, one), (_, other) = join(), join(ELSEWHERE)
    with one.held():
        assert one.take()
        assert not other.take()
        assert (bool(one), bool(other)) == (True, False)
    assert not one
    assert other.take()


def test_a_living_leader_ends_the_study(join: Join) -> None:
    (_, here), (_, there) = join(), join(ELSEWHERE)
    here.take()
    assert not there.falls_to_me(lambda: False)  # its process is known to live


def test_a_leader_elsewhere_lives_while_it_renews(join: Join) -> None:
    (search, there), (_, here) = join(ELSEWHERE), join()
    there.take()
    with renewing(search._leases, 1.2):
        assert not here.falls_to_me(lambda: False)
    assert here.falls_to_me(lambda: False)  # it is silent from now on
    assert here


def test_a_dead_leader_is_replaced_at_once(join: Join) -> None:
    gone = replace(Holder.this_process(), pid=max(psutil.pids()) + 10_000)
    (_, dead), (_, here) = join(gone), join()
    dead.take()
    began_s = time.monotonic()
    assert here.falls_to_me(lambda: False)
    assert time.monotonic() - began_s < 1


def test_a_stop_ends_the_wait(join: Join) -> None:
    (_, there), (_, here) = join(ELSEWHERE), join()
    there.take()
    stopping = threading.Event()
    timer = threading.Timer(0.3, stopping.set)
    timer.start()
    assert not here.falls_to_me(stopping.is_set)
    timer.join()
