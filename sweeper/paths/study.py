"""The files of one study."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.paths.files import make_folder, write_atomically
from sweeper.redaction import redacted

if TYPE_CHECKING:
    from sweeper.paths.home import Home


VALIDATION, TEST = "validation", "test"  # the splits that are scored: while trials train, and once for a winner


@dataclass(frozen=True)
class StudyPaths:
    """The files of one study."""

    home: Home
    name: str

    @property
    def root(self) -> Path:
        return self.home.studies / self.name

    def create(self) -> None:
        """Makes the study's folder; raises StoreError where it cannot be written."""
        make_folder(self.root)
        self.workers.mkdir(exist_ok=True)

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def changes(self) -> Path:
        return self.root / "changes.yaml"

    @property
    def model(self) -> Path:
        return self.root / "model.json"

    @property
    def splits(self) -> Path:
        return self.root / "splits.json"

    @property
    def data(self) -> Path:
        """What was found in the rows when the study began."""
        return self.root / "data.json"

    @property
    def code(self) -> Path:
        """A copy of the modules of the study's own task and metric."""
        return self.root / "code"

    @property
    def tracking(self) -> Path:
        return self.root / "tracking.json"

    @property
    def mirror(self) -> Path:
        """Which generation of the study's mirror is of this folder."""
        return self.root / "mirror.json"

    @property
    def mirror_lock(self) -> Path:
        """Held by the process that copies this folder to the mirror."""
        return self.root / "mirror.lock"

    @property
    def mirroring(self) -> Path:
        """What a copy to the mirror holds until it is made."""
        return self.root / ".mirror"

    @property
    def spool(self) -> Path:
        """What is still to be written to the runs, a folder for each worker."""
        return self.root / "spool"

    @property
    def launcher_lock(self) -> Path:
        return self.root / "launcher.lock"

    @property
    def work_lock(self) -> Path:
        """Shared by every worker; whoever holds it alone keeps them out."""
        return self.root / "worker.lock"

    @property
    def holder(self) -> Path:
        return self.root / "launcher.json"

    @property
    def workers(self) -> Path:
        """Which processes the workers are, and how they ended."""
        return self.root / "workers"

    def worker_lock(self, index: int) -> Path:
        return self.workers / f"{index}.lock"

    def worker_holder(self, index: int) -> Path:
        return self.workers / f"{index}.json"

    def outcome(self, index: int) -> Path:
        return self.workers / f"{index}.outcome.json"

    @property
    def token(self) -> Path:
        """A word that nobody else writes: a node that reads it there shares this folder."""
        return self.workers / "token"

    @property
    def jobs(self) -> Path:
        """Which jobs of SLURM the workers are."""
        return self.workers / "jobs.json"

    @property
    def submissions(self) -> Path:
        """What submitit keeps of each job: what is run, what it printed, what came of it."""
        return self.workers / "submitit"

    def worker_indices(self) -> list[int]:
        """Of every worker that the study has had here."""
        return sorted(int(file.stem) for file in self.workers.glob("*.lock") if file.stem.isdecimal())

    @property
    def outcomes(self) -> list[Path]:
        """How the workers of the last session ended."""
        return sorted(self.workers.glob("*.outcome.json"))

    @property
    def old_outcome(self) -> Path:
        """How the worker ended in a study from before there were several."""
        return self.root / "outcome.json"

    @property
    def deleting(self) -> Path:
        """The mark of a study that is to go: everything that is left of it will be deleted."""
        return self.root / "deleting"

    @property
    def logs(self) -> Path:
        """What workers said, a file for each."""
        return self.root / "logs"

    def worker_log(self, index: int) -> Path:
        return self.logs / f"worker-{index}.log"

    @property
    def launcher_log(self) -> Path:
        """What a launcher said since its terminal was gone, or where Python code launched it."""
        return self.logs / "launcher.log"

    @property
    def of_one_worker(self) -> list[Path]:
        """The files of the worker in a study from before there were several."""
        return [self.root / "worker.log", self.root / "worker.json", self.old_outcome]

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def on_finish_log(self) -> Path:
        return self.root / "on_finish.log"

    @property
    def learning_curve(self) -> Path:
        return self.root / "learning_curve.json"

    @property
    def learning_curve_picture(self) -> Path:
        return self.root / "learning_curve.png"

    @property
    def test_comparisons(self) -> Path:
        """Which pairs were compared on the test split."""
        return self.root / "test_comparisons.json"

    @property
    def cost(self) -> Path:
        """Where the dollars went, as it stood when a session last ended."""
        return self.root / "cost.json"

    @property
    def cost_table(self) -> Path:
        return self.root / "cost.csv"

    @property
    def cost_picture(self) -> Path:
        return self.root / "cost.png"

    @property
    def report_page(self) -> Path:
        """What `sweeper report` wrote last, and its Markdown with the pictures of that."""
        return self.root / "report.html"

    @property
    def report_text(self) -> Path:
        return self.root / "report.md"

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    @property
    def base(self) -> Path:
        """What is kept of the untuned base."""
        return self.root / "base"

    @property
    def side(self) -> Path:
        """Trainings that are no trials."""
        return self.root / "side"

    @property
    def known(self) -> set[str]:
        """Every name that a study's folder may have; what else lies there is not sweeper's."""
        files = (self.config, self.launcher_lock, self.work_lock, self.holder, self.workers, self.logs)
        others = (
            *self.of_one_worker,
            self.changes,
            self.model,
            self.splits,
            self.data,
            self.code,
            self.tracking,
            self.mirror,
            self.mirror_lock,
            self.mirroring,
            self.spool,
            self.events,
            self.on_finish_log,
            self.learning_curve,
            self.learning_curve_picture,
            self.test_comparisons,
            self.cost,
            self.cost_table,
            self.cost_picture,
            self.report_page,
            self.report_text,
            self.pictures,
            self.deleting,
            self.base,
            self.side,
            self.trials,
        )
        return {file.name for file in (*files, *others)}

    @property
    def written(self) -> set[str]:
        """Every file name in it that is written at once, those of its folders too."""
        files = (
            *(self.predictions(None, split) for split in (VALIDATION, TEST)),
            *(self.wrong_rows(None, split) for split in (VALIDATION, TEST)),
            self.retention,
            self.readings(0),
            self.inference(0),
            self.side_result("", 0),
            self.worker_holder(0),
            self.outcome(0),
            self.token,
            self.jobs,
        )
        return {name for name in self.known if Path(name).suffix} | {file.name for file in files}

    def trial(self, number: int) -> Path:
        return self.trials / f"{number:04d}"

    def predictions(self, number: int | None, split: str = VALIDATION) -> Path:
        """What a trial predicted for the rows of a split, or without a number the untuned base."""
        folder = self.base if number is None else self.trial(number)
        return folder / ("predictions.jsonl" if split == VALIDATION else f"predictions-{split}.jsonl")

    @property
    def retention(self) -> Path:
        """How the untuned base does each item of the retention suite, without text."""
        return self.base / "retention.jsonl"

    def wrong_rows(self, number: int | None, split: str = VALIDATION) -> Path:
        """The wrong ones of these with their text, where `tracking.log_text` asks for that."""
        return self.predictions(number, split).with_name(f"wrong_rows-{split}.csv")

    def trial_config(self, number: int) -> Path:
        return self.trial(number) / "config.yaml"

    def readings(self, number: int) -> Path:
        """The memory around a trial's end, where that was for memory."""
        return self.trial(number) / "memory.json"

    def inference(self, number: int) -> Path:
        """How fast a trial's adapter answers, and what that costs."""
        return self.trial(number) / "inference.json"

    def checkpoint(self, number: int) -> Path:
        return self.trial(number) / "checkpoint.safetensors"

    def checkpoints_bytes(self) -> int:
        """What the checkpoints of all trials take on the disk, half-written ones included."""
        files = [*self._checkpoints("checkpoint.safetensors"), *self._checkpoints(".checkpoint.safetensors.tmp/*")]
        return sum(file.stat().st_size for file in files)

    def drop_checkpoint(self, number: int) -> None:
        """Deletes the checkpoint of a trial that has ended, and what a killed writer left of one."""
        file = self.checkpoint(number)
        file.unlink(missing_ok=True)
        shutil.rmtree(file.with_name(f".{file.name}.tmp"), ignore_errors=True)

    def _checkpoints(self, pattern: str) -> list[Path]:
        """Files of that name in the folders of trials and side runs."""
        return [file for folder in (self.trials, self.side) for file in folder.glob(f"*/{pattern}")]

    def adapter(self, number: int) -> Path:
        return self.trial(number) / "adapter"

    def side_runs(self) -> list[tuple[str, int]]:
        """Kind and number of each side run that has a folder."""
        found = (re.fullmatch(r"([a-z-]+)-(\d{4,})", path.name) for path in sorted(self.side.glob("*")))
        return [(match[1], int(match[2])) for match in found if match is not None]

    def side_run(self, kind: str, number: int) -> Path:
        return self.side / f"{kind}-{number:04d}"

    def side_checkpoint(self, kind: str, number: int) -> Path:
        return self.side_run(kind, number) / "checkpoint.safetensors"

    def side_result(self, kind: str, number: int) -> Path:
        return self.side_run(kind, number) / "result.json"

    def side_predictions(self, kind: str, number: int) -> Path:
        """What it predicted for the rows that it was scored on at its end, where there were any."""
        return self.side_run(kind, number) / "predictions.jsonl"

    def write_outcome(self, index: int, outcome: dict[str, Any]) -> None:
        """Writes how a worker ended, what is said of that without secrets."""
        said = {name: redacted(outcome[name]) for name in ("message", "trace") if outcome.get(name) is not None}
        write_atomically(self.outcome(index), json.dumps({**outcome, **said}, indent=2))
