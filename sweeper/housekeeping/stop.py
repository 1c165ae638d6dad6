"""`sweeper stop`: asks what runs of a study to end, as Ctrl-C does, and says what became of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from sweeper import outcome
from sweeper.config import check
from sweeper.config.cluster import SlurmClusterSection
from sweeper.errors import StoreError, unknown
from sweeper.housekeeping.listing import READING, names
from sweeper.paths import Home, StudyPaths
from sweeper.search.running import Note, Running, living, running, working
from sweeper.search.views import view

LAUNCHERS = ("launch", "learning-curve")  # the commands that start a worker
_POLL_S = 0.2
_COARSE_S = 0.1  # a file's time may be so much before the clock's


@dataclass(frozen=True)
class Stop:
    """How it went."""

    has_ended: bool
    words: str


def stop(home: Home, name: str, timeout_s: float, announce: Callable[[str], None]) -> Stop:
    """Stops a study's launcher and worker; the trials in flight are checkpointed.

    Args:
        announce: takes a line before the wait.

    Raises:
        StoreError: if there is no such study, or what runs is not known to be a launcher or worker of it that
            runs here. Nothing is stopped then.
    """
    paths = home.study(name)
    if not paths.root.is_dir() and name not in names(home):
        raise StoreError(f"{unknown('study', name, names(home))} (store: {home.root})")
    found = running(paths)
    if (found is None or found.role == "worker") and (jobs := _jobs(paths)):
        return Stop(
            False, f"asked {', '.join(jobs)} of {name} to stop, whose launcher is gone; `squeue` says when they have"
        )
    if found is None:
        return Stop(True, f"nothing of {name} runs ({_trials(paths)})")
    note = _certain(paths, found)
    asked_s = time.time() - _COARSE_S
    _ask(name, note)
    announce(f"asked the {found.role} of {name} ({note}) to stop; its trials in flight are checkpointed")
    for other in _others(paths, found):  # those that have joined, or that a launcher left behind
        _ask(name, other)
    deadline = time.monotonic() + timeout_s
    while _still(paths, note):
        if time.monotonic() > deadline:
            return Stop(
                False,
                f"{name} still runs after {timeout_s:g} s. It stops when the step or evaluation that it is in is over; "
                f"`sweeper stop {name}` waits for that again. Nothing was killed",
            )
        time.sleep(_POLL_S)
    return Stop(True, f"{_end(paths, asked_s)} ({_trials(paths)})")


def _jobs(paths: StudyPaths) -> list[str]:
    """Which jobs of SLURM were asked to stop; none where the study's workers are no jobs."""
    if not paths.jobs.is_file() or not isinstance(check.load(paths).cluster, SlurmClusterSection):
        return []
    from sweeper.cluster.slurm import stop_jobs  # of an extra, which is there where they were submitted

    return stop_jobs(paths)


def _ask(name: str, note: Note) -> None:
    try:
        # Not SIGINT, which a launcher in the background may have been started to ignore.
        os.kill(note.holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has just ended
    except PermissionError:
        raise StoreError(f"{name!r} is run by another user, as {note}; nothing was stopped") from None


def _others(paths: StudyPaths, asked: Running) -> list[Note]:
    """The other workers of the study that run on this machine."""
    found = [note for index in working(paths) if (note := living(paths.worker_holder(index))) is not None]
    return [note for note in found if note != asked.note and note.holder.is_here and _is(note, "worker", paths.name)]


def _certain(paths: StudyPaths, found: Running) -> Note:
    """The note of what runs, if that is certainly a launcher or worker of the study, on this machine."""
    if found.note is None:
        raise StoreError(
            f"{paths.name!r} is held by a process that is not the launcher or worker that noted itself last "
            "(`sweeper rerun`, perhaps, or one that has just begun); nothing was stopped. End it where it was started"
        )
    holder = found.note.holder
    if not holder.is_here:
        raise StoreError(
            f"{paths.name!r} runs on {holder.host} (or in a container there), as {found}; nothing was stopped. "
            f"Run `sweeper stop {paths.name}` there"
        )
    if not _is(found.note, found.role, paths.name):
        command = _command(holder.pid)
        raise StoreError(
            f"{paths.name!r} notes process {holder.pid} as its {found.role}, but that is none of sweeper's now "
            f"({' '.join(command[:4]) or 'it cannot be looked at'}); nothing was stopped"
        )
    return found.note


def _command(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def _is(note: Note, role: str, name: str) -> bool:
    """Whether a process is what it notes itself as: its number may have been given to another one since."""
    try:
        started_s = psutil.Process(note.holder.pid).create_time()
    except psutil.Error:
        return False
    return abs(started_s - note.holder.started_s) <= 1 and _is_ours(_command(note.holder.pid), role, name)


def _is_ours(command: list[str], role: str, name: str) -> bool:
    """Whether a command line is that of a launcher, or of the worker of the study `name`."""
    if role == "worker":
        return "sweeper.worker" in command and command[-1] == name
    verb = next((place for place, word in enumerate(command) if word in LAUNCHERS), 0)
    before = command[:verb]
    return any(Path(part).name == "sweeper" or Path(part).parent.name == "sweeper" for part in before)


def _still(paths: StudyPaths, asked: Note) -> bool:
    """Whether what was asked to stop, or its worker, runs; a launcher that began since is another matter."""
    now = running(paths)
    return now is not None and (now.role == "worker" or now.note is None or now.note.holder == asked.holder)


def _end(paths: StudyPaths, asked_s: float) -> str:
    """What the workers say of their end, since they were asked at `asked_s`, in seconds since 1970."""
    again = "the same launch command goes on"
    found = outcome.last(paths, asked_s)
    match found.status if found is not None else None:
        case outcome.STOPPED:
            return f"{paths.name} has stopped; {again}"
        case outcome.FINISHED:
            return f"{paths.name} finished before it could stop"
        case outcome.ERROR:
            assert found is not None
            return f"{paths.name} ended with an error: {found.why()}; {again}"
    return f"{paths.name} has stopped, and its workers said nothing more; {again} from the last checkpoints"


def _trials(paths: StudyPaths) -> str:
    try:
        return view(paths.home, paths.name).summary()
    except READING:
        return "no trials yet"
