from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.paths import Home
from sweeper.trial import TrialParams

ROOT = Path(__file__).parents[2]
GROUP_FILES = sorted(path for path in (ROOT / "conf").glob("*/*.yaml"))
STUDIES = sorted(path.parent.name for path in (ROOT / "studies").glob("*/config.yaml"))


def test_the_counts_are_known() -> None:
    """A file that is added without being composed by the tests below changes these."""
    assert len(GROUP_FILES) == 19
    assert STUDIES == ["banking77", "demo", "tickets"]
    assert sorted(compose.bundled_studies()) == STUDIES


@pytest.mark.parametrize("file", GROUP_FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_composes(composed: Callable[..., Config], file: Path) -> None:
    needed = {
        "model=hub": ["model.path=x"],
        "data=files": ["data.path=x"],
        "data=hub": ["data.path=x"],
        "sampler=cmaes": ["+search.space.dropout={low:0.0,high:0.2}"],
    }
    option = f"{file.parent.name}={file.stem}"
    config = composed("study=demo", option, *needed.get(option, []))
    section = getattr(config, file.parent.name)
    assert file.stem in (getattr(section, "name", None), getattr(section, "source", None))


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_composes_under_its_own_name(composed: Callable[..., Config], study: str) -> None:
    config = composed(f"study={study}", *(["data.path=x"] if study == "banking77" else []))
    assert config.study.name == study
    assert (ROOT / "studies" / study / "README.md").is_file()


def test_a_study_folder_of_ones_own(composed: Callable[..., Config], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "model").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "defaults:\n  - override /model: local\nstudy: {name: mine}\nsearch: {space: {rank: [4, 8]}}\n"
    )
    (folder / "model" / "local.yaml").write_text(
        "# @package _global_\nmodel: {name: local, path: /m, revision: null, gguf_package: null, quant: none, "
        "dtype: auto, trust_remote_code: false}\n"
    )
    config = composed(f"study={folder}")
    assert (config.study.name, config.model.name, config.search.space) == ("mine", "local", {"rank": [4, 8]})


def test_a_study_folder_that_is_no_study(composed: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a study folder has a config.yaml"):
        composed(f"study={tmp_path}")
    (tmp_path / "config.yaml").write_text("study: {name: x}\n  bad: [\n")
    with pytest.raises(ConfigError, match=r"config.yaml must be YAML, but .*"):
        composed(f"study={tmp_path}")


def test_the_command_line_wins_over_the_study(composed: Callable[..., Config]) -> None:
    config = composed("study=demo", "search.trials=3", "search.space.rank=[2,4]", "sampler=random")
    assert (config.search.trials, config.search.space["rank"], config.sampler.name) == (3, [2, 4], "random")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["search.space.rank=[0,8]"], "search.space.rank: .*greater than or equal to 1, but got 0"),
        (["search.space.learning_rate.low=-1"], "search.space.learning_rate: .*greater than 0, but got -1"),
        (["search.space.learning_rate.low=1"], r"low <= high must hold, but got \(low=1, high=0.03"),
        (["search.space.rank=[eight]"], "search.space.rank: .*valid integer.*'eight'"),
        (["+search.space.rnk=[8]"], "search.space.rnk: unknown parameter `rnk`; did you mean `rank`.*Known: alpha"),
        (["+search.space.alpha=[8]"], "alpha and alpha_ratio fix each other"),
        (["+search.space.batch_size={low:1,high:2.5}"], "must be whole numbers"),
        (["search.space.rank=[8,8]"], "each choice must be given once"),
        (["lora.rank=0"], "lora.rank: .*greater than or equal to 1, but got 0"),
        (["train.learning_rate=-0.1"], "train.learning_rate: .*greater than 0, but got -0.1"),
        (["train.learning_rate=fast"], "train.learning_rate: .*valid number.*'fast'"),
        (["train.schedule=zigzag"], "train.schedule: .*'constant'.*but got 'zigzag'"),
        (["sampler.name=foo"], "sampler: .*'tpe', 'gp', 'random'"),
        (["objective.metric=f1"], "objective.metric: .*'accuracy' or 'macro_f1'"),
        (["train.learning_rte=1"], "unknown key `train.learning_rte`; did you mean `train.learning_rate`"),
        (["+model.pth=1"], "model.pth: unknown key `pth`; did you mean `path`"),
        (["serch.trials=1"], "unknown key `serch.trials`"),
        (["data=files"], "data.path: must be set where data.source is files"),
        (["model=hub"], "model.path: must be a Hub id or a folder"),
        (["train.examples=2"], "evaluation.count: at most train.examples=2"),
        (["study.name=../x"], "study.name: .*pattern"),
        (["-m"], "-m: sweeper searches by itself"),
        (["search.space={}"], r"search.space: Hydra would merge.*~search.space.NAME to drop one"),
        (["search.space.rnak=[8]"], "unknown parameter `rnak`; did you mean `rank`"),
        (["study.name=???"], "study.name: is required"),
        (["engine.slots=0"], "engine.slots: .*greater than or equal to 1"),
        (["search.seed=-1"], "search.seed: .*greater than or equal to 0"),
        (["train.seed=-1"], "train.seed: .*greater than or equal to 0"),
        (["search.space.rank=['8','16']"], "search.space.rank: .*valid integer.*'8'"),
        (["lora.alpha=inf"], "lora.alpha: .*finite number"),
        (["model.name=../../x"], "model.name: .*pattern"),
        (
            ["~search.space.rank", "~search.space.alpha_ratio", "~search.space.learning_rate"],
            "search.space: .*at least 1",
        ),
    ],
)
def test_a_wrong_value_is_named(composed: Callable[..., Config], overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        composed("study=demo", *overrides)
    assert re.search(expected, str(caught.value)), str(caught.value)


def test_all_problems_come_in_one_message(composed: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError) as caught:
        composed("study=demo", "search.space.rank=[0]", "search.trials=0", "train.seed=x", "model.quant=int8")
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["study=nope"], "Available options in 'study':\n\tbanking77\n\tdemo\n\ttickets"),
        (["study=demo", "model=nope"], "Available options in 'model':\n\thub\n\tsmollm2-135m\n\ttiny"),
        (
            ["study=demo", "sampler=nope"],
            "Available options in 'sampler':\n\tcmaes\n\tgp\n\tgrid\n\tnsgaii\n\tqmc\n\trandom\n\ttpe",
        ),
        ([], "You must specify 'study'"),
    ],
)
def test_hydra_lists_the_options(
    composed: Callable[..., Config], capsys: pytest.CaptureFixture[str], overrides: list[str], expected: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        composed(*overrides)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_a_configuration_survives_its_file(composed: Callable[..., Config], home: Home) -> None:
    config = composed("study=demo", "lora.target_modules=[q_proj,v_proj]")
    paths = home.study("demo")
    paths.root.mkdir(parents=True)
    check.save(config, paths)
    assert check.load(paths) == config
    assert check.differences(check.load(paths), config) == []


def test_a_study_does_not_depend_on_where_it_is_launched_from(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows").mkdir()
    monkeypatch.chdir(tmp_path)
    config = check.with_absolute_paths(composed("study=demo", "data=files", "data.path=rows"))
    assert config.data.path == str(tmp_path / "rows")
    assert config.model.path == "bundled:tiny"  # no folder: as it was


def test_differences_name_the_key_and_both_values(composed: Callable[..., Config]) -> None:
    before = composed("study=demo")
    now = composed("study=demo", "train.batch_size=8", "search.space.rank=[4]", "search.trials=99", "engine.slots=1")
    assert check.differences(before, now) == [
        "train.batch_size: was 16, is 8",
        "search.space.rank: was [4, 8, 16, 32, 64], is [4]",
    ]
    # What a resumed study would not do again, or would do otherwise, makes another study too.
    now = composed("study=demo", "search.enqueue=[{rank:4}]", "search.warm_start=x", "search.deterministic=true")
    assert [line.partition(":")[0] for line in check.differences(before, now)] == [
        "search.enqueue",
        "search.warm_start",
        "search.deterministic",
    ]
    before = composed("study=demo", "search.deterministic=true")
    now = composed("study=demo", "search.deterministic=true", "engine.slots=1", "search.duplicates=train")
    [line] = check.differences(before, now)
    assert "engine.slots: was 4, is 1; search.deterministic=true fixes" in line


# Where each section is read, beside `config.SECTION.KEY`: files that get the section itself.
READERS = {
    "data": ["data/rows.py"],
    "prompt": ["data/prompt.py"],
    "model": ["models/base.py"],
    "lora": [],
    "train": [],
    "sampler": ["search/samplers.py"],
    "pruner": ["search/pruners.py"],
}
OWN_NAMES = {
    "data": r"section(\.splits|\.columns)?",
    "prompt": r"(self\.)?section",
    "model": "section",
    "sampler": "section",
    "pruner": "section",
}


@pytest.mark.parametrize("key", sorted(key for key in check.known_keys() if key not in Config.model_fields))
def test_every_key_is_read(key: str) -> None:
    """A key that nothing reads is a defect."""
    section, _, name = key.partition(".")
    if section in ("lora", "train") and name in TrialParams.model_fields:
        return  # read as a trial's hyperparameter
    if key in ("sampler.name", "pruner.name"):
        return  # it says which section this is
    if key in ("data.splits", "data.columns", "model.name"):
        assert any(other.startswith(f"{key}.") for other in check.known_keys()) or key == "model.name"
        return
    package = ROOT / "sweeper"
    everywhere = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    path = name.replace(".", r"\.")
    patterns = [(rf"(config|self|_config|now|before)\.{section}\.{path}\b", everywhere)]
    if section == "lora":
        patterns.append((rf'"{name}"', (package / "config" / "schema.py").read_text(encoding="utf-8")))
    for file in READERS.get(section, []):
        last = name.rpartition(".")[2]
        patterns.append((rf"{OWN_NAMES[section]}\.{last}\b", (package / file).read_text(encoding="utf-8")))
    if key.startswith("data.splits."):
        patterns.append((r"getattr\(section\.splits, split\)", (package / "data/rows.py").read_text(encoding="utf-8")))
    assert any(re.search(pattern, text) for pattern, text in patterns), f"nothing reads {key}"
