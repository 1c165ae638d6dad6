"""What a launch may change of a study that exists: through the launcher, up to where it starts a worker."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper import versions
from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.custom import own
from sweeper.data import rows
from sweeper.errors import ConfigError, DataError, ModelError
from sweeper.launching import launcher
from sweeper.launching import resume as resume_module
from sweeper.launching.resume import resume
from sweeper.paths import Home, StudyPaths
from sweeper.preflight import cost
from sweeper.search.study import Search
from sweeper.search.views import view
from sweeper.worker import workbench
from tests.config.test_edits import BEGUN_WITH, FROZEN_KEYS, FROZEN_SECTIONS, OTHER, edited
from tests.conftest import SHORT

FROZEN = [key for key in OTHER if key in FROZEN_KEYS or key.partition(".")[0] in FROZEN_SECTIONS]
LIVE = [key for key in OTHER if key not in FROZEN and key != "store.optuna"]  # of the store, and not of a study


@dataclass
class Begun:
    """A study that has a trial, and what further launches of it say and start."""

    home: Home
    composed: Callable[..., Config]
    said: list[str] = field(default_factory=list)
    started: list[Config] = field(default_factory=list)
    since_s: float = 0.0  # it books from then on

    @property
    def paths(self) -> StudyPaths:
        return self.home.study("demo")

    def with_settings(self, config: Config) -> Config:
        """The study was begun with these."""
        self.paths.create()
        check.save(config, self.paths)
        return config

    def launch(self, config: Config) -> None:
        self.said.clear()
        assert launcher.launch(config, self.said.append) == 0

    @property
    def record(self) -> list[dict[str, Any]]:
        file = self.paths.changes
        return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else []


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optuna's store with one study of one trial; making one takes a second."""
    home = Home(tmp_path_factory.mktemp("told"))
    configs: list[Config] = []
    compose.main(["study=demo"], configs.append)
    search = Search(home, configs[0])
    asked = search.ask()
    assert asked is not None
    search.complete(asked.number, 0.5, {"metrics": {"accuracy": 0.5}}, {})
    return home.optuna_file


@pytest.fixture
def begun(composed_once: Callable[..., Config], home: Home, told: Path, monkeypatch: pytest.MonkeyPatch) -> Begun:
    study = Begun(home, composed_once)
    shutil.copy(told, home.optuna_file)

    class Worker:
        def __init__(
            self, paths: StudyPaths, config: Config, before: object, since_s: float, output: object, cluster: object
        ) -> None:
            assert before is not None
            assert cluster is None  # looking at it takes no time in which a worker could start
            study.since_s = since_s
            study.started.append(check.load(paths))

        def run(self) -> int:
            return 0

    monkeypatch.setattr(launcher, "Supervisor", Worker)
    monkeypatch.setattr(cost, "summary", lambda *_: [])  # it takes a second
    # A server that answers is in tests/tracking/test_server.py.
    monkeypatch.setattr(launcher, "prepare_tracking", lambda *_: None)
    study.with_settings(composed_once("study=demo"))
    return study


def value_of(config: Config, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for name in key.split("."):
        value = value[name]
    return value


@pytest.mark.parametrize("key", [key for key in FROZEN if key != "study.name"])
def test_another_value_of_a_frozen_key_is_refused(begun: Begun, key: str) -> None:
    before = begun.with_settings(begun.composed("study=demo", *BEGUN_WITH.get(key, [])))
    with pytest.raises(ConfigError) as caught:
        begun.launch(edited(before, key, OTHER[key]))
    *named, advice = caught.value.problems
    assert any(problem.startswith((f"{key}: was ", f"{key}.")) for problem in named)
    assert "set them back, or study.name=NEW starts another" in advice
    assert check.load(begun.paths) == before
    assert (begun.started, begun.record) == ([], [])


def test_another_name_is_another_study(begun: Begun) -> None:
    now = edited(begun.composed("study=demo"), "study.name", "other")
    with pytest.raises(ConfigError, match=r"study\.name: was 'demo', is 'other'"):
        resume(now, begun.paths, view(begun.home, "demo"))


@pytest.mark.parametrize("key", [key for key in LIVE if key not in ("store.home", "store.mirror")])
def test_another_value_of_a_live_key_is_applied_said_and_recorded(begun: Begun, key: str) -> None:
    before = begun.with_settings(begun.composed("study=demo", *BEGUN_WITH.get(key, [])))
    begun.launch(edited(before, key, OTHER[key]))
    was, now = value_of(before, key), OTHER[key]
    changes = [{"key": key, "was": was, "now": now}]
    if isinstance(now, dict):  # what is in it is named by itself
        changes = [{"key": f"{key}.{name}", "was": was.get(name), "now": value} for name, value in now.items()]
    assert begun.said == [f"note: {one['key']}: was {one['was']!r}, is {one['now']!r}" for one in changes]
    [worked_with] = begun.started
    assert value_of(worked_with, key) == OTHER[key]
    [entry] = begun.record
    assert entry["changes"] == changes
    assert entry["trials"] == 1
    begun.launch(worked_with)  # nothing has changed since
    assert begun.said == []
    assert len(begun.record) == 1


@pytest.mark.parametrize(
    ("key", "is_read"),
    [("cluster.grace_s", False), ("on_finish", False), ("preflight.learning_curve", True), ("mirror.every_s", True)],
)
def test_what_workers_read_is_told_from_what_their_launcher_does(begun: Begun, key: str, is_read: bool) -> None:
    now = edited(begun.with_settings(begun.composed("study=demo")), key, OTHER[key])
    assert resume(now, begun.paths, view(begun.home, "demo")).changed == ([key] if is_read else [])


def test_what_a_complete_study_does_not_do_any_more_is_said(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_module, "is_finished", lambda *_: True)
    begun.launch(edited(check.load(begun.paths), "tracking.log_text", True))
    assert begun.said[-1].startswith("note: what changed of tracking takes effect with the study's next trial")


def test_a_store_that_was_moved_is_said(begun: Begun) -> None:
    now = begun.composed("study=demo")
    begun.with_settings(edited(now, "store.home", "/before"))
    begun.launch(now)
    assert begun.said == [f"note: store.home: was '/before', is {str(begun.home.root)!r}"]


def test_every_difference_is_named_at_once_and_nothing_is_applied(begun: Begun) -> None:
    before = check.load(begun.paths)
    with pytest.raises(ConfigError) as caught:
        begun.launch(begun.composed("study=demo", "lora.dropout=0.1", "train.seed=3", "search.trials=99"))
    assert caught.value.problems[:-1] == ["lora.dropout: was 0.0, is 0.1", "train.seed: was 0, is 3"]
    assert check.load(begun.paths) == before
    assert begun.record == []


def test_each_launch_that_changes_something_has_its_entry(begun: Begun) -> None:
    for overrides in (["search.trials=20", "engine.slots=2"], ["search.trials=20", "engine.slots=2"], []):
        begun.launch(begun.composed("study=demo", *overrides))
    assert [[(change["key"], change["now"]) for change in entry["changes"]] for entry in begun.record] == [
        [("search.trials", 20), ("engine.slots", 2)],
        [("search.trials", 16), ("engine.slots", "auto")],
    ]


def test_other_rows_are_another_study(begun: Begun) -> None:
    Search(begun.home, check.load(begun.paths)).remember("data_sha256", "0" * 64)
    with pytest.raises(ConfigError) as caught:
        begun.launch(begun.composed("study=demo", "lora.dropout=0.1"))
    assert [problem.partition(":")[0] for problem in caught.value.problems[:-1]] == ["lora.dropout", "data"]


def test_the_same_rows_in_another_place_are_the_same_data(begun: Begun, ticket_files: Path, tmp_path: Path) -> None:
    overrides = [*SHORT, "train.examples=8", "evaluation.rows=4"]
    before = begun.with_settings(begun.composed(*overrides, f"data.path={ticket_files}"))
    Search(begun.home, before).remember("data_sha256", rows.of(before, None, own.load(before)).sha256)
    moved = tmp_path / "moved"
    ticket_files.rename(moved)
    begun.launch(begun.composed(*overrides, f"data.path={moved}"))
    assert f"note: data.path: was '{ticket_files}', is '{moved}'" in begun.said
    assert check.load(begun.paths).data.path == str(moved)
    with (moved / "train.jsonl").open("a") as file:
        file.write('{"text": "another row", "label": "cancel"}\n')
    shutil.copytree(moved, tmp_path / "again")
    with pytest.raises(ConfigError, match=r"data\.path: was .*moved', is .*again'"):
        begun.launch(begun.composed(*overrides, f"data.path={tmp_path / 'again'}"))


def test_rows_that_are_gone_are_missed_before_anything_is_applied(begun: Begun, tmp_path: Path) -> None:
    files = ["study=demo", "data=files", f"data.path={tmp_path / 'gone'}"]
    before = begun.with_settings(begun.composed(*files))
    with pytest.raises(DataError):
        begun.launch(begun.composed(*files, "search.trials=99"))
    assert check.load(begun.paths) == before
    assert begun.record == []


def test_another_base_under_the_same_name_is_refused(begun: Begun, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(str(resources.files("sweeper.models") / "tiny" / "weights"), folder)
    config = begun.with_settings(begun.composed("study=demo", "model=hub", f"model.path={folder}"))
    begun.launch(config)  # it is kept from now on
    assert begun.paths.model.is_file()
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"differs in generation_config\.json \(195 bytes, now 2\)"):
        begun.launch(edited(config, "search.trials", 99))
    assert begun.record == []
    assert check.load(begun.paths) == config
    with pytest.raises(ModelError, match="the base must be the one that the study was begun with"):
        workbench.set_up(config, begun.home)  # what a worker and `rerun` begin with


def test_a_study_from_before_a_setting_goes_on(begun: Begun) -> None:
    values = begun.composed("study=demo").model_dump(mode="json")
    del values["lora"]["dropout"], values["memory"]["margin"], values["gpu"]
    begun.paths.config.write_text(yaml.safe_dump(values))
    # Today's default is what it was begun with, as far as anybody knows.
    with pytest.raises(ConfigError, match=r"lora\.dropout: was 0\.0, is 0\.1"):
        begun.launch(begun.composed("study=demo", "lora.dropout=0.1"))
    begun.launch(begun.composed("study=demo"))
    words = "the study was begun before there was this setting, and has its default"
    assert begun.said == [f"note: lora.dropout: {words}"]  # live ones have nothing to say
    assert begun.record[0]["defaults"] == ["lora.dropout"]
    begun.launch(begun.composed("study=demo"))
    assert begun.said == []


def test_a_study_from_before_retention_goes_on_without_it(begun: Begun) -> None:
    values = begun.composed("study=demo").model_dump(mode="json")
    del values["retention"]
    begun.paths.config.write_text(yaml.safe_dump(values))
    for said in (["choices", "passages"], []):  # again it is known, and nothing is said
        begun.launch(begun.composed("study=demo"))
        words = "the study was begun before there was this setting, and goes on without"
        assert [line for line in begun.said if "goes on without" in line] == [
            f"note: retention.{key}: {words}" for key in said
        ]
        assert not begun.started[-1].retention.is_on
        assert not check.load(begun.paths).retention.is_on


def test_a_setting_that_is_gone_is_an_error(begun: Begun) -> None:
    values = begun.composed("study=demo").model_dump(mode="json")
    values["train"]["momentum"] = 0.9
    begun.paths.config.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"train\.momentum: the study 'demo' was begun with this key"):
        begun.launch(begun.composed("study=demo"))


def test_libraries_of_other_versions_are_warned_of(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    first = versions.installed()
    assert {"sweeper", "torch", "transformers", "peft", "bitsandbytes", "optuna"} == set(first)
    begun.launch(begun.composed("study=demo"))
    assert begun.said == []  # a study from before they were kept
    Search(begun.home, check.load(begun.paths)).remember("versions", first)
    monkeypatch.setattr(versions, "installed", lambda: {**first, "torch": "99.0"})
    begun.launch(begun.composed("study=demo"))
    change = f"torch {first['torch']} → 99.0"
    assert begun.said == [f"warning: results may differ from those of the study's first launch: {change}"]
    assert begun.record[0]["versions"] == [change]
