"""The settings of a study that an earlier version wrote: a key it lacks, and a key that is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.config import check
from sweeper.config.defaults import WITHOUT
from sweeper.config.edits import marks
from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.paths import Home, StudyPaths
from tests.config.test_edits import BEGUN_WITH, edited

# What a study must say for itself: without it there is no valid default.
NO_DEFAULT = {"study.name": "study.name: is required", "search.space": "search.space: .*at least 1"}
# And what has another value where the study is a folder, or is only there with a value.
NOT_LACKED = {"sampler.name", "cluster.name", "pruner.name", "stop.name", "task.name", "study.folder", "task._target_"}
OPTIONS = {
    "task.arguments": BEGUN_WITH["task.arguments"],
    "task.max_new_tokens": ["task=generation", "data.columns.prompt=prompt", "data.columns.answer=answer"],
    **{
        key: options
        for key, options in BEGUN_WITH.items()
        if key.startswith(("sampler.", "pruner.", "stop.", "cluster."))
    },
    "sampler.points": ["sampler=grid", "search.trials=2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that leaves every setting at its default."""
    made = tmp_path_factory.mktemp("studies") / "plain"
    made.mkdir()
    (made / "config.yaml").write_text("study: {name: plain}\nsearch: {space: {rank: [4, 8]}}\n")
    return made


@pytest.fixture
def plain(composed_once: Callable[..., Config], folder: Path) -> Callable[..., Config]:
    return lambda *overrides: composed_once(f"study={folder}", *overrides)


def stored(home: Home, values: dict[str, Any]) -> StudyPaths:
    paths = home.study("plain")
    paths.create()
    paths.config.write_text(yaml.safe_dump(values, sort_keys=False))
    return paths


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    name, _, rest = key.partition(".")
    if not rest:
        return {other: value for other, value in values.items() if other != name}
    return {**values, name: without(values[name], rest)}


@pytest.mark.parametrize("key", sorted(set(marks()) - set(NO_DEFAULT) - NOT_LACKED))
def test_a_key_that_a_study_lacks_has_todays_default(plain: Callable[..., Config], home: Home, key: str) -> None:
    config = plain(*OPTIONS.get(key, []))
    paths = stored(home, without(config.model_dump(mode="json"), key))
    expected = edited(config, key, None) if key in WITHOUT else config
    assert check.load_filled(paths) == (expected, [key])
    assert check.load(paths) == expected


def test_a_section_that_a_study_lacks_has_todays_defaults(plain: Callable[..., Config], home: Home) -> None:
    config = plain()
    for section in ("gpu", "memory", "sampler", "data", "task", "model"):
        loaded, missing = check.load_filled(stored(home, without(config.model_dump(mode="json"), section)))
        assert loaded == config
        assert missing == [key for key in marks() if key.startswith(f"{section}.") and key in _of(config)]


def _of(config: Config) -> set[str]:
    """The dotted keys of a configuration."""
    keys: set[str] = set()

    def walk(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            keys.add(prefix + name)
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    walk(config.model_dump(), "")
    return keys


def test_a_default_is_that_of_the_option(plain: Callable[..., Config], home: Home) -> None:
    values = plain("model=llama-2-7b", "gpu=a10g").model_dump(mode="json")
    values["lora"]["rank"] = 5  # what is there stays
    loaded = check.load(stored(home, without(without(values, "model.config"), "gpu.card")))
    assert (loaded.model.config or {})["hidden_size"] == 4096
    assert loaded.gpu.card == "NVIDIA A10G"
    assert loaded.lora.rank == 5
    values["model"] |= {"name": "mine", "config": {"hidden_size": 1}}
    assert check.load(stored(home, without(values, "model.config"))).model.config is None  # as for any other model


@pytest.mark.parametrize("key", NO_DEFAULT)
def test_what_a_study_must_say_for_itself(plain: Callable[..., Config], home: Home, key: str) -> None:
    paths = stored(home, without(plain().model_dump(mode="json"), key))
    with pytest.raises(ConfigError, match=NO_DEFAULT[key]) as caught:
        check.load(paths)
    assert caught.value.problems[-1] == f"these are the settings of a study that exists: {paths.config}"


def test_a_key_that_is_gone_is_said_to_be(plain: Callable[..., Config], home: Home) -> None:
    values = plain().model_dump(mode="json")
    values["train"]["momentum"] = 0.9
    values["scheduler"] = {"name": "x"}
    values["pruner"]["interval"] = 2
    paths = stored(home, values)
    with pytest.raises(ConfigError) as caught:
        check.load(paths)
    *gone, advice = caught.value.problems
    words = "the study 'plain' was begun with this key, but there is none of that name now"
    assert gone == [f"{key}: {words}" for key in ("train.momentum", "pruner.interval", "scheduler")]
    assert advice.startswith(f"{paths.config} has the settings")
