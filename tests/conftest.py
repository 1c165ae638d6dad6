"""Shared by all tests: an environment without network or telemetry, small models, small configurations."""

from __future__ import annotations

import os

os.environ.update(
    # A thread for each process: those that wait for each other on two cores cost minutes.
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    TOKENIZERS_PARALLELISM="false",
)

os.environ.update(  # tests go to no server but their own
    MLFLOW_TRACKING_URI="", MLFLOW_TRACKING_USERNAME="", MLFLOW_TRACKING_PASSWORD="", MLFLOW_TRACKING_TOKEN=""
)

import json
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.data import tickets
from sweeper.data.example import Example
from sweeper.paths import Home, write_atomically
from sweeper.trial import TrialParams

# What a shell begins in the background ignores Ctrl-C, and so would all that the tests begin.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the models here are too small for more, and threads that wait for each other cost minutes

# A whole study in seconds; it learns next to nothing.
SHORT = [
    "study=demo",
    "data=files",
    "train.examples=32",
    "train.batch_size=8",
    "evaluation.count=2",
    "evaluation.rows=24",
    "search.trials=3",
    "engine.slots=2",
    "retention.choices=null",  # it has tests of its own
    "retention.passages=null",
    "confirmation.top=0",
    "tracking.report=false",
]


@pytest.fixture(scope="session")
def formulas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this session, in all its processes, keep the memory formulas that took them seconds to fit.

    A formula's name is a hash of all that it depends on, the code included.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "formulas").mkdir(exist_ok=True)
    return folder / "formulas"


def share_formulas(source: Path, to: Path) -> None:
    """Copies the formulas that `to` lacks, each whole."""
    for file in source.glob("formula-*.json"):
        if not (to / file.name).exists():
            to.mkdir(exist_ok=True)
            write_atomically(to / file.name, file.read_text(encoding="utf-8"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty store, which SWEEPER_HOME names."""
    folder = tmp_path / "store"
    monkeypatch.setenv("SWEEPER_HOME", str(folder))
    made = Home(folder)
    made.create()
    return made


@pytest.fixture
def known_formulas(home: Home, formulas: Path) -> Iterator[None]:
    """The store knows what other tests have fitted, and they know what this one does."""
    share_formulas(formulas, home.memory)
    yield
    share_formulas(home.memory, formulas)


@pytest.fixture
def composed() -> Callable[..., Config]:
    """Composes a configuration from overrides, as `sweeper launch` does."""

    def compose_config(*overrides: str) -> Config:
        configs: list[Config] = []
        compose.main(list(overrides), configs.append)
        return configs[0]

    return compose_config


@cache
def _composed_once(*overrides: str) -> Config:
    configs: list[Config] = []
    compose.main(list(overrides), configs.append)
    return configs[0]


@pytest.fixture
def composed_once(home: Home) -> Callable[..., Config]:
    """As `composed`, but composes the same overrides once for all tests; for those that need many."""

    def compose_config(*overrides: str) -> Config:
        config = _composed_once(*overrides)
        return config.model_copy(update={"store": config.store.model_copy(update={"home": str(home.root)})})

    return compose_config


@pytest.fixture(scope="session")
def few_tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small part of the bundled tickets, for studies that take seconds."""
    folder = tmp_path_factory.mktemp("tickets")
    for split, rows in tickets.splits().items():
        lines = [json.dumps(row) for row in rows[: 96 if split == "train" else 36]]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with an experiment `unused` and no run; making one takes seconds."""
    from sweeper.tracking.mlflow_tracker import MlflowTracker

    home = Home(tmp_path_factory.mktemp("migrated"))
    MlflowTracker(home, "unused")
    return home.mlflow_file


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A store with the study `many`, of twelve trials that end in every way; nothing was trained. Only to look at."""
    return made_up_study(tmp_path_factory.mktemp("made_up"), 12)


def made_up_study(folder: Path, trials: int) -> Home:
    """A store with the study `many`, as `tests/benchmarks/many_trials.py` makes it."""
    from tests.benchmarks import many_trials

    home = Home(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_HOME", str(folder))
        many_trials.build(home, trials)
    return home


@pytest.fixture
def ticket_files(tmp_path: Path) -> Path:
    """A folder with the three splits of a tiny task, valid as it is; tests break it."""
    folder = tmp_path / "data"
    folder.mkdir()
    row = '{{"text": "please {verb} the {number}th order", "label": "{verb}"}}\n'
    for split in ("train", "validation", "test"):
        lines = [row.format(verb=verb, number=number) for number in range(4) for verb in ("cancel", "return")]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and the GPU where there is one; `-m gpu` runs those on the GPU alone."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


def small_model(dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A Llama of some thousand random weights, frozen."""
    torch.manual_seed(seed)
    values = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**values, **changes})).to(dtype)
    return model.requires_grad_(False)


def random_examples(count: int, seed: int = 0, longest: int = 20) -> list[Example]:
    """Token sequences of different lengths, with answers of one to four tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return tuple(torch.randint(2, 96, (length,), generator=generator).tolist())

    return [Example(prompt=tokens(3, longest), answer=tokens(1, 4)) for _ in range(count)]


def trial_params(**changes: Any) -> TrialParams:
    """A trial's hyperparameters."""
    values: dict[str, Any] = {
        "rank": 8,
        "alpha": 16.0,
        "rslora": False,
        "target_modules": "all-linear",
        "dropout": 0.0,
        "epochs": 1.0,
        "learning_rate": 1e-2,
        "lora_plus_ratio": 1.0,
        "weight_decay": 0.0,
        "beta1": 0.9,
        "beta2": 0.999,
        "max_grad_norm": 1.0,
        "batch_size": 4,
        "schedule": "cosine",
        "warmup_ratio": 0.1,
        "replay": 0.0,
    }
    return TrialParams.model_validate({**values, **changes})
