"""What is tracked, as a contract; MLflow is its store.

The step of every point is the number of training examples seen: by the trial, or on the study's run by all its trials
that have ended; the untuned base has seen none. METRIC is one of the task's, from 0 to 1 or as its
own code says; LABEL what came of it (`sweeper.money.bill.Label`); NAME a constraint. Params are what was searched.

| key | what | on |
|---|---|---|
| METRIC | on the validation rows | trial, base, side run |
| METRIC_se | its standard error | trial, base, side run |
| retention/accuracy, retention/perplexity | over the sample of the retention suite | trial, base, side run |
| retention/drop, retention/drop_se | of what constrains, against the untuned base | trial, side run |
| retention/full_accuracy, retention/full_perplexity | over the whole suite | finalist, base |
| retention/full_drop, retention/full_drop_se | of that, against the untuned base | finalist |
| retention/noise_floor | one standard error of the base's own score, over the sample | base |
| constraint/NAME | holds where it is not above 0; known before training, or at its end | trial |
| train/loss | the slot's mean loss over its supervised tokens | trial, side run |
| train/grad_norm | before clipping | trial, side run |
| train/loss_scale | of float16; halved where a gradient overflowed, and the step was skipped | trial, side run |
| train/learning_rate | of A | trial, side run |
| train/tokens | tokens read so far, prompt and answer, and passages of replay | trial, side run |
| train/supervised_tokens | those with a loss: of answers, and of passages of replay | trial, side run |
| vram/peak_gib | the most that the process held in the step, beside whoever trained with it | trial, side run |
| vram/predicted_gib | the same as it was foretold; 0 where nothing reads memory | trial, side run |
| vram/headroom_gib | the budget less the peak | trial, side run |
| vram/chunks | parts that the step was cut into | trial, side run |
| throughput/tokens_per_s, throughput/examples_per_s | that it read in the step | trial, side run |
| throughput/pack_tokens_per_s | that all read which trained together | trial, side run |
| throughput/step_s | wall seconds of the step | trial, side run |
| throughput/pack_size | how many trained together in it, itself among them | trial, side run |
| vram/peak_gib_max | the highest of its peaks, once it has ended | trial, side run |
| throughput/tokens_per_s_mean, throughput/pack_size_mean | over all its steps, once it has ended | trial, side run |
| throughput/packing_gain_predicted | of `engine.slots=auto`: how much faster than one by one | study |
| throughput/packing_gain | the same, by what the session's steps took | study |
| duration_s | wall seconds in the pack, shared with its neighbours | trial, side run |
| evaluations | how many it had | trial, side run |
| best_value | the objective's value; complete trials alone have one, and are sorted by it | trial, study |
| last_value | the objective's metric at the last evaluation, of pruned ones too | trial |
| confirmation/METRIC, confirmation/METRIC_se | of a training that confirms, on the rows held back for it | side run |
| confirmation/METRIC_mean, confirmation/METRIC_spread | over those of a configuration | finalist, study |
| confirmation/METRIC_original | of the trial's own adapter on the same rows | finalist, study |
| learning_curve/twice_gain, learning_curve/twice_low, learning_curve/twice_high | of twice the rows | study |
| test/METRIC, test/METRIC_se | on the test split | winner, runner-up, base, study |
| test/optimism | of the search: by how much the winner's validation score is better than that | study |
| cost/usd | what was booked on it, with all that it shared | trial, study |
| cost/usd_train, cost/usd_eval | of that, training, and scoring | trial, study |
| cost/usd_energy | of that, electricity, where that is paid by the meter | trial, study |
| cost/usd_solo, cost/solo_s | what a trial would have taken alone on the device, without set-up | trial |
| cost/device_s | device seconds; without a price these alone, and the tag sweeper.price says so | trial, study |
| cost/usd_LABEL | by what came of it | study |
| cost/device_s_LABEL | the same in seconds, where some of them have no price | study |
| cost/useful_share | winner, other complete trials, confirmation, learning curve | study |
| cost/one_process_each_factor | how many times as long its trials would take, one process each; an estimate | study |
| inference/requests_per_s, inference/tokens_per_s | of a trial's adapter at its `inference/best_batch` | trial |
| inference/requests_per_s_batch1, inference/latency_ms_batch1 | one request at a time | trial |
| inference/usd_per_1000 | requests, at the best batch and full use; dollars only where there is a price | trial |
| inference/usd_per_month_rented, inference/usd_per_month_busy | of the volume: all month, busy seconds | trial |
| inference/best_batch | requests at a time with the most tokens per second | trial |
| export/FORMAT/METRIC, export/FORMAT/difference | of an export, scored afresh; less what was recorded | trial |
| export/FORMAT/moved, export/FORMAT/retention_drop | probabilities, in the mean; of the whole suite | trial |
| system/NAME | MLflow's own readings of the machine, every ten seconds; their step counts them | study |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from sweeper.tracking.view import RunsView
from sweeper.trial import RunKind


class RunState(StrEnum):
    """MLflow's run states, and what each means for a trial in Optuna."""

    RUNNING = "RUNNING"  # RUNNING
    SCHEDULED = "SCHEDULED"  # WAITING: interrupted, will go on
    FINISHED = "FINISHED"  # COMPLETE
    KILLED = "KILLED"  # PRUNED
    FAILED = "FAILED"  # FAIL


@dataclass(frozen=True)
class RunKey:
    """Which run is meant: there is one for a study, one for its baseline, one for each trial and each side run."""

    kind: RunKind
    number: int | None = None


NOTE_TAG = "mlflow.note.content"  # what MLflow shows as a description
STUDY = RunKey(RunKind.STUDY)
BASELINE = RunKey(RunKind.BASELINE)


@dataclass(frozen=True)
class DatasetUse:
    """Rows that a run uses.

    Attributes:
        context: what for, such as `training`.
        source_type: where they come from, such as `hub`.
        source: their name there.
        columns: those that are read.
    """

    name: str
    context: str
    sha256: str
    rows: int
    source_type: str
    source: str
    columns: tuple[str, ...]


class Watcher(NamedTuple):
    """Who follows what a store does; asked from any thread.

    Attributes:
        announce: told when the store goes away, and when it is back.
        is_stopping: whether somebody wants to stop, and a store that is away is not waited for any longer.
    """

    announce: Callable[[str], None]
    is_stopping: Callable[[], bool]


class Tracker(ABC):
    """Records the runs of one study: one parent, and a child for each trial, each side run and the baseline."""

    @contextmanager
    def watching_system(self) -> Iterator[None]:
        """Logs what the machine does on the study's run while the block runs, where the store has a place for it."""
        yield

    def arrange(self, view: RunsView) -> None:  # noqa: B027 (most show nothing)
        """Says which columns a table of the runs is to have."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the runs are, in words that are others elsewhere; without credentials."""

    @abstractmethod
    def start(self, key: RunKey, name: str, params: dict[str, object], tags: dict[str, str]) -> None:
        """Opens a run, or opens it again where it exists: params stay, tags are overwritten."""

    @abstractmethod
    def log(self, key: RunKey, metrics: dict[str, float], step: int) -> None:
        """Adds a point to each metric. Points may be kept back until `flush`, or what is asked of the store next."""

    @abstractmethod
    def log_datasets(self, key: RunKey, datasets: Sequence[DatasetUse]) -> None:
        """Says which rows a run uses; the same again changes nothing."""

    @abstractmethod
    def log_file(self, key: RunKey, file: Path, folder: str | None = None) -> None:
        """Copies a file, or a folder's files, to the run's artifacts.

        One in the study's folder is read when it is copied, as it is then; one that is dropped before is left out.
        """

    @abstractmethod
    def drop_files(self, key: RunKey, folder: str) -> None:
        """Deletes a folder of the run's artifacts; nothing where there is none."""

    @abstractmethod
    def end(self, key: RunKey, state: RunState, tags: dict[str, str]) -> None:
        """Closes a run; SCHEDULED means that it will be started again."""

    @abstractmethod
    def describe(self, text: str) -> None:
        """Sets the description of the study's run, whatever its state; nothing where there is none.

        Where the study has an experiment of its own, it is that one's too.
        """

    @abstractmethod
    def log_missing(self, key: RunKey, metric: str, points: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Adds points as `log` does, by their steps, where the run has none of a metric there."""

    @abstractmethod
    def has(self, key: RunKey) -> bool:
        """Whether there is such a run, as far as is known without asking the store."""

    @property
    def count(self) -> int:
        """How many operations wait to be done."""
        return 0

    @abstractmethod
    def flush(self) -> bool:
        """Waits until what was kept back is written; whether it is.

        What is safe on the disk is waited for no longer than a study's settings say.
        """

    def settle(self) -> bool:
        """As `flush`, but does not wait for a store that is away; whether all is written."""
        return self.flush()

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Lets go of what nobody else may have meanwhile."""

    @abstractmethod
    def states(self) -> dict[RunKey, RunState]:
        """The state of every run of the study, from the store.

        Raises:
            AwayError: if that cannot be asked now.
        """
