"""A study's own code in real processes: the page's examples, its mistakes, its export."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import optuna
import pytest
import yaml

from sweeper.errors import ExportError
from sweeper.exporting.predict import Predictor
from sweeper.paths import Home
from sweeper.search.views import view
from tests.conftest import SHORT
from tests.launch.test_launch import json_of, sweeper

PAGE = Path(__file__).parents[2] / "studies" / "README.md"
SIZE = [argument for argument in SHORT if not argument.startswith("study=")]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """The files of the page's example studies, word for word."""
    found = re.findall(r"```(?:yaml|python)\n# (\S+/\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in found] == [
        *("mine/config.yaml", "mine/scoring.py", "slots/config.yaml", "slots/slot_filling.py")
    ]
    for name, text in found:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_metric_that_breaks_is_mended_and_the_study_goes_on(examples: Path, home: Home, few_tickets: Path) -> None:
    file = examples / "mine/scoring.py"
    mended = file.read_text()
    # Three rows of the base and of the majority, the base, one of two trials.
    broken = "calls = []\n" + mended.replace(
        "    costs =", "    calls.append(1)\n    if len(calls) == 5:\n        return {}[rows]\n    costs ="
    )
    file.write_text(broken)
    launch = ["launch", f"study={examples / 'mine'}", *SIZE, f"data.path={few_tickets}", "search.trials=2"]
    done = sweeper(home, *launch)
    assert done.returncode == 2, done.stderr
    line = broken.splitlines().index("        return {}[rows]") + 1
    assert f'  File "{file}", line {line}, in misrouting\n    return {{}}[rows]\n' in done.stderr
    assert "TypeError: unhashable type: 'list'" in done.stderr
    assert "sweeper/" not in done.stderr
    seen = view(home, "mine")
    assert seen.counts() == {"WAITING": 2}
    study = optuna.load_study(study_name="mine", storage=home.optuna_url)
    assert [trial.user_attrs.get("crashes") for trial in study.get_trials()] == [None, None]
    [interrupted] = [line for line in json_of(home, "list")["studies"] if line["name"] == "mine"]
    assert "unhashable type" in interrupted["detail"]

    file.write_text(mended)
    done = sweeper(home, *launch)
    assert done.returncode == 0, done.stderr
    assert re.search(r"note: code: was '\w{12}…', is '\w{12}…'\n", done.stdout)
    assert len(re.findall(r"started at step [1-9]", done.stdout)) == 2  # from the checkpoints of then
    [change] = yaml.safe_load(home.study("mine").changes.read_text())[0]["changes"]
    assert change["key"] == "code"
    status = json_of(home, "status", "mine")
    assert status["counts"] == {"COMPLETE": 2}
    assert status["direction"] == "minimize"
    assert status["test"]["winner"]["cost_se"] > 0

    file.write_text(mended.replace("5.0", "6.0"))
    done = sweeper(home, *launch, "search.trials=3")
    assert done.returncode == 2
    assert re.search(r"code: was '\w{12}…', is '\w{12}…'; what it scores would not be comparable", done.stderr)
    assert "study.name=NEW starts another" in done.stderr
    assert view(home, "mine").counts() == {"COMPLETE": 2}


def test_a_task_is_exported_with_its_code(examples: Path, home: Home, few_tickets: Path, tmp_path: Path) -> None:
    overrides = [*SIZE, f"data.path={few_tickets}", "search.trials=1", "task.max_new_tokens=6", "evaluation.rows=6"]
    done = sweeper(home, "launch", f"study={examples / 'slots'}", *overrides)
    assert done.returncode == 0, done.stderr
    assert set(json_of(home, "best", "slots", "--force")["test"]["winner"]) == {"filled"}
    shutil.rmtree(examples / "slots")
    out = tmp_path / "out"
    done = sweeper(home, "export", "slots", "--to", str(out), "--force")
    assert done.returncode == 0, done.stderr
    assert f"try it: sweeper predict {out} --trust-code < ROWS.jsonl" in done.stdout
    assert (out / "code/slot_filling.py").is_file()
    row = json.dumps({"text": "where is my parcel", "number": 7})  # there is no answer in it
    with pytest.raises(ExportError, match=r"slot_filling\.Slots of .*out/code is needed .* say --trust-code"):
        Predictor.load(out, home)
    done = sweeper(home, "predict", str(out), "--trust-code", stdin=row)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["number"], type(answer["prediction"])) == (7, str)
    (out / "code/slot_filling.py").write_text("raise SystemExit")
    with pytest.raises(ExportError, match=r"changed: code/slot_filling\.py"):
        Predictor.load(out, home, trusts_code=True)


def test_what_is_wrong_with_code_is_said_in_a_moment(examples: Path, home: Home, few_tickets: Path) -> None:
    (examples / "mine/scoring.py").write_text("import nowhere\n")
    started = time.monotonic()
    done = sweeper(home, "launch", f"study={examples / 'mine'}", *SIZE, f"data.path={few_tickets}")
    assert done.returncode == 2
    assert f'File "{examples}/mine/scoring.py", line 1, in <module>' in done.stderr
    assert "No module named 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not home.study("mine").outcome(0).exists()  # no worker was started
    assert time.monotonic() - started < 60
