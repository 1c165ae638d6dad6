"""Which keys are frozen and which are live, and what an edit of each is taken for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import create_model

from sweeper.config import check
from sweeper.config.edits import edits, marks
from sweeper.config.keys import known_keys
from sweeper.config.marks import Frozen, Live
from sweeper.config.schema import Config
from sweeper.errors import ConfigError

# What is promised, written out: a mark that is changed by mistake changes this.
FROZEN_SECTIONS = {
    *("model", "data", "task", "prompt", "lora", "train", "evaluation", "objective", "sampler", "pruner"),
    *("retention", "confirmation"),
}
LIVE_SECTIONS = {"store", "tracking", "preflight", "gpu", "budget", "stop", "engine", "checkpoint", "cluster", "mirror"}
FROZEN_KEYS = {
    "study.name",
    *("search.space", "search.seed", "search.enqueue", "search.deterministic"),
    *("search.warm_start", "search.warm_start_trials"),
    "optimizer.state",
    *("memory.backend", "memory.budget_gib", "memory.reserve_gib"),
}
LIVE_KEYS = {
    *("study.description", "study.folder", "confirm", "on_finish"),
    *("search.trials", "search.duplicates", "search.max_rejections", "search.lease_s"),
    *("memory.margin", "memory.watch_s", "memory.wait_s", "memory.rehearse"),
}

# Another value of each key, and what must be launched for the key to be there. A new key is missing here.
OTHER: dict[str, Any] = {
    "study.name": "other",
    "study.description": "another one",
    "study.folder": "/elsewhere",
    "store.home": "elsewhere",
    "store.optuna": "postgresql://ann@db/studies",
    "store.patience_s": 5.0,
    "store.keep_adapters": 7,
    "store.mirror": "s3://bucket/demo",
    "mirror.every_s": 9.0,
    "tracking.uri": "http://127.0.0.1:5000",
    "tracking.experiment": "shared",
    "model.name": "other",
    "model.path": "other/model",
    "model.revision": "main",
    "model.gguf_package": "llm_other",
    "model.quant": "none",
    "model.dtype": "bfloat16",
    "model.trust_remote_code": True,
    "model.config": {"model_type": "llama"},
    "data.source": "files",
    "data.path": "/other",
    "data.splits.train": "training",
    "data.splits.validation": "dev",
    "data.splits.test": "held-out",
    "data.columns.text": "body",
    "data.columns.label": "team",
    "data.columns.prompt": "other",
    "data.columns.answer": "other",
    "data.columns.question": "other",
    "data.columns.context": "other",
    "data.columns.answers": "other",
    "data.columns.code": "other",
    "data.columns.comment": "other",
    "data.columns.messages": "other",
    "data.group": "customer",
    "data.seed": 3,
    "data.long": "drop",
    "data.class_weight": "balanced",
    "data.loss": "last",
    "data.allow": ["leak-test"],
    "task.name": "generation",
    "task.max_new_tokens": 9,
    "task._target_": "tests.custom.samples.Other",
    "task.arguments": {"word": "other"},
    "prompt.system": "Be brief.",
    "prompt.template": "{{ text }}!",
    "prompt.chat_template": "{{ messages }}",
    "prompt.chat_template_kwargs": {"enable_thinking": True},
    "prompt.max_tokens": 99,
    "lora.rank": 3,
    "lora.alpha": 5.0,
    "lora.alpha_ratio": 4.0,
    "lora.rslora": True,
    "lora.target_modules": "mlp",
    "lora.module_sets": {"qv": ["q_proj", "v_proj"]},
    "lora.dropout": 0.1,
    "lora.lora_plus_ratio": 2.0,
    "train.examples": 400,
    "train.epochs": 2.0,
    "train.batch_size": 5,
    "train.learning_rate": 0.01,
    "train.weight_decay": 0.1,
    "train.beta1": 0.5,
    "train.beta2": 0.5,
    "train.max_grad_norm": 2.0,
    "train.schedule": "linear",
    "train.warmup_ratio": 0.5,
    "train.replay": 0.25,
    "train.replay_text": "other.jsonl",
    "train.seed": 3,
    "evaluation.count": 3,
    "evaluation.rows": 100,
    "retention.choices": "other.jsonl",
    "retention.passages": None,
    "retention.lm_eval": ["arc_easy"],
    "retention.max_drop": 0.2,
    "retention.max_rise": 0.5,
    "retention.sample": 8,
    "retention.max_tokens": 99,
    "retention.stop_wrecked": False,
    "objective.metric": "macro_f1",
    "objective.direction": "minimize",
    "objective.value": "last",
    "search.trials": 99,
    "search.seed": 3,
    "search.space": {"rank": [4]},
    "search.enqueue": [{"rank": 4}],
    "search.warm_start": "demo2",
    "search.warm_start_trials": 1,
    "search.duplicates": "train",
    "search.deterministic": True,
    "search.max_rejections": 3,
    "search.lease_s": 9.0,
    "confirmation.top": 1,
    "confirmation.seeds": 5,
    "confirmation.share": 0.2,
    "sampler.name": "random",
    "sampler.startup_trials": 3,
    "sampler.points": 3,
    "sampler.population_size": 6,
    "pruner.name": "none",
    "pruner.startup_trials": 3,
    "pruner.warmup_evaluations": 2,
    "pruner.percentile": 30.0,
    "pruner.patience": 0,
    "pruner.min_delta": 0.5,
    "pruner.min_evaluations": 2,
    "pruner.reduction_factor": 3,
    "preflight.learning_curve": True,
    "gpu.name": "mine",
    "gpu.card": "NVIDIA A10G",
    "gpu.memory_gib": 9.0,
    "preflight.answer_s": 9.0,
    "confirm": False,
    "on_finish": "true",
    "gpu.bf16_tflops": 70.0,
    "gpu.billing": "free",
    "gpu.price_usd_per_hour": 0.5,
    "gpu.spot_usd_per_hour": 0.25,
    "gpu.price_per": "machine",
    "gpu.price_source": "Somebody",
    "gpu.price_date": "2026-11-25",
    "gpu.boot_s": 60.0,
    "gpu.disk_usd_per_hour": 0.01,
    "gpu.purchase_usd": 1600.0,
    "gpu.life_hours": 10000.0,
    "gpu.tariff_usd_per_kwh": 0.3,
    "gpu.watts": 300.0,
    "budget.usd": 1.0,
    "budget.hours": 2.0,
    "budget.trials": 3,
    "cluster.name": "local",
    "cluster.workers": 2,
    "cluster.grace_s": 9.0,
    "cluster.restarts": 1,
    "cluster.address": "auto",
    "cluster.accelerator": "H100",
    "cluster.cpus": 3.0,
    "cluster.resources": {"fast_disk": 1.0},
    "cluster.node_home": "/elsewhere",
    "cluster.executor": "local",
    "cluster.partition": "gpu",
    "cluster.account": "lab",
    "cluster.gpus_per_node": 2,
    "cluster.cpus_per_task": 3,
    "cluster.mem_gib": 9.0,
    "cluster.time_min": 9,
    "cluster.signal_s": 9,
    "cluster.extra": {"qos": "low"},
    "stop.name": "never",
    "stop.trials": 5,
    "stop.usd": 0.5,
    "engine.slots": 1,
    "engine.chunk_tokens": 99,
    "engine.gradient_checkpointing": True,
    "engine.threads": 1,
    "engine.device": "cpu",
    "optimizer.state": "8bit",
    "memory.backend": "tensors",
    "memory.budget_gib": 9.0,
    "memory.reserve_gib": 0.25,
    "memory.margin": 0.5,
    "memory.watch_s": 5.0,
    "memory.wait_s": 5.0,
    "memory.rehearse": True,
    "checkpoint.every_s": 5.0,
    "checkpoint.max_gib": 5.0,
    "tracking.log_text": True,
    "tracking.report": False,
    "tracking.system_metrics": False,
    "tracking.patience_s": 9.0,
}
# What is another value too, so that the whole is a study.
WITH_IT = {"data.source": {"data.path"}, "task.name": {"task.max_new_tokens", "data.columns", "objective.metric"}}


def of_kind(*columns: str) -> list[str]:
    """A study of rows with these columns, whose answers are written."""
    return ["task=generation", *(f"data.columns.{column}={column}" for column in columns)]


PROMPT, QUESTION, CODE = (
    of_kind("prompt", "answer"),
    of_kind("question", "context", "answers"),
    of_kind("code", "comment"),
)
BEGUN_WITH = {
    "search.deterministic": ["engine.slots=4"],
    "stop.name": ["stop=no-improvement"],
    **{f"data.columns.{column}": PROMPT for column in ("prompt", "answer")},
    **{f"data.columns.{column}": QUESTION for column in ("question", "context", "answers")},
    **{f"data.columns.{column}": CODE for column in ("code", "comment")},
    "data.columns.messages": of_kind("messages"),
    "task.max_new_tokens": PROMPT,
    **{key: ["task=custom", "task._target_=tests.custom.samples.Echo"] for key in ("task._target_", "task.arguments")},
    "objective.direction": ["objective.metric={_target_: tests.custom.samples.cost, name: cost}"],
    "tracking.experiment": ["tracking.uri=http://127.0.0.1:5000"],
    "sampler.points": ["sampler=grid"],
    "sampler.population_size": ["sampler=nsgaii"],
    "pruner.percentile": ["pruner=percentile"],
    "pruner.patience": ["pruner=patient"],
    "pruner.min_delta": ["pruner=patient"],
    "pruner.min_evaluations": ["pruner=hyperband"],
    "pruner.reduction_factor": ["pruner=hyperband"],
    **{
        f"cluster.{key}": ["cluster=ray"]
        for key in ("name", "address", "accelerator", "cpus", "resources", "node_home")
    },
    **{f"cluster.{key}": ["cluster=slurm"] for key in ("executor", "partition", "account", "gpus_per_node")},
    **{f"cluster.{key}": ["cluster=slurm"] for key in ("cpus_per_task", "mem_gib", "time_min", "signal_s", "extra")},
    "stop.trials": ["stop=no-improvement"],
    "stop.usd": ["stop=no-improvement", "gpu=rtx-4090"],  # dollars need a price
    "budget.usd": ["gpu=rtx-4090"],
}


def edited(config: Config, key: str, value: Any) -> Config:
    """A configuration with another value, checked as a launch checks it."""
    values = config.model_dump(mode="json")
    if key == "cluster.name":
        values["cluster"] = {name: values["cluster"][name] for name in ("workers", "grace_s", "restarts")}
    if key in ("sampler.name", "pruner.name", "stop.name"):  # the options that are named have no other key
        values[key.partition(".")[0]] = {}
    section: Any = values
    *path, name = key.split(".")
    for part in path:
        section = section[part]
    assert key.endswith(".name") or section[name] != value
    section[name] = value
    if key == "task.name":
        values["task"]["max_new_tokens"] = 8
        values["data"]["columns"] |= {"text": None, "label": None, "prompt": "prompt", "answer": "answer"}
        values["objective"]["metric"] = "token_f1"
    if key == "data.source":
        values["data"]["path"] = "/other"
    return check.check(values)


def is_within(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")


def test_every_key_is_marked_as_promised() -> None:
    found = marks()
    expected = {key: key in FROZEN_KEYS or key.partition(".")[0] in FROZEN_SECTIONS for key in found}
    assert {key: mark.is_frozen for key, mark in found.items()} == expected
    named = {key for key in found if key.partition(".")[0] not in FROZEN_SECTIONS | LIVE_SECTIONS}
    assert named == FROZEN_KEYS | LIVE_KEYS
    assert {key.partition(".")[0] for key in found} == set(Config.model_fields)
    # Nothing of the schema is passed over: what is no value is a section of values.
    assert set(found) == {key for key in known_keys() if not any(other.startswith(f"{key}.") for other in known_keys())}


def test_a_key_without_a_mark_is_a_defect() -> None:
    inner = create_model("Inner", a=(Frozen[int], ...), b=(int, ...))
    with pytest.raises(TypeError, match=r"every key must be marked Frozen or Live, but outer\.b is not"):
        marks(create_model("Outer", outer=(inner, ...)))
    one, two = (create_model("One", name=(mark[str], ...)) for mark in (Frozen, Live))
    with pytest.raises(TypeError, match=r"a key must have one mark, but either\.name has two"):
        marks(create_model("Outer", either=(one | two, ...)))


def test_another_value_of_every_key_is_tried() -> None:
    assert set(OTHER) == set(marks())


@pytest.mark.parametrize("key", OTHER)
def test_an_edit_is_named_with_both_values(composed_once: Callable[..., Config], key: str) -> None:
    before = composed_once("study=demo", *BEGUN_WITH.get(key, []))
    now = edited(before, key, OTHER[key])
    found = edits(before, now)
    allowed = {key} | WITH_IT.get(key, set())
    assert found
    assert all(any(is_within(edit.key, name) for name in allowed) for edit in found)
    is_frozen = key in FROZEN_KEYS or key.partition(".")[0] in FROZEN_SECTIONS
    assert [edit.is_frozen for edit in found] == [is_frozen] * len(found)
    if not isinstance(OTHER[key], dict | list):
        [edit] = [edit for edit in found if edit.key == key]
        assert edit.now == OTHER[key]
        assert str(edit) == f"{key}: was {edit.was!r}, is {OTHER[key]!r}"
    assert edits(now, now) == edits(before, before) == []


def test_an_edit_says_where_in_the_space_it_is(composed: Callable[..., Config]) -> None:
    before = composed("study=demo")
    now = composed("study=demo", "search.space.rank=[4]", "search.space.learning_rate.high=0.02",
                   "~search.space.alpha_ratio", "+search.space.dropout=[0.0,0.1]", "search.trials=99")  # fmt: skip
    assert [str(edit) for edit in edits(before, now)] == [
        "search.trials: was 16, is 99",
        "search.space.rank: was [4, 8, 16, 32, 64], is [4]",
        "search.space.alpha_ratio: was [1.0, 2.0], is None",
        "search.space.learning_rate.high: was 0.03, is 0.02",
        "search.space.dropout: was None, is [0.0, 0.1]",
    ]


@pytest.mark.parametrize(
    ("was", "now", "is_frozen"),
    [
        ("device", "host", False),
        ("host", "device", False),
        ("device", "8bit", True),
        ("8bit", "host", True),
    ],
)
def test_where_moments_wait_may_change_but_not_how_many_bits_they_have(
    composed: Callable[..., Config], was: str, now: str, is_frozen: bool
) -> None:
    configs = [composed("study=demo", f"optimizer.state={state}") for state in (was, now)]
    [edit] = edits(*configs)
    assert (str(edit), edit.is_frozen) == (f"optimizer.state: was {was!r}, is {now!r}", is_frozen)


def test_a_deterministic_study_keeps_its_slots(composed: Callable[..., Config]) -> None:
    fixed, four = "search.deterministic=true", "engine.slots=4"
    [edit] = edits(composed("study=demo", fixed, four), composed("study=demo", fixed, "engine.slots=1"))
    assert edit.is_frozen
    assert str(edit).startswith("engine.slots: was 4, is 1; search.deterministic=true fixes")
    [edit] = edits(composed("study=demo"), composed("study=demo", "engine.slots=1"))
    assert (edit.is_frozen, str(edit)) == (False, "engine.slots: was 'auto', is 1")


def test_what_pays_is_not_fixed(composed: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"engine.slots: must be a number where search.deterministic is true"):
        composed("study=demo", "search.deterministic=true")


def test_another_card_is_live_and_another_sampler_frozen(composed: Callable[..., Config]) -> None:
    found = edits(composed("study=demo", "gpu=a10g"), composed("study=demo", "gpu=rtx-4090"))
    changed = ["name", "card", "memory_gib", "bf16_tflops", "price_usd_per_hour", "price_source"]
    assert [edit.key for edit in found] == [f"gpu.{key}" for key in changed]
    assert not any(edit.is_frozen for edit in found)
    found = edits(composed("study=demo"), composed("study=demo", "sampler=gp"))
    assert (found[0].key, found[0].is_frozen) == ("sampler.name", True)
