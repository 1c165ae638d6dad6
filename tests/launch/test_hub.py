"""A model of the Hub, from before its download to the use of an export: launched, moved, gated, offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.errors import ModelError
from sweeper.models import hub
from sweeper.models.origin import kept
from sweeper.paths import Home
from sweeper.search.views import view
from tests.conftest import SHORT
from tests.fake_hub import TOKEN, FakeHub, Model, serving

TINY = Path(str(resources.files("sweeper.models") / "tiny" / "weights"))
FIRST, SECOND = "a1" * 20, "b2" * 20
MODEL = ["model=hub", "model.path=acme/tiny"]


@pytest.fixture
def other_tiny(tmp_path: Path) -> Path:
    """The bundled model with other words in its configuration: a later commit."""
    folder = tmp_path / "later"
    shutil.copytree(TINY, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "rms_norm_eps": 0.5}))
    return folder


@pytest.fixture
def served(other_tiny: Path) -> Iterator[FakeHub]:
    with serving() as hub_here:
        hub_here.models["acme/tiny"] = Model({FIRST: TINY, SECOND: other_tiny}, {"main": FIRST, "old": FIRST})
        yield hub_here


@pytest.fixture
def run(home: Home, tmp_path: Path, served: FakeHub) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs sweeper with the Hub that is served, and an empty cache."""

    def run_sweeper(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sweeper", *arguments],
            env={
                **os.environ,
                "SWEEPER_HOME": str(home.root),
                "HF_ENDPOINT": served.url,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=200,
        )

    return run_sweeper


def offline_cache(folder: Path) -> Path:
    """A cache as huggingface_hub lays it out, with the bundled model as acme/tiny."""
    model = folder / "hub" / "models--acme--tiny"
    shutil.copytree(TINY, model / "snapshots" / FIRST)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(FIRST)
    return model / "snapshots" / FIRST


def test_a_study_keeps_the_commit_that_it_was_begun_with(
    run: Callable[..., Any], served: FakeHub, home: Home, few_tickets: Path, tmp_path: Path
) -> None:
    launch = ["launch", *SHORT, *MODEL, f"data.path={few_tickets}", "search.trials=1", "train.examples=8",
              "evaluation.count=1", "pruner=none"]  # fmt: skip
    offline_cache(tmp_path / "hf")
    done = run(*launch, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert f"note: model.path: acme/tiny at commit {FIRST} (the main branch), all of it is cached" in done.stdout
    known = kept(home.study("demo"))
    assert known is not None
    assert (known.kind, known.commit, known.revision) == ("hub", FIRST, None)
    assert view(home, "demo").attributes["model"] == known.as_dict()
    assert served.downloads == []

    served.models["acme/tiny"].branches["main"] = SECOND
    shutil.rmtree(tmp_path / "hf")  # so all of it is downloaded
    done = run(*launch, "search.trials=2")
    assert done.returncode == 0, done.stderr
    assert f"main branch of acme/tiny is at {SECOND[:12]} by now; the study goes on with the commit" in done.stdout
    assert (FIRST, "model.safetensors") in served.downloads
    assert {commit for commit, _ in served.downloads} == {FIRST}

    folder = tmp_path / "exported"
    done = run("export", "demo", "--to", str(folder), "--force")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((folder / "sweeper.json").read_text())
    assert (manifest["model"]["revision"], manifest["base"]["commit"]) == (FIRST, FIRST)
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("acme/tiny", FIRST)
    done = run("predict", str(folder), "the app closes by itself", HF_HUB_OFFLINE="1")
    assert done.stdout.strip() in view(home, "demo").attributes["labels"], done.stderr
    if os.environ.get("SWEEPER_TESTS") == "all":
        done = run("rerun", "demo", "--trial", "0")
        assert "trial 0 of demo is the same" in done.stdout, done.stderr
    assert {commit for commit, _ in served.downloads} == {FIRST}


@pytest.fixture
def here(served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The Hub that is served, for this process: its address and cache are read when the library is imported."""
    from huggingface_hub import _snapshot_download, constants, file_download, hf_api
    from huggingface_hub.utils import _http

    monkeypatch.delenv("HF_TOKEN", raising=False)
    for module in (constants, file_download, hf_api, _http, _snapshot_download):
        for name, value in {
            "ENDPOINT": served.url,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HUGGINGFACE_CO_URL_TEMPLATE": served.url + "/{repo_id}/resolve/{revision}/{filename}",
        }.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    _http.close_session()
    yield served
    _http.close_session()


def model_of(composed: Callable[..., Config], *overrides: str) -> Any:
    return composed("study=demo", *MODEL, *overrides).model


@pytest.mark.parametrize("revision", ["null", "main", FIRST, FIRST[:7]])
def test_a_revision_is_a_commit(here: FakeHub, composed: Callable[..., Config], revision: str) -> None:
    found = hub.snapshot(model_of(composed, f"model.revision={revision}"))
    assert found.commit == FIRST
    assert found.files["model.safetensors"] == (TINY / "model.safetensors").stat().st_size
    assert 0 < found.size_bytes - found.missing_bytes < 1000  # its configuration alone has been downloaded
    assert {file for _, file in here.downloads} == {"config.json"}


def test_the_revisions_that_there_are_are_named(here: FakeHub, composed: Callable[..., Config]) -> None:
    with pytest.raises(
        ModelError, match="acme/tiny has no revision 'none'; it has main, old, and each commit of these"
    ):
        hub.snapshot(model_of(composed, "model.revision=none"))


@pytest.mark.parametrize(
    ("change", "token", "expected"),
    [
        (
            {"is_gated": True},
            None,
            r"acme/tiny is gated; accept its licence at http://127.*/acme/tiny, and set HF_TOKEN, or log in with",
        ),
        (
            {"is_gated": True},
            TOKEN,
            r"is gated, and the account of the token that is set has no access to it; accept its licence at",
        ),
        ({"is_private": True}, None, r"there is no model acme/tiny at http.*, or it is private: then set HF_TOKEN"),
        ({}, "hf_other", r"the Hub's token must be valid, but .* refuses it for acme/tiny"),
    ],
)
def test_why_a_model_may_not_be_had(
    here: FakeHub,
    composed: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, bool],
    token: str | None,
    expected: str,
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    for name, value in change.items():
        setattr(here.models["acme/tiny"], name, value)
    with pytest.raises(ModelError, match=expected) as caught:
        hub.snapshot(model_of(composed))
    assert token is None or token not in str(caught.value)


def test_a_gate_that_was_closed_after_the_configuration_was_downloaded(
    here: FakeHub, composed: Callable[..., Config]
) -> None:
    hub.snapshot(model_of(composed))
    here.models["acme/tiny"].is_gated = True
    with pytest.raises(ModelError, match="acme/tiny is gated"):
        hub.snapshot(model_of(composed))


def test_a_private_model_with_a_token(
    here: FakeHub, composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    here.models["acme/tiny"].is_private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.snapshot(model_of(composed)).commit == FIRST


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("acme/nothing", "there is no model acme/nothing"),
        ("a/b/c", "must be a folder, or ORGANISATION/MODEL on the Hub"),
    ],
)
def test_a_model_that_is_not_there(here: FakeHub, composed: Callable[..., Config], path: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        hub.snapshot(model_of(composed, f"model.path={path}"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"model.safetensors": None, "pytorch_model.bin": b"x"},
            r"only pickles \(pytorch_model\.bin\), which run code",
        ),
        ({"tokenizer.json": None}, "must have a tokenizer"),
        ({"config.json": None}, "must have a config.json"),
        ({"config.json": None, "adapter_config.json": b"{}"}, "is an adapter: its base is what belongs here"),
        (
            {"config.json": b'{"model_type": "novel", "auto_map": {"AutoConfig": "modeling_novel.Config"}}'},
            r"is made of code in its repository \(modeling_novel\.Config\).*set model\.trust_remote_code=true",
        ),
    ],
)
@pytest.mark.parametrize("is_local", [False, True])
def test_what_cannot_be_loaded_is_refused(
    here: FakeHub,
    composed: Callable[..., Config],
    home: Home,
    tmp_path: Path,
    files: dict[str, bytes | None],
    expected: str,
    is_local: bool,
) -> None:
    from sweeper.preflight.model import survey

    folder = tmp_path / "broken"
    shutil.copytree(TINY, folder)
    for name, content in files.items():
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    here.models["acme/tiny"].commits[FIRST] = folder
    path = str(folder) if is_local else "acme/tiny"
    with pytest.raises(ModelError, match=expected):
        survey(composed("study=demo", "model=hub", f"model.path={path}"), home)
    assert not any(file.endswith((".bin", ".safetensors")) for _, file in here.downloads)


def test_code_that_transformers_has_itself_is_not_asked_for(
    here: FakeHub, composed: Callable[..., Config], tmp_path: Path
) -> None:
    folder = tmp_path / "known"
    shutil.copytree(TINY, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "auto_map": {"AutoConfig": "configuration.Own"}}))
    here.models["acme/tiny"].commits[FIRST] = folder
    assert hub.snapshot(model_of(composed)).commit == FIRST


def test_where_the_hub_is_down_the_cache_answers(
    here: FakeHub, composed: Callable[..., Config], tmp_path: Path
) -> None:
    here.is_down = True
    with pytest.raises(
        ModelError, match=r"the Hub is not reached \(.*503.*cache .* does not have it.*`hf download acme/tiny`"
    ):
        hub.snapshot(model_of(composed))
    snapshot = offline_cache(tmp_path / "down")
    (tmp_path / "cache").symlink_to(tmp_path / "down" / "hub")
    found = hub.snapshot(model_of(composed))
    assert (found.commit, found.missing_bytes) == (FIRST, 0)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"lacks weights of it.*`hf download acme/tiny --revision {FIRST}`"):
        hub.snapshot(model_of(composed))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors of it"):
        hub.snapshot(model_of(composed))
