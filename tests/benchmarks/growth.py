"""What one more trial costs beside its training, in a study that has had 10, 100 and 1,000: it must not grow with them.

    python tests/benchmarks/growth.py [--at 10 100 1000] [--samplers tpe gp random cmaes nsgaii] [--profile]

- Asking and telling, by sampler, on SQLite: the trials before were told with their values, and none was asked by the
  sampler. What its own model of them takes is Optuna's: TPE reads all of them, the Gaussian process inverts a matrix.
- What a worker does around a trial, on a study that `tests/benchmarks/many_trials.py` made: ledger, runs in MLflow,
  views of the study, descriptions. The thread that writes to MLflow counts in whichever part it falls.
- What the launcher does: reads the events of a trial, and shows the study.

The median of ten trials each, in milliseconds of CPU time of the process; `wall time` has waited for the disk, and for
whatever else the machine did. Nothing is trained.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import os
import pstats
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import optuna
from optuna.trial import TrialState, create_trial

from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.events import EventLog, EventReader
from sweeper.launching.progress import Progress
from sweeper.launching.screen import Output, show
from sweeper.paths import Home
from sweeper.retention.measure import CONSTRAINT
from sweeper.search.samplers import distributions
from sweeper.search.stopping import no_longer_pays
from sweeper.search.study import Search
from sweeper.search.views import open_storage, view
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.place import identify
from sweeper.worker.recorder import Recorder
from sweeper.worker.reports import Reports
from sweeper.worker.spending import Spending
from sweeper.worker.teller import Teller
from sweeper.worker.workbench import Workbench
from tests.benchmarks import many_trials
from tests.search.conftest import RECORD, curve

TRIALS = 10  # that each figure is the median of
AT = (10, 100, 1000)
RANGE = "+search.space.dropout={low:0.0,high:0.2}"  # CMA-ES needs two of them
SAMPLERS = ("tpe", "gp", "random", "cmaes", "nsgaii")


class Clock:
    """Milliseconds of each part of what is repeated."""

    def __init__(self) -> None:
        self.wall_ms: dict[str, list[float]] = defaultdict(list)
        self.cpu_ms: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        self.wall_ms[name].append(1000 * (time.perf_counter() - wall_s))
        self.cpu_ms[name].append(1000 * (time.process_time() - cpu_s))

    def medians(self) -> dict[str, float]:
        """Of each part's CPU time, and of the sums."""
        found = {name: statistics.median(times) for name, times in self.cpu_ms.items()}
        for name, parts in (("**together**", self.cpu_ms), ("wall time", self.wall_ms)):
            found[name] = statistics.median(map(sum, zip(*parts.values(), strict=True)))
        return found


def composed(*overrides: str) -> Config:
    found: list[Config] = []
    compose.main(["study=demo", *overrides], found.append)
    return found[0]


def filled(home: Home, config: Config, trials: int) -> Search:
    """A study that has had so many trials, of random configurations."""
    Search(home, config).engine.dispose()
    study = optuna.load_study(study_name=config.study.name, storage=open_storage(home))
    space, chance = distributions(config), optuna.samplers.RandomSampler(seed=0)
    for number in range(trials):
        params = {name: chance.sample_independent(study, None, name, one) for name, one in space.items()}
        points = curve(*(random.Random(3 * number + place).random() for place in range(3)))
        values = {place: point["accuracy"] for place, point in enumerate(points, start=1)}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=max(values.values()),
                params=params,
                distributions=space,
                intermediate_values=values,
                user_attrs={**RECORD, "curve": points, "metrics": points[-1]},
            )
        )
    return Search(home, config)


def ask_tell(sampler: str, trials: int, folder: Path) -> dict[str, float]:
    """Of a study on SQLite."""
    home, clock = Home(folder), Clock()
    home.create()
    search = filled(home, composed(f"sampler={sampler}", RANGE, f"search.trials={trials + TRIALS}"), trials)
    search.views()  # what a session reads once
    for number in range(TRIALS):
        with clock.part("ask"):
            asked = search.ask()
        assert asked is not None
        with clock.part("report"):
            search.report(asked.number, curve(random.Random(number).random()), may_prune=True)
        with clock.part("tell"):
            search.complete(asked.number, random.Random(number).random(), RECORD, {})
    search.engine.dispose()
    return clock.medians()


class Bookkeeping:
    """A worker without a model, on a study that was made up."""

    def __init__(self, home: Home, trials: int) -> None:
        self._paths = home.study(many_trials.NAME)
        config = check.load(self._paths)
        changes = {"trials": config.search.trials + TRIALS + 1, "duplicates": "train"}
        self._config = config.model_copy(update={"search": config.search.model_copy(update=changes)})
        self._events = EventLog(self._paths.events)
        self._tracker = MlflowTracker(home, many_trials.NAME, identify(self._paths))
        recorder = Recorder(self._paths, self._config, self._tracker, self._events)
        self._search = Search(home, self._config, [CONSTRAINT, "vram"])
        self._spending = Spending(home, self._config, self._search, self._events)
        reports = Reports(self._paths, self._config, self._search, self._tracker, self._spending, self._events)
        told = self._paths, self._config, self._search, recorder, self._events, self._spending, reports
        self._teller, self._recorder = Teller(*told), recorder
        self._teller._bench = cast(Workbench, SimpleNamespace(retention=None))  # its constraints are made up

    def run(self) -> dict[str, float]:
        clock = Clock()
        with self._spending.running(), self._search.renewing():
            self._trial(Clock())  # the first one reads what a session reads once
            for _ in range(TRIALS):
                self._trial(clock)
        self._events.close()
        return clock.medians()

    def _trial(self, clock: Clock) -> None:
        search, teller = self._search, self._teller
        with clock.part("may it be asked"):
            no_longer_pays(self._config.stop, search.views(), self._config.objective.metric_name)
        with clock.part("ask"):
            asked = search.ask()
            assert asked is not None
            search.earlier(asked)
        with clock.part("begin its run"):
            self._recorder.begin(asked)
        made_up = many_trials.MadeUp.of(self._config, asked, None)
        with clock.part("report its evaluations"):
            for place in range(1, len(made_up.curve) + 1):
                search.report(asked.number, made_up.curve[:place], may_prune=True)
        with clock.part("look at what is spent"):
            self._spending._look()
        adapter = self._paths.adapter(asked.number)
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(b"made up")
        with clock.part("tell"):
            self._recorder.settle()
            record = {**RECORD, "metrics": made_up.curve[-1], "curve": made_up.curve, "solo_s": 1.0}
            search.complete(asked.number, made_up.curve[-1]["accuracy"], record, made_up.constraints)
        with clock.part("end its run, with its cost"):
            teller._end(asked.number)
        with clock.part("keep the best adapters"):
            teller.keep_best_adapters()
        with clock.part("what MLflow has yet to write"):
            self._tracker.flush()


def launcher(home: Home) -> dict[str, float]:
    """Of one trial's events, to a log."""
    paths, clock = home.study(many_trials.NAME), Clock()
    config, before = check.load(paths), view(home, many_trials.NAME)
    progress, reader = Progress.of(config, before), EventReader(paths.events)
    events, first = EventLog(paths.events), len(before.trials)
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout, was = nowhere, sys.stdout
        try:
            with show(progress, Output.PERSON) as screen:
                for number in range(first, first + TRIALS):
                    _write(events, number)
                    with clock.part("show a trial's events"):
                        screen.update(reader.new())
        finally:
            sys.stdout = was
    events.close()
    return clock.medians()


def _write(events: EventLog, number: int) -> None:
    """What a trial of a hundred steps and three evaluations says."""
    events.write("trial_started", number=number, name=f"t{number}", step=0, steps=100, is_informed=True)
    memory = {"peak_gib": 1.0, "budget_gib": 2.0}
    for step in range(1, 101):
        slots = [{"number": number, "step": step, "loss": 1.0, "tokens": step * 100}]
        events.write("tick", slots=slots, memory=memory)
    for index, point in enumerate(curve(0.1, 0.2, 0.3), start=1):
        events.write("evaluation", number=number, index=index, **point)
    ended = {"state": "COMPLETE", "reason": None, "same_as": None, "is_rejected": False, "violates": [], "value": 0.3}
    events.write("trial_ended", number=number, name=f"t{number}", **ended)


def table(title: str, columns: dict[int, dict[str, float]]) -> str:
    """Rows are the parts, columns the trials that a study had had."""
    names = list(next(iter(columns.values())))
    lines = [f"| {title}, ms | {' | '.join(f'at {count:,}' for count in columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    lines += [f"| {name} | {' | '.join(f'{one[name]:.1f}' for one in columns.values())} |" for name in names]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", type=int, nargs="+", default=AT)
    parser.add_argument("--samplers", nargs="*", default=SAMPLERS)
    parser.add_argument("--profile", action="store_true", help="what the worker's part consists of, too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for sampler in chosen.samplers:
            found = {at: ask_tell(sampler, at, Path(name) / f"{sampler}-{at}") for at in chosen.at}
            print(table(f"sampler={sampler}", found), flush=True)
        workers, launchers = {}, {}
        for at in chosen.at:
            home = Home(Path(name) / f"many-{at}")
            os.environ["SWEEPER_HOME"] = str(home.root)
            many_trials.build(home, at)
            launchers[at] = launcher(home)
            profile = cProfile.Profile()
            if chosen.profile:
                profile.enable()
            workers[at] = Bookkeeping(home, at).run()
            if chosen.profile:
                profile.disable()
                text = io.StringIO()
                pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats("sweeper|optuna", 40)
                print(text.getvalue())
    print(table("worker, sampler=random", workers))
    print(table("launcher", launchers))


if __name__ == "__main__":
    main()
