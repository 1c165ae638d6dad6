"""What `sweeper plan` foretells of a sweep, after one calibrating trial, against what the sweep then costs.

    python tests/benchmarks/plan_against_spent.py --trials 8 study=demo train.examples=240 evaluation.rows=48

In a store of its own: the study with `search.trials=1` measures the pace, the whole sweep is
planned, launched under another name, and its bill read from the ledger. Minutes; the overrides say how many.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.launching.launcher import launch
from sweeper.money.account import account
from sweeper.money.booking import Activity
from sweeper.money.ledger import Ledger
from sweeper.paths import Home
from sweeper.preflight.cost import estimate
from sweeper.search.storage import open_storage
from sweeper.search.views import view
from sweeper.units import time_text, usd_text

PRICE = ["gpu.price_usd_per_hour=0.2", "engine.device=cpu", "confirm=false"]


def composed(*overrides: str) -> Config:
    configs: list[Config] = []
    compose.main(list(overrides), configs.append)
    return configs[0]


def compare(trials: int, overrides: list[str]) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWEEPER_HOME"] = folder
        home = Home(Path(folder))
        common = [*PRICE, *overrides, f"store.home={folder}"]
        launch(composed(*common, "search.trials=1", "study.name=calibration"), print)
        config = composed(*common, f"search.trials={trials}", "study.name=sweep")
        planned = estimate(config, home)
        total = planned.total
        if total.usd is None:
            raise SystemExit(f"no figures to compare: {planned.basis}")
        launch(config, print)
        bill = account(Ledger(open_storage(home).engine), view(home, "sweep"))
    if bill.usd is None:
        raise SystemExit("the sweep has no bill: its worker booked nothing")
    print("\nplanned: " + ", ".join(f"{part.name} {time_text(part.seconds.likely)}" for part in planned.parts))
    print("spent: " + ", ".join(f"{label.value} {time_text(part.seconds)}" for label, part in bill.by_label().items()))
    done = {activity.value: bill.of_activity(activity).seconds for activity in Activity}
    print("by activity: " + ", ".join(f"{name} {time_text(seconds)}" for name, seconds in done.items() if seconds))
    ratio = bill.usd / total.usd.likely
    times = f"{total.seconds.in_words(time_text)} | {time_text(bill.seconds)}"
    return f"| {' '.join(overrides)} | {total.usd.in_words(usd_text)} | {usd_text(bill.usd)} | {times} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("overrides", nargs="+", help="of the study, as for `sweeper launch`")
    arguments = parser.parse_args()
    row = compare(arguments.trials, arguments.overrides)
    print("\n| study | planned, likely (low to high) | spent | planned time | time | spent / planned |")
    print("|---|---|---|---|---|---|")
    print(row)


if __name__ == "__main__":
    main()
