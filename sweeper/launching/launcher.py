"""`sweeper launch`: what is checked before anything is spent, and then the workers, under a supervisor.

One launcher per study, by a file lock that the operating system drops with the process. A worker is
a process group of its own, so that Ctrl-C reaches the launcher alone: the first lets the workers
checkpoint and end, the second kills them at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from filelock import FileLock, Timeout

from sweeper.cluster.local import LocalCluster
from sweeper.config import check, combinations
from sweeper.config.cluster import LocalClusterSection
from sweeper.config.schema import Config
from sweeper.custom import own
from sweeper.data import rows
from sweeper.errors import AwayError, ConfigError, DataError, HeldError, StoreError
from sweeper.launching.question import Answer, answer
from sweeper.launching.resume import Resumption, as_begun, resume
from sweeper.launching.screen import Output
from sweeper.launching.supervisor import Supervisor
from sweeper.mirror.mirror import Mirror
from sweeper.money.price import required
from sweeper.paths import Home, StudyPaths
from sweeper.preflight.model import admit
from sweeper.retention import replay, suite
from sweeper.search.ended import ENDED, holds
from sweeper.search.running import LOOK_S, note, noted, working
from sweeper.search.storage import keep_storage
from sweeper.search.views import StudyView, begun, is_finished, study_names, view
from sweeper.search.warm_start import starts
from sweeper.tracking.place import Place, identify, keep, known, record
from sweeper.tracking.spool import unsent, waiting

LEAVING_S = 30.0  # that the workers of a launcher which was killed have to checkpoint and end
_UNBEGUN = {
    Answer.NO: "nothing was begun",
    Answer.INTERRUPTED: "nothing was begun",
    Answer.NONE: (
        "nothing was begun: nobody answered within preflight.answer_s={:g} s, and a machine that waits may cost rent. "
        "confirm=false asks nothing"
    ),
}


def launch(
    config: Config, announce: Callable[[str], None] = print, since_s: float | None = None, as_json: bool = False
) -> int:
    """Runs a study towards its total, new or interrupted.

    Args:
        announce: takes a line for the person.
        since_s: when the launch began, in seconds since 1970: the device costs from then on; None: now.
        as_json: a script reads what is printed: events in JSON, and nothing is asked.

    Returns:
        0 when the study is finished, 130 when it was interrupted and can be resumed, another `Answer` when that was
        given before it began.

    Raises:
        SweeperError: what is wrong, found before a model is loaded where it can be.
    """
    since_s = time.time() if since_s is None else since_s
    required(config)  # what it costs is asked first
    config, home, paths = _opened(config)
    with held(paths), contextlib.ExitStack() as at_end:
        place = Place.of(config)  # what is wrong with it is said before anything else is written
        mirror = Mirror.of(paths, config)
        if mirror is not None:
            mirror.begin(begun(home, paths.name) is None, announce)
        before = begun(home, paths.name)
        resumption: Resumption | None = None
        cluster: LocalCluster | None = None
        if before is None:
            _refuse_if_spent(home, config)
            cluster = _prepared(config, paths, since_s, at_end)
            _look_at_new(config, paths, announce)
        else:
            config = as_begun(config, paths)
            resumption = resume(config, paths, before)
            _say(resumption.lines, announce)
            _refuse_under_workers(paths, resumption.changed)
            if is_finished(before, config):
                resumption.keep()
                if mirror is not None:
                    mirror.copy(announce)
                _say_complete(paths, config, before, announce)
                return 0
        if before is None or not {"starts", "is_started"} & set(before.attributes):
            starts(home, config)  # past trials that cannot be read are said now
        tracked = prepare_tracking(place, paths, announce, before is not None)
        given, waited_s = _answered(config, home, as_json, announce)
        if given is not Answer.YES:
            return given
        if resumption is not None:
            resumption.keep()
        if tracked is not None:
            keep(paths, tracked)
        output = Output.JSON if as_json else Output.PERSON
        since_s += waited_s  # which is no work of the study's
        if cluster is not None:
            cluster.launched_s = since_s
        with mirror.running(announce) if mirror is not None else contextlib.nullcontext():
            return Supervisor(paths, config, before, since_s=since_s, output=output, cluster=cluster).run()


def _opened(config: Config) -> tuple[Config, Home, StudyPaths]:
    """The settings as they are kept, and the places of the store and of the study, which are there now."""
    home = Home.named(config.store.home, config.store.optuna)
    home.create()
    keep_storage(home)
    paths = home.study(config.study.name)
    paths.create()
    return _in_storage(check.with_absolute_paths(config), home), home, paths


def _prepared(config: Config, paths: StudyPaths, since_s: float, at_end: contextlib.ExitStack) -> LocalCluster | None:
    """The cluster whose workers import what they need while a new study is looked at; None where that is none."""
    if not isinstance(config.cluster, LocalClusterSection):
        return None
    cluster = LocalCluster(paths, config, since_s)
    at_end.callback(cluster.close)
    cluster.prepare()
    return cluster


def _answered(config: Config, home: Home, as_json: bool, announce: Callable[[str], None]) -> tuple[Answer, float]:
    """Says what the study will take, and asks whether it may; with the seconds that a person took to answer."""
    _say(_cost(config, home), announce)
    asked_s = time.monotonic()
    given = Answer.YES if as_json else answer(config)
    if given is not Answer.YES:
        announce(_UNBEGUN[given].format(config.preflight.answer_s))
    return given, time.monotonic() - asked_s


def _say_complete(paths: StudyPaths, config: Config, before: StudyView, announce: Callable[[str], None]) -> None:
    announce(f"{paths.name} is complete already: {before.summary()}. {_how_to_go_on(before, config)}")
    if count := waiting(paths.spool):
        announce(f"note: {unsent(count, paths)}")


def _refuse_under_workers(paths: StudyPaths, changed: list[str]) -> None:
    """Workers that joined, or whose launcher is gone, go on with the settings that they have read.

    Raises:
        HeldError: if some of them run, and settings change; those that are about to end are waited for.
    """
    deadline = time.monotonic() + LEAVING_S
    while changed and (left := working(paths)):
        if time.monotonic() > deadline:
            raise HeldError(
                f"settings change while none of a study's workers runs, but {', '.join(changed)} differ and workers "
                f"{', '.join(map(str, left))} of {paths.name!r} run; `sweeper stop {paths.name}`, or launch as before"
            )
        time.sleep(LOOK_S)


def _in_storage(config: Config, home: Home) -> Config:
    """The settings as they are kept: with the database that the store's trials are in, whoever has named it."""
    optuna = home.optuna_place if home.is_on_server else None
    return config.model_copy(update={"store": config.store.model_copy(update={"optuna": optuna})})


def _refuse_if_spent(home: Home, config: Config) -> None:
    """A study whose budget was spent before anything was measured would spend as much again, launch by launch."""
    name = config.study.name
    if not home.has_optuna or name not in study_names(home):
        return
    ended = view(home, name).attributes.get(ENDED)
    if ended is not None and ended["is_closed"] and holds(ended, config):
        raise ConfigError(
            f"{ended['key']}: must pay for more than loading the base, but {ended['message']}, and nothing was "
            f"measured yet; a higher {ended['key']} goes on"
        )


def _look_at_new(config: Config, paths: StudyPaths, announce: Callable[[str], None]) -> None:
    """Looks at all that a new study needs, and keeps what is found: it binds nobody until something is measured."""
    brought = own.load(config)
    data, retention = _read(config, brought)
    rows.keep_splits(data, config.data, paths.splits)
    brought.keep(paths.code)
    for line in admit(config, paths, goes_on=False):
        announce(f"note: {line}")
    _say(_check_rows(config, data, retention, paths), announce)
    check.save(config, paths)
    for line in combinations.notes(config):
        announce(f"note: {line}")


def _say(lines: Iterable[str], announce: Callable[[str], None]) -> None:
    for line in lines:
        announce(line)


def _cost(config: Config, home: Home) -> list[str]:
    """What all of a study, or what is left of it, will take."""
    from sweeper.preflight.cost import summary  # takes seconds to import, and what is wrong is to be said before

    return summary(config, home)


def _how_to_go_on(before: StudyView, config: Config) -> str:
    """What launches a study that is complete once more."""
    ended = before.attributes.get(ENDED)
    if ended is None or not holds(ended, config):
        return "search.trials=N goes on to N, study.name=NEW starts another"
    key = ended["key"] if ended["key"].startswith("budget.") else "stop"
    change = "a higher" if key != "stop" else "another"
    return (
        f"It ended before its total of {config.search.trials}: {ended['message']}. {change.capitalize()} {key} goes on"
    )


@contextmanager
def held(paths: StudyPaths) -> Iterator[None]:
    """Is the study's one launcher while the block runs.

    Raises:
        HeldError: if another one is.
        StoreError: if the study is being deleted.
    """
    lock = FileLock(paths.launcher_lock)
    try:
        acquired = lock.acquire(timeout=LOOK_S)
    except Timeout:
        raise HeldError(
            f"one launcher per study, but {paths.name!r} is held by {_holder(paths)}; wait for it, or "
            f"`sweeper stop {paths.name}`"
        ) from None
    with acquired:
        if paths.deleting.exists():
            raise StoreError(
                f"the study {paths.name!r} was being deleted when that was interrupted; `sweeper clean {paths.name} "
                "--whole --yes` completes it, study.name=NEW starts another"
            )
        note(paths.holder)
        yield


def _read(config: Config, brought: own.Own) -> tuple[rows.TaskData, suite.Suite]:
    """Reads the rows and the items of retention; what is wrong with either is said now, and with both at once."""
    wrong: list[DataError] = []
    try:
        retention = suite.load(config.retention)
        if replay.has_replay(config):
            replay.read(config)
    except DataError as error:
        wrong.append(error)
    try:
        data = rows.of(config, None, brought)
    except DataError as error:
        wrong.insert(0, error)
    if wrong:
        raise DataError.joined(wrong)
    return data, retention


def _check_rows(config: Config, data: rows.TaskData, retention: suite.Suite, paths: StudyPaths) -> list[str]:
    """What the data doctor says of a new study's rows; raises what stops its launch."""
    from sweeper.preflight.data import report  # takes seconds to import, which a study that goes on does not need

    return report.admit(config, data, retention.texts(), paths)


def prepare_tracking(
    place: Place, paths: StudyPaths, announce: Callable[[str], None], has_begun: bool = False
) -> Place | None:
    """Gives the study its id, and sees that a tracking server does what will be asked of it.

    Args:
        has_begun: it goes on without a server that is away, where it has been there before.

    Returns:
        Where its runs will be, to be kept when they begin; None for the store.
    """
    study_id = identify(paths)
    if place.uri is None:
        kept = record(paths)
        if kept is not None and kept.places:
            announce(
                f"note: the study's runs went to {kept.places[-1]}, and go to the store now; tracking.uri, or the "
                "environment that it was launched in, says otherwise"
            )
        return None
    from sweeper.tracking.mlflow_probe import probe  # takes seconds to import, which the store does not need

    try:
        experiment_id, lines = probe(place, study_id)
    except AwayError as error:
        before = known(paths, place)
        if not has_begun or before.experiment_id is None:
            raise
        announce(f"warning: the study goes on, and what is written to its runs waits on the disk: {error}")
        return before
    for line in lines:
        announce(f"note: {line}")
    return replace(place, experiment_id=experiment_id)


def _holder(paths: StudyPaths) -> str:
    holder = noted(paths.holder)
    return str(holder) if holder else "another process"
