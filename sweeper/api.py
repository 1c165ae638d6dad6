"""What `import sweeper` offers a script or a notebook: to launch a search, look at it, and take its best adapter home.

A launch is a process of its own, as from a shell: it asks nothing, a kernel that is restarted does not end it, and one
that is interrupted goes on with the same call. Each function imports what it needs, so that `import sweeper` is quick.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sweeper.errors import WorkerError, remade
from sweeper.paths import Home

if TYPE_CHECKING:
    from sweeper.config.schema import Config
    from sweeper.exporting.predict import Predictor
    from sweeper.money.statement import TrialCost
    from sweeper.search.views import TrialView as Trial

Event = dict[str, Any]
_LOOK_S = 0.1
_LAST_LINES = 20  # of what a launch said that ended without a word for us


def launch(
    *overrides: str,
    home: str | os.PathLike[str] | None = None,
    block: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> Launch:
    """Launches a search, or goes on with one: `sweeper.launch("study=demo", "search.trials=8")`.

    Args:
        overrides: as of `sweeper launch`: `GROUP=OPTION` and `KEY=VALUE`.
        home: the folder of the store; None: `SWEEPER_HOME`, else `./sweeps`.
        block: waits for its end, and passes a Ctrl-C (a notebook's stop button) on; False returns at once.
        on_event: called with each event (`trial_ended`, `evaluation`, …), from another thread; None with `block` prints
            a line for each trial that ends.

    Returns:
        The launch; with `block` it has ended, and `study` is what came of it.

    Raises:
        ConfigError: if the settings are wrong, at once.
        SweeperError: with `block`, whatever ended the launch.
    """
    from sweeper.config.compose import composed
    from sweeper.config.reproduce import spoken

    if home is not None:
        overrides = (*overrides, f"store.home={spoken(str(_home(home).root))}")
    config = composed(list(overrides))
    place = Home.named(config.store.home, config.store.optuna)
    begun = Launch(config.study.name, overrides, place, on_event or (_say if block else None))
    if block:
        begun.wait()
    return begun


class Launch:
    """A search that was launched.

    Attributes:
        name: of its study.
        home: the store that it is in.
        result: how it ended, as the last line of `sweeper launch --json` says it; None while it runs.
    """

    def __init__(
        self, name: str, overrides: Sequence[str], home: Home, on_event: Callable[[Event], None] | None
    ) -> None:
        self.name, self.home = name, home
        self.result: Event | None = None
        self._on_event = on_event
        self._raised: Exception | None = None  # by `on_event`, which is then not called again
        paths = home.study(name)
        home.create()
        paths.create()
        paths.logs.mkdir(exist_ok=True)
        self._words = paths.launcher_log
        self._said_before = self._words.stat().st_size if self._words.is_file() else 0
        # Files, and no pipes: a launch must go on where nobody reads any more. That of the events is its own, since
        # another launch of the study may be refused meanwhile; it has no name any more once both have opened it.
        with tempfile.NamedTemporaryFile() as events, self._words.open("ab") as words:
            lines = open(events.name, encoding="utf-8")  # noqa: SIM115 - the thread closes it
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sweeper", "launch", "--json", *overrides],
                stdin=subprocess.DEVNULL,
                stdout=events,
                stderr=words,
                start_new_session=True,  # the stop button of a notebook is passed on by `wait`, once
            )
        self._reader = threading.Thread(target=self._follow, args=(lines,), daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def study(self) -> Study:
        """Its study as it stands; raises StoreError before its settings are stored, seconds after the launch."""
        return _study(self.home, self.name)

    def wait(self, timeout_s: float | None = None) -> Study:
        """Waits for its end; returns the study.

        Raises:
            TimeoutError: if it still runs then.
            KeyboardInterrupt: once the trials in flight are checkpointed, where it is interrupted.
            SweeperError: whatever ended the launch.
            Exception: what `on_event` has raised, once the launch has ended.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name!r} still runs after {timeout_s:g} s; stop() ends it") from None
        except KeyboardInterrupt:
            self.stop()
            raise
        self._reader.join()
        self._raise()
        if self._raised is not None:
            raise self._raised
        return self.study

    def stop(self) -> None:
        """Ends it, with its trials checkpointed; the same `launch` goes on with them."""
        if self.is_running:
            self._process.send_signal(signal.SIGINT)
        self._process.wait()
        self._reader.join()

    def _follow(self, lines: TextIO) -> None:
        part = ""
        with lines:
            while True:
                has_ended = not self.is_running  # asked first: then all that it wrote is there
                while line := lines.readline():
                    part += line
                    if part.endswith("\n"):
                        self._take(json.loads(part))
                        part = ""
                if has_ended:
                    return
                time.sleep(_LOOK_S)

    def _take(self, event: Event) -> None:
        if event["event"] == "result":
            self.result = event
        elif self._on_event is not None and self._raised is None:
            try:
                self._on_event(event)
            except Exception as error:  # the caller's own: the search goes on, and `wait` raises it
                self._raised = error

    def _raise(self) -> None:
        code, result = self._process.returncode, self.result or {}
        if (message := result.get("error")) is not None:
            raise remade(result["kind"], message)
        if code not in (0, 128 + signal.SIGINT):
            said = self._words.read_bytes()[self._said_before :].decode(errors="replace").splitlines()
            raise WorkerError(f"the launch of {self.name!r} ended with {code}:\n" + "\n".join(said[-_LAST_LINES:]))


@dataclass(frozen=True)
class Study:
    """A study as it stood when it was loaded.

    Attributes:
        name: it is called by.
        folder: with its settings, logs and adapters.
        trials: all of them, in their order.
        best: the winner; None while no trial has ended within the constraints.
        runner_up: the next best of another configuration.
        test: what winner, runner-up, untuned base and majority class have on the test split; empty before that.
        usd: what it has cost; None without a price.
        device_s: the seconds of devices that it took.
        is_finished: whether a launch would have nothing more to do.
        config: its settings.
        costs: what each trial has cost, by its number.
    """

    name: str
    folder: Path
    trials: list[Trial]
    best: Trial | None
    runner_up: Trial | None
    test: dict[str, Any]
    usd: float | None
    device_s: float
    is_finished: bool
    config: Config
    costs: Mapping[int, TrialCost]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each trial, for a table: `pandas.DataFrame(study.rows())`.

        Its keys are `number`; `state`; `value` of the objective; `params.` and `metrics.` with each name; `reason` why
        it ended early; `usd` that it cost itself, None without a price; and `device_s` that it took itself, of what
        several train together its part. What is nobody's, such as loading, is in the study's sums alone.
        """
        return [
            {
                "number": trial.number,
                "state": trial.state,
                "value": trial.value,
                **{f"params.{name}": value for name, value in trial.params.items()},
                **{f"metrics.{name}": value for name, value in trial.metrics.items()},
                "reason": trial.reason,
                "usd": bill.usd,
                "device_s": bill.seconds,
            }
            for trial in self.trials
            for bill in [self.costs[trial.number].bill]
        ]

    def export(self, to: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
        """Exports its winner: see `sweeper.export`."""
        return export(self.name, to, home=self.folder.parents[1], **options)

    def __repr__(self) -> str:
        best = (
            f", best trial {self.best.number}: {self.best.value:g}" if self.best and self.best.value is not None else ""
        )
        return f"<Study {self.name}: {len(self.trials)} trials{best}>"


def load_study(name: str, *, home: str | os.PathLike[str] | None = None) -> Study:
    """A study of a store, as it stands.

    Args:
        home: the folder of the store; None: `SWEEPER_HOME`, else `./sweeps`.

    Raises:
        StoreError: if there is none of that name.
    """
    return _study(_home(home), name)


def _study(place: Home, name: str) -> Study:
    from sweeper.report.reading import cost_of, studied
    from sweeper.search.views import is_finished

    seen, config = studied(place, name)
    cost = cost_of(place, seen, config)
    return Study(
        name=name,
        folder=place.study(name).root,
        trials=seen.trials,
        best=seen.best,
        runner_up=seen.runner_up,
        test=seen.attributes.get("test", {}),
        usd=cost.bill.usd,
        device_s=cost.bill.seconds,
        is_finished=is_finished(seen, config),
        config=config,
        costs={one.number: one for one in cost.trials},
    )


def list_studies(*, home: str | os.PathLike[str] | None = None) -> list[str]:
    """The names of the studies in a store; none where there is no store."""
    from sweeper.search.views import study_names

    place = _home(home)
    return study_names(place) if place.has_optuna else []


def export(
    study: str,
    to: str | os.PathLike[str],
    *,
    home: str | os.PathLike[str] | None = None,
    trial: int | None = None,
    metric: str | None = None,
    format: str = "adapter",
    force: bool = False,
    parity: bool = True,
    allow_drop: bool = False,
) -> dict[str, Any]:
    """Exports a trial, by default the winner, as a folder that others can load; scored again as they will load it.

    Args:
        to: the folder, which appears whole or not at all.
        trial: another one, whose adapter is kept.
        metric: the best by another metric.
        format: `adapter`, `merged`, `merged-4bit` or `gguf`.
        force: replaces a folder that is there, and takes a trial that breaks a constraint.
        parity: scores it afresh, in a process of its own, and refuses what does not answer as its trial did.
        allow_drop: writes it all the same.

    Returns:
        Its `sweeper.json`: prompt, labels, scores, versions, and the hash of each file.

    Raises:
        ExportError: if there is nothing to export, or it does not answer as its trial did.
    """
    from sweeper.exporting.export import Wanted
    from sweeper.exporting.export import export as write

    wanted = Wanted(trial, metric, format, force, parity, allow_drop)
    return write(_home(home), study, Path(to), wanted, print)


class Adapter:
    """An exported folder, loaded over its base: `sweeper.Adapter("my-adapter")("the app closes by itself")`.

    Args:
        folder: that `export` wrote.
        home: the store that has its base; None: `SWEEPER_HOME`, else `./sweeps`.
        trust_code: runs code that is in the folder, or in its base's repository.

    Raises:
        ExportError: if it is no export, or was changed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        home: str | os.PathLike[str] | None = None,
        trust_code: bool = False,
    ) -> None:
        from sweeper.exporting.predict import Predictor

        self._predictor: Predictor = Predictor.load(Path(folder), _home(home), trust_code)

    def __call__(self, text: str) -> str:
        """The label of a text, or the answer to it."""
        return self.predict([{"text": text}])[0]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The label of each row, or the answer to it; rows have the columns that the study's had."""
        return self._predictor.predict(rows)


def _home(folder: str | os.PathLike[str] | None) -> Home:
    return Home(Path(folder).expanduser().absolute()) if folder is not None else Home.from_environment()


def _say(event: Event) -> None:
    if event["event"] == "trial_ended":
        value = f" {event['value']:.4g}" if event.get("value") is not None else ""
        print(f"{event['name']}: {event['state'].lower()}{value}", flush=True)
    elif event["event"] == "note":
        print(f"note: {event['message']}", flush=True)
