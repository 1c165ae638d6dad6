"""Whether an exported folder answers as its trial did: it is loaded afresh in a process of its own, and scored again.

That process (`fresh.py`) has transformers and peft alone, as whoever gets the folder. What it answers is held against
what the study recorded, row by row:

- the weights that were loaded must be those that were exported, and an adapter's scale the trial's, each of them;
- the tokens of each prompt must be the same: otherwise tokenizer or chat template are not those of the training;
- the metric must not be worse by more than two standard errors of the paired difference;
- the probabilities of the answers must not have moved by more than `MOVED` in the mean. Other kernels move them by a
  thousandth in float32, and by ten times that in 16 bits; other weights, or a base that is not the one of the
  training, move them before they move the metric. Formats that round the weights again move them by more, and are not
  held to this;
- the drop in the retention suite must not be higher by more than two standard errors.

What other ways of serving change is said, and refuses nothing: the base in 16 bits, and decoding without the labels.
"""

from __future__ import annotations

import json
import math
import operator
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from sweeper.engine.adapter import WEIGHTS
from sweeper.errors import ExportError
from sweeper.exporting import fresh
from sweeper.exporting.formats import ADAPTER, EXACT
from sweeper.exporting.recorded import Recorded
from sweeper.retention.measure import CERTAIN, drop
from sweeper.tasks.resampled import difference
from sweeper.trial import TrialParams

MOVED, MOVED_16_BIT = 0.01, 0.03  # of a probability, in the mean over rows; of a model that computes in 16 bits
SERVED_ROWS = 256  # on which other ways of serving are tried
_SHOWN = 20  # last lines of a process that failed


@dataclass(frozen=True)
class Weights:
    """What must be loaded: the hash of each weight by its name, and the scale of an adapter."""

    digests: Mapping[str, str]
    scale: float | None = None

    @classmethod
    def of_adapter(cls, folder: Path, params: TrialParams) -> Weights:
        """Those of a trial, as its study keeps them."""
        tensors = load_file(folder / WEIGHTS)
        return cls({name: fresh.digest(tensor) for name, tensor in tensors.items()}, params.scale)

    def problems(self, digests: Mapping[str, str], scales: Sequence[float]) -> list[str]:
        """In what other weights differ, in words."""
        found = []
        names = sorted({*self.digests, *digests})
        if others := [name for name in names if self.digests.get(name) != digests.get(name)]:
            found.append(
                f"{len(others)} of {len(names)} weights are not what was exported, the first of them {others[0]}"
            )
        if self.scale is not None and not all(math.isclose(scale, self.scale, rel_tol=1e-6) for scale in scales):
            said = ", ".join(f"{scale:g}" for scale in scales)
            found.append(f"the adapter is scaled by {said}, but the trial's by {self.scale:g} (alpha, rank, rsLoRA)")
        return found


@dataclass(frozen=True)
class Served:
    """One other way of serving, on some of the rows.

    Attributes:
        recorded: the metric of the recorded answers to these rows.
        same: rows with the recorded answer.
    """

    way: str
    rows: int
    recorded: float
    value: float
    same: int


@dataclass(frozen=True)
class Forgotten:
    """The drop in the retention suite, of what is exported and as it was recorded of the trial."""

    kind: str
    drop: float
    drop_se: float
    tolerance: float
    recorded: float | None

    def problem(self) -> str | None:
        """Why it is more than was recorded, in words; None where it is not, or nothing was recorded."""
        if self.recorded is None or self.drop - self.recorded <= CERTAIN * self.drop_se:
            return None
        return (
            f"the drop in {self.kind} of the retention suite is {self.drop:.3f}, but {self.recorded:.3f} was recorded, "
            f"and two standard errors are {CERTAIN * self.drop_se:.3f}"
        )


@dataclass(frozen=True)
class Parity:
    """What the check found.

    Attributes:
        recorded, exported: the metric, as the study scored the trial and as the folder scores.
        difference: of the two, exported less recorded, with its standard error over the same rows; None: not known.
        same: rows with the recorded answer.
        moved: the mean change of an answer's probability, over rows with the same answer; None where none is known.
        problems: why it is refused; none where it holds.
        answers: of the folder, row by row, each with its probability.
    """

    split: str
    rows: int
    metric: str
    recorded: float
    exported: float
    difference: float
    standard_error: float | None
    same: int
    moved: float | None
    retention: Forgotten | None
    served: tuple[Served, ...]
    device: str
    problems: tuple[str, ...]
    answers: tuple[tuple[str, float], ...]

    @property
    def holds(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: without the answers."""
        found = asdict(self)
        del found["answers"]
        return {"holds": self.holds, **found}


def check(
    source: fresh.Source,
    form: str,
    known: Recorded,
    weights: Weights | None,
    announce: Callable[[str], None],
    tries_ways: bool = True,
) -> Parity:
    """Loads and scores a folder in a new process.

    Args:
        source: the folder, and how it is loaded.
        form: its format.
        weights: what must be loaded; None: the format does not keep them as they were.
        tries_ways: whether other ways of serving are tried too.

    Raises:
        ExportError: if it cannot be loaded.
    """
    reads = known.watch.full.reads if known.watch is not None else []
    few = sorted(random.Random(0).sample(range(len(known.rows)), min(SERVED_ROWS, len(known.rows))))
    free = few if known.labels and tries_ways else []
    announce(f"scoring the export in a process of its own: {len(known.rows)} {known.split} rows, {len(reads)} texts")
    job = _job(source, known, range(len(known.rows)))
    job |= {"free": free, "reads": [read.tokens for read in reads], "starts": [read.start for read in reads]}
    found = _answered({**job, "is_weighed": weights is not None})
    problems = weights.problems(found["weights"], found["scales"]) if weights is not None else []
    served = [_served("greedy decoding without the list of labels", known, free, found["free"])] if free else []
    if tries_ways and form == ADAPTER and source.quant != "none":
        announce(f"scoring it over the base in 16 bits: {len(few)} rows")
        half = replace(source, quant="none", dtype="float16" if source.dtype == "float16" else "bfloat16")
        way = "over the base in 16 bits, as published"
        try:
            served.append(_served(way, known, few, _answered(_job(half, known, few))["answers"]))
        except ExportError as error:  # four times as large, it may not fit
            announce(f"not tried {way}: {str(error).splitlines()[-1]}")
    limit = None if form not in EXACT else MOVED if source.dtype == "float32" else MOVED_16_BIT
    return _held(known, found, tuple(served), limit, problems)


def _job(source: fresh.Source, known: Recorded, places: Sequence[int]) -> dict[str, Any]:
    chat = known.rendered.chat
    return {
        "source": asdict(source),
        "end": chat.end,
        "lead": chat.lead,
        "rows": [known.rendered.messages(known.rows[place]) for place in places],
        "labels": known.labels,
        "max_new_tokens": known.room_tokens,
        "free": [],
        "is_weighed": False,
        "reads": [],
        "starts": [],
    }


def _answered(job: dict[str, Any]) -> dict[str, Any]:
    """Runs a job; its rows go through pipes, for their texts leave no file behind."""
    command = [sys.executable, "-P", str(Path(fresh.__file__))]  # -P: the modules beside it are not in its way
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-_SHOWN:])
        if "OutOfMemoryError" in said or done.returncode == -signal.SIGKILL:
            said += " (--device cpu has more room, and takes longer)"
        raise ExportError(
            f"an export must be loaded by transformers and peft alone, but that ended with {done.returncode}:\n{said}"
        )
    found: dict[str, Any] = json.loads(done.stdout)
    if found["sweeper"]:
        raise ExportError(f"the check must know nothing of sweeper, but it loaded {', '.join(found['sweeper'])}")
    return found


def _held(
    known: Recorded,
    found: dict[str, Any],
    served: tuple[Served, ...],
    limit: float | None,
    problems: Sequence[str] = (),
) -> Parity:
    """Holds answers against what was recorded.

    Args:
        limit: of how far probabilities may have moved; None: of none.
        problems: that are known already.
    """
    answers = tuple((str(text), float(value)) for text, value in found["answers"])
    texts = [text for text, _ in answers]
    before, now = known.resampler.score(known.texts), known.resampler.score(texts)
    draws = difference(now.draws, before.draws)
    # A metric of the user's may have no value on most draws: then nobody knows what is noise.
    error, change = float(draws.std()) if len(draws) else None, now.value - before.value
    same = [text == one.prediction for text, one in zip(texts, known.predictions, strict=True)]
    moved = _moved(known, answers)
    forgotten = _forgotten(known, found["likelihoods"])
    problems = [*problems]
    if others := _other_prompts(known, found["prompts"]):
        problems.append(
            f"{others} of {len(answers)} prompts have other tokens than in training: tokenizer or chat template differ"
        )
    lost = change if known.is_minimized else -change
    if error is not None and lost > CERTAIN * error:
        problems.append(
            f"{known.metric} on {len(answers)} {known.split} rows is {now.value:.4f}, but {before.value:.4f} was "
            f"recorded: worse by {lost:.4f}, where two standard errors are {CERTAIN * error:.4f}"
        )
    if limit is not None and (moved is None or not moved <= limit):
        by = f"{moved:.3f}" if moved is not None else "nobody knows how much, for no answer is the recorded one"
        problems.append(f"the probabilities of the answers have moved by {by} in the mean, where {limit} is allowed")
    if forgotten is not None and (problem := forgotten.problem()) is not None:
        problems.append(problem)
    return Parity(
        split=known.split,
        rows=len(answers),
        metric=known.metric,
        recorded=before.value,
        exported=now.value,
        difference=change,
        standard_error=error,
        same=sum(same),
        moved=moved,
        retention=forgotten,
        served=served,
        device=found["device"],
        problems=tuple(problems),
        answers=answers,
    )


def _moved(known: Recorded, answers: Sequence[tuple[str, float]]) -> float | None:
    """How far the probabilities of the answers that are the same have moved, in the mean; None where none is known."""
    moves = [
        abs(value - one.confidence)
        for (text, value), one in zip(answers, known.predictions, strict=True)
        if text == one.prediction and one.confidence is not None
    ]
    return sum(moves) / len(moves) if moves else None


def _other_prompts(known: Recorded, prompts: Sequence[str]) -> int:
    """How many prompts the folder's tokenizer and template write otherwise."""
    chat = known.rendered.chat
    own = [fresh.fingerprint(chat.tokens(chat.render(known.rendered.messages(row), True))) for row in known.rows]
    return sum(one != other for one, other in zip(own, prompts, strict=True))


def _forgotten(known: Recorded, likelihoods: Sequence[float]) -> Forgotten | None:
    if known.watch is None or known.watch.whole.kind is None:
        return None
    yardstick = known.watch.whole
    assert yardstick.kind is not None
    lost, error = drop(yardstick.base, known.watch.full.answers(likelihoods), yardstick.kind)
    return Forgotten(yardstick.kind, lost, error, yardstick.tolerance, known.forgotten)


def _served(way: str, known: Recorded, places: Sequence[int], answers: Sequence[tuple[str, float]]) -> Served:
    """What another way of serving answers to some rows, beside what was recorded."""
    before, said = [known.texts[place] for place in places], [text for text, _ in answers]
    was, now = (known.resampler.value(places, texts) for texts in (before, said))
    return Served(way, len(places), was, now, sum(map(operator.eq, before, said)))
