"""What is said of the Hub and of a study's base, beside a Hub on this machine."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest
from huggingface_hub import constants

from sweeper.cli.checks import base
from sweeper.cli.finding import State
from sweeper.cli.reachable import Named
from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.models.origin import keep
from sweeper.paths import Home
from sweeper.preflight.model import survey
from tests.fake_hub import TOKEN, FakeHub, Model, serving

TINY = Path(str(resources.files("sweeper.models") / "tiny" / "weights"))
COMMIT = "a1" * 20
MODEL = ["model=hub", "model.path=acme/tiny"]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub that this process asks, with an empty cache and no token."""
    with serving() as hub:
        hub.models["acme/tiny"] = Model({COMMIT: TINY}, {"main": COMMIT})
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def test_the_hub_is_not_asked_where_it_must_not_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--acme--tiny").mkdir()
    found = base.hub()
    assert found.state is State.NOTE
    assert found.detail == f"not asked, as HF_HUB_OFFLINE is set; the cache {tmp_path} has 1 model"
    assert found.cure is not None
    assert "hf download ORGANISATION/MODEL" in found.cure


def test_a_hub_that_answers(served: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = base.hub()
    assert found.state is State.OK, found
    assert "answers, without a token, which gated models need" in found.detail
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "answers, with a token" in base.hub().detail
    assert TOKEN not in base.hub().detail


def test_a_token_that_is_refused(served: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    found = base.hub()
    assert (found.state, "refuses the token that is set" in found.detail) == (State.WARNING, True)
    assert found.cure is not None
    assert "hf auth login" in found.cure


def test_a_hub_that_is_away(served: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    served.is_down = True
    assert "is not reached (status 503)" in base.hub().detail
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    found = base.hub()
    assert (found.state, "is not reached (ConnectError" in found.detail) == (State.WARNING, True)
    assert found.cure is not None
    assert "HTTPS_PROXY" in found.cure
    assert "HF_HUB_OFFLINE=1" in found.cure


def test_a_hub_that_says_nothing_is_not_waited_for(served: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        assert base.hub().state is State.WARNING
        assert time.monotonic() - begun < 5
    monkeypatch.setattr(base, "_ask", lambda token: time.sleep(0.5) or "")
    assert "no answer within 0.2 s" in base.hub().detail


@pytest.fixture
def named(home: Home, composed: Callable[..., Config]) -> Callable[..., Named]:
    def named_by(*overrides: str) -> Named:
        return Named.of(home, None, None, overrides)

    return named_by


def test_a_base_that_can_be_had(served: FakeHub, named: Callable[..., Named], home: Home) -> None:
    assert base.base(Named(home, None)) is None
    found = base.base(named("model=tiny"))
    assert found is not None
    assert (found.what, found.state, found.detail) == ("base tiny", State.OK, "bundled:tiny")
    found = base.base(named("study=demo", *MODEL))
    assert found is not None
    assert found.state is State.OK
    assert f"acme/tiny at commit {COMMIT}" in found.detail
    assert "to download" in found.detail


def test_a_gated_base_without_a_token(served: FakeHub, named: Callable[..., Named]) -> None:
    served.models["acme/tiny"].is_gated = True
    found = base.base(named(*MODEL))
    assert found is not None
    assert found.state is State.MISSING
    assert f"acme/tiny is gated; accept its licence at {served.url}/acme/tiny, and set HF_TOKEN" in found.detail


def test_a_base_without_a_network(
    served: FakeHub, named: Callable[..., Named], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = base.base(named(*MODEL))
    assert found is not None
    assert found.state is State.MISSING
    assert "HF_HUB_OFFLINE is set" in found.detail
    assert "`hf download acme/tiny` fills one" in found.detail


def test_a_study_of_the_store_keeps_the_base_that_it_was_begun_with(
    served: FakeHub, home: Home, composed: Callable[..., Config]
) -> None:
    config = composed("study=demo", *MODEL)
    home.study("demo").root.mkdir()
    check.save(config, home.study("demo"))
    keep(survey(config, home).origin, home.study("demo"))
    served.models["acme/tiny"].commits.clear()
    found = base.base(Named.of(home, "demo", None))
    assert found is not None
    assert (found.what, found.state) == ("base hub", State.MISSING)
    assert COMMIT in found.detail
    served.models["acme/tiny"].commits[COMMIT] = TINY
    found = base.base(Named.of(home, "demo", None))
    assert found is not None
    assert found.state is State.OK, found


def test_overrides_are_checked_as_a_launch_does(named: Callable[..., Named]) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        named("model=nothing")
    with pytest.raises(ConfigError, match=r"search\.trials"):
        named("search.trials=0")
