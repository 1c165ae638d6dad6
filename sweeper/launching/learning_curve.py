"""`sweeper learning-curve`: the curve that a study keeps, or a worker that measures it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import StoreError
from sweeper.launching.launcher import held, prepare_tracking
from sweeper.launching.resume import resume
from sweeper.launching.screen import Output
from sweeper.launching.supervisor import Supervisor
from sweeper.learning.curve import LearningCurve
from sweeper.learning.request import Request
from sweeper.mirror.mirror import Mirror
from sweeper.paths import Home
from sweeper.search.views import StudyView, view
from sweeper.tracking.place import Place, keep


def learning_curve(
    home: Home,
    name: str,
    fractions: str | None,
    seeds: int | None,
    announce: Callable[[str], None],
    output: Output = Output.PERSON,
) -> LearningCurve | int:
    """The learning curve of a study's winner; measured where the study does not keep it.

    Args:
        output: where the progress of a measurement is shown.

    Returns:
        The curve; or the exit code of a worker that was interrupted.

    Raises:
        ConfigError: if `fractions` or `seeds` give no curve.
        StoreError: if there is no such study, it has no winner, or it runs.
        SweeperError: whatever stops a launch.
    """
    study, paths = view(home, name), home.study(name)
    if study.best is None:
        raise StoreError(
            f"a learning curve is one of the winner, but {name!r} has none yet ({study.summary()}); "
            f"`sweeper status {name}` shows all, and preflight.learning_curve=true measures one before a search"
        )
    config = check.load(paths)
    request = Request.of(fractions, seeds, config.objective.has_error(study.best.metrics))
    if (kept := _kept(study)) is not None and kept.trial == study.best.number and request.is_met_by(kept):
        return kept
    with held(paths):
        place = Place.of(config)
        mirror = Mirror.of(paths, config)
        if mirror is not None:
            mirror.begin(False, announce)
        study = view(home, name)
        resumption = resume(config, paths, study)
        for line in resumption.lines:
            announce(line)
        resumption.keep()
        if (tracked := prepare_tracking(place, paths, announce)) is not None:
            keep(paths, tracked)
        with mirror.running(announce) if mirror is not None else nullcontext():
            asked = ("--learning-curve", request.to_json())
            code = Supervisor(paths, _for_one(config), study, asked, output=output).run()
    now = view(home, name)
    measured = _kept(now)
    if code:
        return code
    if measured is None or now.best is None or measured.trial != now.best.number or not request.is_met_by(measured):
        raise StoreError(
            "a learning curve must fit into the study's budget, but what is left of it does not pay for one; raise "
            "budget.usd or budget.hours with `sweeper launch`, and measure again"
        )
    return measured


def _for_one(config: Config) -> Config:
    """The settings with one worker, for more there is no work; it has the whole machine."""
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"workers": 1})})


def _kept(study: StudyView) -> LearningCurve | None:
    values = study.attributes.get("learning_curve")
    return LearningCurve.from_dict(values) if values is not None else None
