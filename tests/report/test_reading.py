"""A study between its launch and its first trial."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner

import sweeper
from sweeper.cli.main import main
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import StoreError
from sweeper.paths import Home
from sweeper.report.reading import cost_of, studied
from sweeper.search.study import Search


@pytest.mark.parametrize("has_others", [False, True])
def test_a_study_that_has_just_begun_has_no_trials_yet(
    home: Home, composed: Callable[..., Config], has_others: bool
) -> None:
    if has_others:
        Search(home, composed("study=demo", "study.name=other"))
    config = composed("study=demo")
    paths = home.study("demo")
    paths.create()
    check.save(config, paths)
    seen, read = studied(home, "demo")
    assert (seen.trials, read, cost_of(home, seen, read).is_empty) == ([], config, True)
    assert home.has_optuna is has_others  # looking makes no database
    assert sweeper.load_study("demo").trials == []
    result = CliRunner().invoke(main, ["status", "demo"])
    assert result.exit_code == 0, result.output
    assert "no trials yet" in result.stdout
    with pytest.raises(StoreError, match=r"unknown study `dmo`|no study in"):
        studied(home, "dmo")
