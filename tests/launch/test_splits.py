"""The launcher keeps the splits that it cut in the study's folder, where the worker finds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.schema import Config
from sweeper.data import rows
from sweeper.launching import launcher
from sweeper.paths import Home
from sweeper.worker import workbench


def test_cut_splits_are_kept_until_the_study_has_begun(
    composed: Callable[..., Config], home: Home, few_tickets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher.Supervisor, "run", lambda _: 0)
    kept = home.study("demo").splits
    found = []
    for seed in (0, 1):  # nothing was measured in between, so the second launch cuts again
        path = f"data.path={few_tickets / 'train.jsonl'}"
        cut = ("data.splits.validation=0.2", "data.splits.test=null", f"data.seed={seed}")
        config = composed("study=demo", "data=files", path, *cut)
        assert launcher.launch(config, announce=lambda _: None) == 0
        found.append(json.loads(kept.read_text()))
        assert [len(found[-1][split]) for split in rows.SPLITS] == [61, 20, 15]
    assert found[0] != found[1]

    class Read(Exception):  # noqa: N818 (no error)
        pass

    def stop(config: Config, file: Path, *_: object) -> None:
        raise Read(file)

    monkeypatch.setattr(workbench.rows, "of", stop)
    with pytest.raises(Read, match=r"splits\.json") as caught:
        workbench.set_up(config, home)
    assert caught.value.args == (kept,)
