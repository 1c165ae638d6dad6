from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.config import check, groups
from sweeper.config.edits import edits
from sweeper.config.keys import known_keys
from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.paths import Home
from sweeper.trial import TrialParams

ROOT = Path(__file__).parents[2]
GROUP_FILES = sorted(path for path in (ROOT / "conf").glob("*/*.yaml"))
STUDIES = sorted(path.parent.name for path in (ROOT / "studies").glob("*/config.yaml"))


def test_the_counts_are_known() -> None:
    """A file that is added without being composed by the tests below changes these."""
    counts = Counter(path.parent.name for path in GROUP_FILES)
    assert counts == {"cluster": 3, "data": 5, "gpu": 19, "model": 11, "pruner": 6, "sampler": 7, "stop": 2, "task": 4}
    assert len(list((ROOT / "conf").rglob("*.yaml"))) == 1 + counts.total()
    assert STUDIES == [
        "banking77",
        "code-comments",
        "demo",
        "docqa",
        "llama-3.1-8b-tickets-24gb",
        "qa-techdoc",
        "rank-story",
        "tickets",
    ]
    assert sorted(groups.bundled_studies()) == STUDIES


@pytest.mark.parametrize("file", GROUP_FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_composes(composed: Callable[..., Config], file: Path) -> None:
    needed = {
        "model=hub": ["model.path=x"],
        "data=files": ["data.path=x"],
        "data=hub": ["data.path=x"],
        "data=docqa": ["task=generation"],
        "data=code-comments": ["task=comments"],
        "task=generation": ["data.columns.prompt=text", "data.columns.answer=label"],
        "task=comments": ["data.columns.prompt=text", "data.columns.answer=label"],
        "task=custom": ["task._target_=own.Task"],
        "sampler=cmaes": ["+search.space.dropout={low:0.0,high:0.2}"],
    }
    option = f"{file.parent.name}={file.stem}"
    config = composed("study=demo", option, *needed.get(option, []))
    section = getattr(config, file.parent.name)
    assert file.stem in (getattr(section, "name", None), getattr(section, "source", None))


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_composes_under_its_own_name(composed: Callable[..., Config], study: str) -> None:
    config = composed(f"study={study}", *(["data.path=x"] if study in ("banking77", "qa-techdoc") else []))
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
        "dtype: auto, trust_remote_code: false, config: null}\n"
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


WRITTEN = ["task=generation", "data.columns.prompt=text", "data.columns.answer=label"]


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
        (["objective.metric=f1"], "objective.metric: must be accuracy or macro_f1 .*but got 'f1'"),
        (
            ["objective.metric=token_f1"],
            "objective.metric: must be accuracy or macro_f1 where task.name is classification",
        ),
        (
            [*WRITTEN, "objective.metric=accuracy"],
            "objective.metric: must be exact_match or token_f1 where task.name is generation, .*but got 'accuracy'",
        ),
        (
            ["task=comments", *WRITTEN[1:], "objective.metric=token_f1"],
            "objective.metric: must be bleu or chrf or rouge_l where task.name is comments",
        ),
        (["data=docqa"], "data.columns: must name text and label where .* but names question and context and answers"),
        (
            ["task=generation"],
            "data.columns: must name prompt and answer, or question and context and answers, or code",
        ),
        (["task=generation", "data.columns.prompt=text"], "data.columns: .* where .* is generation, but names prompt;"),
        ([*WRITTEN, "data.columns.code=text"], "but names prompt and answer and code; set the others to null"),
        (["data.columns.prompt=text"], "data.columns: must name text and label where task.name is classification"),
        (["data.columns.label=[a,b]"], "data.columns.label: .*must be one column: a study learns one label"),
        (["data.columns.txt=a"], "unknown key `data.columns.txt`; did you mean `data.columns.text`"),
        (
            ["data.splits.test=1.5"],
            "data.splits.test: .*a share of the training rows between 0 and 1, or null, but got 1.5",
        ),
        (
            ["data.splits.test=0.5", "data.splits.validation=0.5"],
            "data.splits: .*must leave rows to train on, but are 1",
        ),
        (["data.splits.train=0.5"], "data.splits.train: .*valid string"),
        (["data.seed=-1"], "data.seed: .*greater than or equal to 0"),
        (["data.long=cut"], "data.long: .*'block', 'cut_text_head', 'cut_text_tail' or 'drop', but got 'cut'"),
        (
            ["task=generation", "data.columns.messages=m", "data.long=cut_text_tail"],
            "data.long: must be block or drop where data.columns has messages, none of which is cut",
        ),
        (["data.class_weight=inverse"], "data.class_weight: .*'balanced', but got 'inverse'"),
        ([*WRITTEN, "data.class_weight=balanced"], "data.class_weight: must be null where task.name is generation"),
        (["data.loss=first"], "data.loss: .*'all' or 'last', but got 'first'"),
        ([*WRITTEN, "task.max_new_tokens=0"], "task.max_new_tokens: .*greater than or equal to 1, but got 0"),
        ([*WRITTEN, "task.max_new_tokens=512"], "task.max_new_tokens: must leave room for a prompt"),
        (["+task.max_new_tokens=8"], "task.max_new_tokens: unknown key `max_new_tokens`. Known: name$"),
        (["+sampler.startup=8"], "sampler.startup: unknown key `startup`.* Known: .*startup_trials"),
        (["+data.columns.txt=8"], "data.columns.txt: unknown key `txt`; did you mean `text`"),
        (["task.name=chat"], "task: .*'classification', 'generation'"),
        (
            ["task=generation", "data.columns.messages=m", "prompt.template='Say: {{ text }}'"],
            "prompt.template: must be '{{ text }}' where data.columns has messages, .* but is 'Say: {{ text }}'",
        ),
        (["prompt.chat_template_kwargs=x"], "prompt.chat_template_kwargs: .*valid dictionary"),
        (["train.learning_rte=1"], "unknown key `train.learning_rte`; did you mean `train.learning_rate`"),
        (["+model.pth=1"], "model.pth: unknown key `pth`; did you mean `path`"),
        (["serch.trials=1"], "unknown key `serch.trials`"),
        (["data=files"], "data.path: must be set where data.source is files"),
        (["model=hub"], "model.path: must be a Hub id or a folder"),
        (["train.examples=2"], "evaluation.count: at most train.examples=2"),
        (["study.name=../x"], "study.name: .*pattern"),
        (["-m"], "-m: sweeper searches by itself"),
        (["search.space={}"], r"search.space: Hydra would merge.*~search.space.NAME to drop one"),
        (["search.space.rank.low=4"], r"rank.low: is \[4, 8, 16, 32, 64\] so far, .*replace it by ~search.space.rank"),
        (["search.space.rank={low:4,high:8}"], r"search.space.rank: is .*a range cannot be merged with a list"),
        (["search.space.learning_rate=[1e-3]"], r"search.space.learning_rate: is .*'low': 0.0003.*merged with a list"),
        (["search.space.rnak=[8]"], "unknown parameter `rnak`; did you mean `rank`"),
        (["study.name=???"], "study.name: is required"),
        (["engine.slots=0"], "engine.slots: .*greater than or equal to 1"),
        (["search.seed=-1"], "search.seed: .*greater than or equal to 0"),
        (["train.seed=-1"], "train.seed: .*greater than or equal to 0"),
        (["search.space.rank=['8','16']"], "search.space.rank: .*valid integer.*'8'"),
        (["lora.alpha=inf"], "lora.alpha: .*finite number"),
        (["model.name=../../x"], "model.name: .*pattern"),
        (["model.config=[llama]"], "model.config: .*valid dictionary"),
        (["gpu.memory_gib=0"], "gpu.memory_gib: .*greater than 0, but got 0"),
        (["gpu.price_usd_per_hour=-1"], "gpu.price_usd_per_hour: .*greater than 0"),
        (["gpu.memory=24"], "unknown key `gpu.memory`; did you mean `gpu.memory_gib`"),
        (["engine.gradient_checkpointing=sometimes"], "engine.gradient_checkpointing: .*but got 'sometimes'"),
        (["optimizer.state=4bit"], "optimizer.state: .*'device', 'host' or '8bit', but got '4bit'"),
        (["memory.backend=nvml"], "memory.backend: .*'auto' or 'tensors', but got 'nvml'"),
        (["memory.budget_gib=0"], "memory.budget_gib: .*greater than 0, but got 0"),
        (["memory.reserve_gib=-1"], "memory.reserve_gib: .*greater than or equal to 0"),
        (["memory.margin=1.5"], "memory.margin: .*less than or equal to 1, but got 1.5"),
        (["memory.watch_s=0"], "memory.watch_s: .*greater than 0, but got 0"),
        (["memory.wait_s=-1"], "memory.wait_s: .*greater than or equal to 0, but got -1"),
        (["model.dtype=int8"], "model.dtype: .*'bfloat16' or 'float16', but got 'int8'"),
        (["memory.rehearse=often"], "memory.rehearse: .*but got 'often'"),
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


def test_a_secret_is_refused_and_not_shown(composed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "Ab1" * 11
    monkeypatch.setenv("SOME_PASSWORD", "correct horse")
    given = [f"model.dtype={token}", "study.description=correct horse", f"+prompt.chat_template_kwargs.key={token}",
             "data.path='postgresql://ann:pa55word@db/x'", "prompt.system='say correct horse to them'"]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        composed("study=demo", *given)
    *named, advice, dtype = caught.value.problems
    assert {problem.partition(":")[0] for problem in named} == {
        *("model.dtype", "study.description", "prompt.chat_template_kwargs.key", "data.path")
    }
    assert all("must not have a token or a password" in problem for problem in named)
    assert "HF_TOKEN or `hf auth login`" in advice
    assert dtype.startswith("model.dtype: ")
    assert not any(secret in str(caught.value) for secret in (token, "correct horse", "pa55word"))


def test_a_study_is_read_whatever_the_environment_has_become(
    composed: Callable[..., Config], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, paths = composed("study=demo", "study.description=correct horse"), home.study("demo")
    paths.create()
    check.save(config, paths)
    monkeypatch.setenv("SOME_PASSWORD", "correct horse")
    assert check.load(paths) == config


def test_all_problems_come_in_one_message(composed: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError) as caught:
        composed("study=demo", "search.space.rank=[0]", "search.trials=0", "train.seed=x", "model.quant=int8")
    assert len(caught.value.problems) == 4


def test_a_card_is_one_that_can_be_planned_for(composed: Callable[..., Config]) -> None:
    cards = [path.stem for path in GROUP_FILES if path.parent.name == "gpu"]
    sections = {name: composed("study=demo", f"gpu={name}").gpu for name in cards}
    for name in ("auto", "cpu", "free", "owned"):  # of the device that is there
        nothing = sections.pop(name)
        assert (nothing.card, nothing.memory_gib) == (None, None)
    assert all(section.card and section.memory_gib for section in sections.values())
    for name, section in sections.items():
        if sold := re.search(r"(\d+)gb$", name):  # a driver reports a little less
            assert 0.97 * int(sold[1]) <= (section.memory_gib or 0) <= int(sold[1])
    assert len({section.card for section in sections.values()}) == len(sections)


# Billions of parameters, as the models' makers publish them.
PUBLISHED = {
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-1.5b": 1.544,
    "qwen2.5-3b": 3.086,
    "qwen2.5-7b": 7.616,
    "llama-2-7b": 6.738,
    "llama-2-13b": 13.016,
    "llama-3.1-8b": 8.030,
    "mistral-7b": 7.248,
    "smollm2-135m": 0.1345,
}


def test_every_model_with_a_configuration_has_a_published_size(composed: Callable[..., Config]) -> None:
    names = [path.stem for path in GROUP_FILES if path.parent.name == "model"]
    models = [composed("study=demo", f"model={name}", "model.path=x").model for name in names]
    assert {model.name for model in models if model.config is not None} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_as_many_parameters_as_published(composed: Callable[..., Config], name: str) -> None:
    values = dict(composed("study=demo", f"model={name}").model.config or {})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(PUBLISHED[name] * 1e9, rel=0.003)


def test_a_models_configuration_is_open(composed: Callable[..., Config]) -> None:
    """Its keys are the architecture's, and not ours to know."""
    config = composed("study=demo", "model=qwen2.5-0.5b", "model.config.num_hidden_layers=2").model.config
    assert config is not None
    assert (config["num_hidden_layers"], config["hidden_size"]) == (2, 896)
    config = composed("study=demo", "model=qwen2.5-0.5b", "+model.config.rope_theta=1000").model.config
    assert config is not None
    assert config["rope_theta"] == 1000


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["study=dmo"],
            "study: unknown option `dmo`; did you mean `demo`? Known: banking77, code-comments, demo, docqa, "
            "llama-3.1-8b-tickets-24gb, qa-techdoc, rank-story, tickets",
        ),
        (
            ["study=demo", "model=nope"],
            "model: unknown option `nope`. Known: hub, llama-2-13b, llama-2-7b, llama-3.1-8b, mistral-7b, "
            "qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, qwen2.5-7b, smollm2-135m, tiny",
        ),
        (
            ["study=demo", "gpu=rtx-4080"],
            "gpu: unknown option `rtx-4080`; did you mean `rtx-4090`? Known: a100-40gb, a100-80gb, a10g, auto, b200, "
            "cpu, free, h100-80gb, h200, l4, l40s, owned, rtx-3090, rtx-4060-ti-16gb, rtx-4090, rtx-5090, rtx-a6000, "
            "t4, v100-16gb",
        ),
        (
            ["study=demo", "sampler=null"],
            "sampler: unknown option `null`. Known: cmaes, gp, grid, nsgaii, qmc, random, tpe",
        ),
        (["demo"], "demo: a setting must be KEY=VALUE, without blanks around the sign; did you mean study=demo?"),
        (["study", "=", "demo"], "study: a setting must be KEY=VALUE"),
        (["study=demo", "--yes"], "--yes: is confirm=false here"),
        (
            ["study=demo", "train.learning_rate=1e-3,1e-4"],
            "=1e-3,1e-4: must be one value; search over it with search.space.learning_rate=[1e-3,1e-4]",
        ),
        (["study=demo", "search.trials=4,8"], "search.trials=4,8: must be one value; quote commas of a text"),
    ],
)
def test_what_is_no_setting_is_said_with_its_cure(
    composed: Callable[..., Config], overrides: list[str], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    assert expected in str(caught.value)


def test_a_folder_that_lies_here_is_a_study(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("study: {name: mine}\nsearch: {space: {rank: [4, 8]}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean study=\./mine\?"):
        composed("mine")
    assert composed("study=./mine").study.name == "mine"


def test_a_group_may_have_options_of_ones_own(composed: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "mine.yaml").write_text("# @package _global_\ngpu: {name: mine, memory_gib: 12}\n")
    assert composed("study=demo", "gpu=mine", "--config-dir", str(tmp_path)).gpu.memory_gib == 12


@pytest.mark.skipif(sys.gettrace() is not None, reason="under a debugger or coverage Hydra raises what it would say")
def test_what_hydra_refuses_itself_is_an_error(
    composed: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        composed()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "You must specify 'study'" in error
    assert "Traceback" not in error


def test_a_configuration_survives_its_file(composed: Callable[..., Config], home: Home) -> None:
    config = composed("study=demo", "lora.target_modules=[q_proj,v_proj]")
    paths = home.study("demo")
    paths.root.mkdir(parents=True)
    check.save(config, paths)
    assert check.load(paths) == config
    assert edits(check.load(paths), config) == []


def test_a_study_does_not_depend_on_where_it_is_launched_from(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows").mkdir()
    monkeypatch.chdir(tmp_path)
    config = check.with_absolute_paths(composed("study=demo", "data=files", "data.path=rows"))
    assert config.data.path == str(tmp_path / "rows")
    assert config.model.path == "bundled:tiny"  # no folder: as it was


# Where each section is read, beside `config.SECTION.KEY`: files that get the section itself.
READERS = {
    "data": ["data/files.py", "data/rows.py", "data/kinds.py", "data/splits.py"],
    "task": ["preflight/volume.py", "data/prompt.py", "custom/own.py"],
    "prompt": ["data/prompt.py", "data/chat.py"],
    "model": ["models/base.py", "models/origin.py"],
    "gpu": ["preflight/card.py", "money/price.py"],
    "lora": [],
    "train": [],
    "retention": ["retention/watch.py", "retention/suite.py"],
    "sampler": ["search/samplers.py"],
    "pruner": ["search/pruners.py"],
    "cluster": ["cluster/ray_cluster.py", "cluster/slurm.py"],
}
OWN_NAMES = {
    "data": r"(section|columns)(\.splits|\.columns)?",
    "task": r"((config\.)?task|section)",
    "prompt": r"(self\.)?section",
    "model": "section",
    "gpu": "section|gpu",
    "retention": "_?section",
    "sampler": "section",
    "pruner": "section",
    "cluster": r"(self\._)?section",
}


KEYS = sorted(key for key in known_keys() if key not in Config.model_fields)


def test_the_keys_of_memory_are_among_them() -> None:
    assert {
        *("gpu.name", "gpu.card", "gpu.memory_gib", "gpu.price_usd_per_hour"),
        *("model.config", "engine.gradient_checkpointing", "optimizer.state"),
        *("memory.backend", "memory.budget_gib", "memory.reserve_gib"),
        *("memory.margin", "memory.watch_s", "memory.wait_s", "memory.rehearse"),
    } <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_read(key: str) -> None:
    """A key that nothing reads is a defect."""
    section, _, name = key.partition(".")
    if section in ("lora", "train") and name in TrialParams.model_fields:
        return  # read as a trial's hyperparameter
    if key in ("sampler.name", "pruner.name", "cluster.name"):
        return  # it says which section this is
    if key in ("data.splits", "data.columns", "model.name"):
        assert any(other.startswith(f"{key}.") for other in known_keys()) or key == "model.name"
        return
    package = ROOT / "sweeper"
    everywhere = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    path = name.replace(".", r"\.")
    patterns = [(rf"(config|self|_config|now|before)\.{section}\.{path}\b", everywhere)]
    if section == "lora":
        patterns.append((rf'"{name}"', (package / "config" / "schema.py").read_text(encoding="utf-8")))
    for file in READERS.get(section, []):
        last = name.rpartition(".")[2].strip("_")
        patterns.append((rf"({OWN_NAMES[section]})\.{last}\b", (package / file).read_text(encoding="utf-8")))
    if key.startswith("data.splits."):
        patterns.append((r"getattr\(section\.splits, split\)", (package / "data/rows.py").read_text(encoding="utf-8")))
    assert any(re.search(pattern, text) for pattern, text in patterns), f"nothing reads {key}"
