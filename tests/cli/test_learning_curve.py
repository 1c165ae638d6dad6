"""`sweeper learning-curve` as a person sees it, where nothing has to be trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock

from sweeper.cli.main import main
from sweeper.cluster.local import LocalCluster
from sweeper.config import check
from sweeper.errors import ConfigError
from sweeper.launching.question import INTERRUPTED
from sweeper.launching.supervisor import Supervisor
from sweeper.learning.request import Request
from sweeper.paths import Home
from sweeper.search.study import Search
from tests.learning.test_curve import RISING, curve
from tests.mistakes.conftest import Make, data, make  # noqa: F401  (fixtures)


def command(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, [*arguments], env={"COLUMNS": "120"})
    assert done.exit_code == code, done.output
    return done.output


def test_a_curve_that_is_kept_is_shown(make: Make, home: Home) -> None:  # noqa: F811
    paths = make(0.5, 0.75)
    search = Search(home, check.load(paths))
    search.remember("learning_curve", curve(trial=1).as_dict())
    shown = command("learning-curve", "demo")
    assert "demo, trial 1, on parts of the training rows: 4,800 examples for each\n" in shown
    assert re.search(r"^ +288 +12% +17 +0\.691 ± 0\.004", shown, re.MULTILINE)
    assert "Twice the rows (4,800) would buy" in shown
    assert str(paths.learning_curve_picture) in shown
    found = json.loads(command("learning-curve", "demo", "--json"))
    assert [point["value"] for point in found["points"]] == list(RISING)
    assert found["twice"]["gain"] > 0
    assert "Learning curve of trial 1: Twice the rows (4,800)" in command("best", "demo")
    assert json.loads(command("status", "demo", "--json"))["learning_curve"]["trial"] == 1

    # What is not kept takes a worker, which there cannot be while another process holds the study.
    with FileLock(paths.launcher_lock):
        assert command("learning-curve", "demo") == shown
        for more in (["--seeds", "2"], ["--fractions", "0.2,0.6,1"]):
            assert "one launcher per study, but 'demo' is held" in command("learning-curve", "demo", *more, code=2)
        search.remember("learning_curve", curve(trial=0).as_dict())  # of one that is not the winner any more
        assert "one launcher per study" in command("learning-curve", "demo", code=2)


def test_what_has_no_curve(make: Make, home: Home) -> None:  # noqa: F811
    make()
    assert "unknown study `dmo`; did you mean `demo`" in command("learning-curve", "dmo", code=2)
    shown = command("learning-curve", "demo", code=2)
    assert "a learning curve is one of the winner, but 'demo' has none yet (no trials yet)" in shown
    assert "--seeds" in command("learning-curve", "demo", "--seeds", "0", code=2)


@pytest.mark.parametrize(
    "fractions",
    ["0.5,1", "a,b,1", "0,0.5,1", "0.2,0.5,0.9", "0.2,0.5,1.5", "1,1,1", "", "nan,1,2", "nan,0.5,1", "0.5,nan,1"],
)
def test_fractions_that_give_no_curve(fractions: str) -> None:
    with pytest.raises(ConfigError, match="--fractions: must be at least 3 different numbers above 0 and up to 1"):
        Request.of(fractions, None, has_error=True)


def test_a_metric_without_a_standard_error_takes_seeds() -> None:
    assert Request.of(None, None, has_error=True).seeds == 1
    assert Request.of("1,0.5,0.25", None, has_error=False) == Request((0.25, 0.5, 1.0), seeds=3)
    with pytest.raises(ConfigError, match="--seeds: must be 2 or more where the metric has no standard error"):
        Request.of(None, 1, has_error=False)


def test_a_request_reaches_the_worker_whole(tmp_path: Path) -> None:
    asked = Request((0.25, 1.0), seeds=2)
    assert Request.from_json(asked.to_json()) == asked


def test_it_takes_one_worker_which_has_the_whole_machine(
    make: Make,  # noqa: F811
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = make(0.5, 0.75)
    config = check.load(paths)
    cluster = config.cluster.model_copy(update={"workers": 4})
    check.save(config.model_copy(update={"cluster": cluster}), paths)
    own: list[dict[str, str]] = []

    def run(self: Supervisor) -> int:
        assert isinstance(self._cluster, LocalCluster)
        assert (list(self._indices), self._cluster.count) == ([0], 1)
        own.append(self._cluster._own(None))
        return INTERRUPTED

    monkeypatch.setattr(Supervisor, "run", run)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command("learning-curve", "demo", code=INTERRUPTED)
    assert own == [{}]  # no share of the cores
