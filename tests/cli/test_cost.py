"""`sweeper cost`, as a person runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from sweeper.cli.main import main
from sweeper.paths import Home
from tests.housekeeping.conftest import snapshot
from tests.money.booked import BOOKED_S, LINES, PRICED, stored


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments)


def test_where_the_money_went(home: Home, composed: Any, tmp_path: Path) -> None:
    stored(home, composed("study=demo", *PRICED))
    before = snapshot(home.root)
    result = run("cost", "demo", "--csv", str(tmp_path / "bill.csv"))
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    for words in (
        "demo: $0.104 in 0.029 device hours: 24% winner",
        "winner 25.0 0.0250 24%",
        "train 55.0 0.0550 53%",
        "2 pruned",
        "6.0 1.0 0.0070 0.0080",
        "cpu yes, 5.0 s lost 100.0 0.1000 –",
        "Sum: 104.000 s = $0.104; the sessions took 104.000 s",
        "Price: $3.6 an hour (auto, on demand; nobody, 2026-11-01)",
        "In progress: 2.0 s more",
        "One process each, an estimate: 81.0 s, $0.0810 (4 times 6.0 s of set-up, and 57.0 s of work), where the pack "
        "took 71.0 s, $0.0710: 1.1 times as long",
    ):
        assert words in said
    assert len(list(csv.DictReader((tmp_path / "bill.csv").read_text().splitlines()))) == LINES
    document = json.loads(run("cost", "demo", "--json").stdout)
    assert (document["seconds"], len(document["trials"]), len(document["sessions"])) == (BOOKED_S, 6, 2)
    best = json.loads(run("best", "demo", "--json", "--force").stdout)
    assert (best["cost"]["train_s"], best["cost"]["solo_s"]) == (20.0, 30.0)
    assert "$0.104" in run("list").stdout
    assert snapshot(home.root) == before  # whoever looks changes nothing


def test_without_a_price_and_with_what_cannot_be_written(home: Home, composed: Any, tmp_path: Path) -> None:
    stored(home, composed("study=demo"))
    said = " ".join(run("cost", "demo").stdout.split())
    assert "demo: 0.029 device hours, without a price: 24% winner" in said
    assert "Without a price: 104.0 s, which are in no sum of dollars" in said
    assert "$" not in said.replace("gpu.price_usd_per_hour", "")
    [line] = json.loads(run("list", "--json").stdout)["studies"]
    assert (line["usd"], line["device_s"], line["unpriced_s"]) == (None, BOOKED_S, BOOKED_S)
    result = run("cost", "demo", "--csv", str(tmp_path / "missing" / "bill.csv"))
    assert (result.exit_code, "--csv must be a file that can be written" in result.stderr) == (2, True)
    result = run("cost", "dmo")
    assert (result.exit_code, "did you mean `demo`" in result.stderr) == (2, True)
