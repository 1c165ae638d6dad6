"""The launch that a configuration is composed by: its own arguments may be forgotten, and these give the same."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sweeper.config import check, groups
from sweeper.config.edits import edits
from sweeper.config.reproduce import launch_of, spoken, without_places
from sweeper.config.schema import Config

LAUNCHES = [
    ["study=demo"],
    ["study=tickets", "study.name=wide", "search.trials=40", "search.space.rank=[8,16,32,64,128]"],
    ["study=demo", "sampler=random", "pruner=none", "gpu=rtx-4090", "stop=no-improvement", "stop.trials=5"],
    ["study=demo", "sampler=gp", "pruner=hyperband", "evaluation.count=8", "confirm=false", "retention.choices=null"],
    [
        "study=demo",
        "~search.space.alpha_ratio",
        "search.space.learning_rate={low:1e-4,high:1e-2}",
        "+search.space.schedule=[linear,cosine]",
        "+search.space.warmup_ratio={low:0.0,high:0.2,when:{schedule:[linear,cosine]}}",
        "search.enqueue=[{rank:16,learning_rate:2e-3,schedule:cosine}]",
    ],
    ["study=docqa", "+lora.module_sets.qv=[q_proj,v_proj]", "+search.space.target_modules=[qv,all-linear]"],
    ["study=demo", "data=hub", "data.path=org/set", "+prompt.chat_template_kwargs.enable_thinking=true"],
    [
        "study=demo",
        r"on_finish='runpodctl stop pod \$RUNPOD_POD_ID \"now\"'",
        "study.description='<b>`a|b`</b>: \\'x\\''",
    ],
    ["study=code-comments", "budget.usd=1e-05", "memory.budget_gib=4", "train.replay=0.1"],
]


@pytest.mark.parametrize("arguments", LAUNCHES, ids=[" ".join(one) for one in LAUNCHES])
def test_the_same_configuration_is_composed_again(composed: Callable[..., Config], arguments: list[str]) -> None:
    config = check.with_absolute_paths(composed(*arguments))
    found = launch_of(config)
    assert found.missed == ()
    # As a shell hands it on, and by the very way that a launch goes.
    again = composed(*shlex.split(shlex.join(found.arguments)))
    assert edits(config, check.with_absolute_paths(again)) == []


def test_it_says_no_more_than_it_must(composed: Callable[..., Config]) -> None:
    assert launch_of(composed("study=demo")).arguments == ("study=demo",)
    config = composed("study=tickets", "gpu=cpu", "study.name=other", "search.trials=5", "store.home=/elsewhere")
    assert launch_of(config).arguments == ("study=tickets", "gpu=cpu", "study.name=other", "search.trials=5")


def test_a_folder_of_ones_own(composed: Callable[..., Config], tmp_path: Path) -> None:
    folder = tmp_path / "my own"
    folder.mkdir()
    file = folder / "config.yaml"
    file.write_text("study: {name: mine}\nsearch: {space: {rank: [4, 8]}}\nprompt: {template: 'a {{ text }}'}\n")
    config = check.with_absolute_paths(composed(f"study={folder}", "search.trials=5"))
    assert launch_of(config).arguments == (f"study={folder}", "search.trials=5")
    file.write_text("study: {name: mine}\nsearch: {space: {alpha: [4.0, 8.0]}}\n")  # it goes on being changed
    found = launch_of(config)
    assert found.missed == ()
    assert edits(config, composed(*found.arguments)) == []
    file.unlink()
    found = launch_of(config)  # and where it is gone, its settings are still said
    assert not found.missed
    assert edits(config, composed(*found.arguments)) == []
    folder.rmdir()
    assert launch_of(config).missed == ()


def test_a_study_that_lies_beside_and_says_more_is_not_taken_for_it(
    composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("study=demo", "study.name=first", "search.trials=4", "train.examples=300")
    plain = config.model_dump(mode="json")
    beside = tmp_path / "requests"
    beside.mkdir()
    study = {"name": "requests", "description": "Whose requests go to whom?"}
    said = {name: plain[name] for name in ("search", "train", "evaluation", "objective", "memory", "engine")}
    (beside / "config.yaml").write_text(yaml.safe_dump({"study": study, **said}))
    shipped = groups.bundled_studies()
    monkeypatch.setattr(groups, "bundled_studies", lambda: {"requests": beside, **shipped})
    assert launch_of(config).arguments == ("study=demo", "study.name=first", "train.examples=300", "search.trials=4")


TEXTS = st.text(st.sampled_from("ab ${}[]'\"\\,:=\n\t(){{}}%|~é#"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
@example("a\\")
@example('\\"')
@example("\\${x}")
@example("${oc.env:HOME}")
@example("null")
@example("1e5")
@example("")
def test_every_text_can_be_said(text: str) -> None:
    """As Hydra's parser and OmegaConf read it."""
    for value in (text, [text, 1], {"rank": text, "is": True}):
        [override] = OverridesParser.create().parse_overrides([f"key={spoken(value)}"])
        assert OmegaConf.to_container(OmegaConf.create({"key": override.value()}), resolve=True) == {"key": value}


ODD = '/z/"o"/f'


def test_paths_are_told_by_their_last_two_parts(composed_once: Callable[..., Config]) -> None:
    config = composed_once(
        "study=demo", "data.path=/a/b/rows", "model.path=/a/b/rows/base", f"train.replay_text={spoken(ODD)}"
    )
    config = config.model_copy(
        update={"search": config.search.model_copy(update={"warm_start": "sqlite:////x/y/old/optuna.db#other"})}
    )
    said = f"data.path=/a/b/rows model.path=/a/b/rows/base train.replay_text={spoken(ODD)}"
    short = r'data.path=…/b/rows model.path=…/rows/base train.replay_text="…/\"o\"/f"'
    assert without_places(said, config) == short
    assert without_places("sqlite:////x/y/old/optuna.db#other", config) == "sqlite:///…/old/optuna.db#other"
    assert without_places("study=demo task=summary", config) == "study=demo task=summary"
