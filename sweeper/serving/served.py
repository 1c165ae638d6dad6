"""What is measured: an adapter over its 4-bit base, in a pack with one slot, and real requests as tokens.

Of a study that is a trial's adapter and the study's test rows; of an exported folder its adapter, and the rows of a
file, or of the study that it is from. The adapter is not merged: merged into a 4-bit base it would be rounded. Of a
folder that was exported merged, it is that model by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sweeper.config import check
from sweeper.config.schema import Config
from sweeper.custom import own
from sweeper.data import long, rows
from sweeper.data.files import Raw
from sweeper.engine import adapter
from sweeper.engine.pack import Pack
from sweeper.engine.slot import Slot
from sweeper.errors import ExportError, OutOfRoomError, StoreError
from sweeper.exporting import rows as export_rows
from sweeper.exporting.choosing import chosen, kept_adapter
from sweeper.exporting.formats import ADAPTER, MERGED, MERGED_4BIT
from sweeper.exporting.manifest import MANIFEST
from sweeper.exporting.predict import Predictor
from sweeper.memory.formula import Formula
from sweeper.memory.guard import Guard
from sweeper.memory.oom import Failure, attempted
from sweeper.memory.planner import Load, Planner, Profile
from sweeper.memory.readings import backend_for
from sweeper.models import base
from sweeper.paths import Home
from sweeper.preflight.dimensions import dimensions_of
from sweeper.search.running import idle
from sweeper.search.views import StudyView, TrialView, view
from sweeper.tasks.task import Task
from sweeper.trial import Rhythm
from sweeper.worker.memory import forecast_of, guarded
from sweeper.worker.workbench import set_up

Announce = Callable[[str], None]
_FORMS = {ADAPTER: "unmerged, in a pack with one slot", MERGED: "merged, 16-bit", MERGED_4BIT: "merged, 4-bit"}


@dataclass(frozen=True)
class Served:
    """What is ready to answer.

    Attributes:
        prompts: what is asked, as tokens; of each row one.
        words: what it is, and whose rows these are.
        format: of `sweeper.exporting.formats.FORMATS`; where it has no adapter, the model answers by itself.
    """

    pack: Pack
    task: Task
    prompts: list[tuple[int, ...]]
    words: str
    format: str = ADAPTER

    @property
    def form(self) -> str:
        """How the adapter answers, such as `merged, 16-bit`."""
        return _FORMS[self.format]

    def answer(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Answers each prompt, all of them together where they fit."""
        self.task.predict(self.pack, [0], prompts, with_adapters=self.format == ADAPTER)

    @property
    def device(self) -> str:
        """What answers, such as `NVIDIA L4` or `cpu, 2 threads`."""
        if self.pack.stack.device.type == "cuda":
            return torch.cuda.get_device_name(self.pack.stack.device)
        count = torch.get_num_threads()
        return f"cpu, {count} thread{'s' if count != 1 else ''}"


def trial_of(home: Home, study: str, number: int | None) -> tuple[TrialView, Config]:
    """The trial that is measured, the winner where none is named, and the settings of its study.

    Raises:
        StoreError: if there is no such study, or it has no winner yet.
        ExportError: if the trial has no adapter, or none that is kept.
    """
    seen, paths = view(home, study), home.study(study)
    config = check.load(paths)
    trial = chosen(seen, number) if number is not None else _winner(seen)
    kept_adapter(seen, config, paths, trial)
    return trial, config


def _winner(seen: StudyView) -> TrialView:
    if seen.best is None:
        raise StoreError(
            f"what is priced is the winner, but {seen.name!r} has none ({seen.summary()}); "
            f"`sweeper status {seen.name}` shows all, and --trial N prices another complete trial"
        )
    return seen.best


@contextmanager
def of_study(home: Home, trial: TrialView, config: Config, announce: Announce) -> Iterator[Served]:
    """A trial's adapter, as its study scores it, while the block runs; nothing else of the study runs meanwhile.

    Raises:
        StoreError: if the study runs.
        OutOfRoomError: if the base does not fit into memory.
        DataError, PromptError, ModelError, CustomCodeError: as `set_up`.
    """
    paths = home.study(config.study.name)
    with idle(paths), guarded(config) as guard:
        announce(f"loading {config.model.name}")
        bench = set_up(config, home, guard)
        forecast_of(bench, config, guard, home.memory)  # so that no batch is tried that does not fit
        params = config.trial_params(trial.params)
        never_trained = Rhythm(interval_examples=1, evaluations=1, batch_size=1)
        bench.pack.admit(
            Slot(trial.number, params, never_trained, seed=0), adapter.read(paths.adapter(trial.number), params)
        )
        bench.pack.settle()
        words = f"trial {trial.number} of {paths.name}, the test rows of the study"
        yield Served(bench.pack, bench.task, bench.test.prompts, words)


@contextmanager
def of_folder(folder: Path, home: Home, file: Path | None, trusts_code: bool, announce: Announce) -> Iterator[Served]:
    """An exported adapter, while the block runs.

    Args:
        file: with rows as `sweeper predict` reads them; None: the test rows of the study that it is from.
        trusts_code: whether code that came with the export may run.

    Raises:
        ExportError: if the folder is no export, or there are no rows.
        OutOfRoomError: if the base does not fit into memory.
        DataError, PromptError, ModelError: what is wrong with rows or base.
    """
    asked = list(export_rows.of_file(file)()) if file is not None else None
    guard = Guard(backend_for(base.pick_device("auto")))
    with guard.watching():
        announce(f"loading {folder}")
        loaded = attempted(lambda: Predictor.load(folder, home, trusts_code))
        if isinstance(loaded, Failure):
            raise OutOfRoomError(
                f"the base must fit into memory, but that of {folder} does not ({loaded.message}); {guard.describe()}"
            )
        pack = loaded.pack
        targets = [slot.params.target_modules for slot in pack.slots] or ["all-linear"]  # merged: no slot to take room
        sizes = dimensions_of(pack.model, targets, pack.model.dtype, has_dropout=False)
        pack.planner = Planner(guard=guard, cost=_Bound(Formula.generic(sizes)))
        prompts = _prompts(asked, loaded) if asked is not None else _test_prompts(folder, loaded, home)
        whose = f"the rows of {file.name}" if file is not None else "the test rows of its study"
        yield Served(pack, loaded.task, prompts, f"{folder}, {whose}", loaded.exported.format)


@dataclass(frozen=True)
class _Bound:
    """What answering takes, by the formula for a base that has not been traced."""

    formula: Formula

    def expected_bytes(self, load: Load, profile: Profile) -> int:
        return self.formula.transient_bytes(load, profile)

    def transient_bytes(self, load: Load, profile: Profile) -> int:
        return int(self.expected_bytes(load, profile) * self.formula.bound)

    def optimizer_bytes(self, profile: Profile) -> int:
        return 0  # nothing is trained

    def observe(self, expected_bytes: int, measured_bytes: int) -> None:
        """Nothing is learned of it: only training steps are compared."""


def _prompts(asked: list[Raw], loaded: Predictor) -> list[tuple[int, ...]]:
    return loaded.prompts([row for _, row in asked], [place for place, _ in asked])


def _test_prompts(folder: Path, loaded: Predictor, home: Home) -> list[tuple[int, ...]]:
    """The test rows of the study that an export is from, where that study is in the store with the same rows."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    paths = home.study(str(manifest["study"]))
    cure = "give requests with --rows FILE, as `sweeper predict` reads them"
    if not paths.config.is_file():
        raise ExportError(
            f"requests are needed, but the study {paths.name!r} that {folder} is from is not in {home.root}; {cure}"
        )
    config = check.load(paths)
    data = rows.of(config, paths.splits, own.load(config, paths.code))
    data = long.fit(loaded.rendered, data, config.data.long).data
    if data.sha256 != manifest["data_sha256"]:
        raise ExportError(f"the rows of the study {paths.name!r} are not those that {folder} is from any more; {cure}")
    return loaded.rendered.prompts(data.test)
