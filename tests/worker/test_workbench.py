"""What a worker sets up before its first trial."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sweeper.config.schema import Config
from sweeper.models import base, copies, quantised
from sweeper.paths import Home
from sweeper.units import GIB
from sweeper.worker.workbench import set_up
from tests.conftest import SHORT

Usage = type(shutil.disk_usage("/"))


def test_the_next_worker_reads_what_the_first_one_quantised(
    composed: Callable[..., Config], few_tickets: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(*SHORT, f"data.path={few_tickets}")
    monkeypatch.setattr(copies, "WORTH_VALUES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(quantised.shutil, "disk_usage", lambda folder: Usage(2 * GIB, GIB, GIB))
        set_up(config, home)  # the study will need more than a GiB, or nearly so
        assert list(home.models.iterdir()) == []
    first = set_up(config, home)
    [folder] = home.models.glob("tiny-nf4-*")
    assert (folder / copies.MANIFEST).is_file()
    monkeypatch.setattr(base, "_from_source", None)
    second = set_up(config, home)
    assert first.base_name == second.base_name
    for one, other in zip(first.pack.model.parameters(), second.pack.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert first.score_base(first.validation) == second.score_base(second.validation)
