"""What a shell is told at Tab: as Bash asks, which takes `key=value` for three words, and as the others do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from sweeper.cli.main import main
from sweeper.config import compose
from sweeper.config.groups import GROUPS, option_names
from sweeper.config.keys import fields, known_keys, words
from sweeper.paths import Home
from tests.config.test_compose import STUDIES

Tab = Callable[..., list[str]]


def asked(shell: str, words: str, place: str) -> str:
    """The answer of a press of Tab."""
    environment = {"_SWEEPER_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": place}
    result = CliRunner().invoke(main, [], prog_name="sweeper", env=environment)
    assert result.exit_code == 0, result.output
    return result.output


def bash(*typed: str) -> list[str]:
    """What Bash gets for a command line that is cut into words as Bash does; the last one is completed."""
    answer = asked("bash", "\n".join(("sweeper", *typed)), str(len(typed)))
    return [line.partition(",")[2] for line in answer.splitlines() if line.startswith("plain,")]


def zsh(*typed: str) -> list[str]:
    lines = asked("zsh", " ".join(("sweeper", *typed)), str(len(typed))).splitlines()
    return [value for kind, value in zip(lines[::3], lines[1::3], strict=True) if kind == "plain"]


def fish(*typed: str) -> list[str]:
    lines = asked("fish", " ".join(("sweeper", *typed)), typed[-1]).splitlines()
    return [line.partition(",")[2].partition("\t")[0] for line in lines if line.startswith("plain,")]


@pytest.fixture
def stored(home: Home) -> Home:
    for name in ("demo", "demo-2", "other"):
        home.study(name).root.mkdir(parents=True)
        home.study(name).config.write_text("study: {}\n")
    (home.studies / "no-study").mkdir()
    return home


def test_commands_and_options_are_clicks_own() -> None:
    assert bash("comp") == ["compare", "completion"]
    assert "--follow" in bash("status", "--f")
    assert bash("export", "demo", "--form")[0] == "--format"


@pytest.mark.parametrize(
    "command",
    [
        *(
            "status",
            "best",
            "cost",
            "errors",
            "compare",
            "interaction",
            "report",
            "pictures",
            "export",
            "rerun",
            "stop",
        ),
        *("learning-curve", "worker", "sync", "clean", "ui", "doctor", "price-inference"),
    ],
)
def test_studies_of_the_store(command: str, stored: Home) -> None:
    assert bash(command, "dem") == ["demo", "demo-2"]


def test_a_study_is_not_offered_twice(stored: Home) -> None:
    assert bash("clean", "demo", "") == ["demo-2", "other"]


def test_no_store_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "none"))
    assert bash("status", "") == []


@pytest.mark.parametrize("command", [["launch"], ["plan"], ["data", "check"], ["doctor"]])
def test_groups_keys_and_their_values(command: list[str], stored: Home) -> None:
    assert bash(*command, "sampl") == ["sampler=", "sampler."]
    assert bash(*command, "search.tri") == ["search.trials="]
    assert bash(*command, "study=demo", "sampler", "=") == option_names("sampler")
    assert bash(*command, "sampler", "=", "qm") == ["qmc"]
    assert zsh(*command, "sampler=qm") == fish(*command, "sampler=qm") == ["sampler=qmc"]
    assert zsh(*command, "study", "=", "search.duplicates=t") == ["search.duplicates=train"]


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "study"])
def test_each_option_of_a_group_that_is_offered_composes(group: str) -> None:
    offered = bash("launch", group, "=", "")
    assert offered == option_names(group)
    for option in offered:
        assert compose.values_of(["study=demo", f"{group}={option}"])


def test_studies_that_a_launch_can_be_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bash("launch", "study", "=") == STUDIES
    drafted = tmp_path / "studies" / "mine"
    drafted.mkdir(parents=True)
    (drafted / "config.yaml").touch()
    assert bash("launch", "study", "=", "stud") == ["studies/mine"]
    assert asked("bash", "sweeper\nlaunch\nstudy\n=\n./m", "4") == "dir,./m\n"


def test_every_key_can_be_reached() -> None:
    known = known_keys()
    leaves = {f"{key}=" for key in known if not any(other.startswith(f"{key}.") for other in known)}
    tops = bash("launch", "")
    reached = {key for top in tops for key in (bash("launch", top) if top.endswith(".") else [top])}
    assert leaves - {"search.space="} <= reached
    assert "search.space.rank=" in reached
    assert {f"{group}=" for group in GROUPS} <= set(tops)


def test_what_hydra_marks_keeps_its_mark() -> None:
    assert bash("launch", "+search.space.ran") == ["+search.space.rank="]
    assert bash("launch", "++retention.stop_wrecked", "=", "f") == ["false"]


def test_flags_of_hydra_and_their_values() -> None:
    assert bash("launch", "--") == ["--json", "--help", "--cfg", "--info", "--config-dir"]
    assert bash("plan", "study", "=", "demo", "--cf") == ["--cfg"]
    assert bash("launch", "--cfg", "") == ["job"]
    assert bash("launch", "--info", "search") == ["searchpath"]
    assert asked("bash", "sweeper\nlaunch\n--config-dir", "3") == "dir,\n"
    assert bash("data", "check", "--js") == ["--json"]


def test_what_is_a_file_is_left_to_the_shell() -> None:
    assert asked("bash", "sweeper\nlaunch\ndata.path\n=\nro", "4") == "file,ro\n"
    assert asked("bash", "sweeper\ndata\ncheck\nrows.cs", "3") == "file,rows.cs\n"
    assert asked("bash", "sweeper\ncompare\nadapters/", "2") == "dir,adapters/\n"
    assert asked("bash", "sweeper\ninit\nrows.cs", "2") == "file,rows.cs\n"


def test_options_that_name_one_of_a_group() -> None:
    assert bash("init", "rows.csv", "--model", "smol") == ["smollm2-135m"]
    assert bash("price-inference", "demo", "--gpu", "rtx-5") == ["rtx-5090"]


def test_values_that_can_be_named() -> None:
    def named(key: str) -> list[str]:
        return words(fields()[key][0])

    assert named("engine.gradient_checkpointing") == ["auto", "true", "false"]
    assert named("model.quant") == ["nf4", "none"]
    assert named("confirm") == ["true", "false"]
    assert named("budget.usd") == ["null"]
    assert named("search.trials") == named("train.seed") == named("lora.rank") == named("search.enqueue") == []


def test_an_answer_takes_no_time() -> None:
    """Nor does the script that a shell reads when it starts."""
    heavy = "('torch', 'mlflow', 'optuna', 'hydra', 'omegaconf', 'rich', 'sqlalchemy', 'transformers')"
    code = (
        "import sys\nfrom sweeper.cli.main import main\n"
        "try: main(sys.argv[1:], prog_name='sweeper')\nexcept SystemExit: pass\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    for arguments, asking in (
        ([], {"_SWEEPER_COMPLETE": "zsh_complete", "COMP_WORDS": "sweeper launch search.t", "COMP_CWORD": "2"}),
        ([], {"_SWEEPER_COMPLETE": "zsh_complete", "COMP_WORDS": "sweeper launch study=", "COMP_CWORD": "2"}),
        (["completion", "zsh"], {}),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env={**os.environ, **asking}, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_SWEEPER_COMPLETE={shell}_complete" in result.stdout
    assert shell == "fish" or "*[=.]" in result.stdout  # what is added to click's; fish does it by itself
    assert f"sweeper completion {shell}" in CliRunner().invoke(main, ["completion", "--help"]).stdout


def test_a_shell_that_is_not_known_is_refused() -> None:
    assert CliRunner().invoke(main, ["completion", "csh"]).exit_code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself(tmp_path: Path, stored: Home) -> None:
    """The script, read by Bash, with the words as Bash cuts them."""
    program = tmp_path / "sweeper"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom sweeper.cli.main import main\nmain(prog_name='sweeper')\n"
    )
    program.chmod(0o755)
    script = """
        eval "$(sweeper completion bash)"
        compopt() { printf 'compopt %s %s\\n' "$@"; }
        tab() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _sweeper_completion sweeper; echo "${COMPREPLY[*]}"
        }
        complete -p sweeper
        tab sweeper status dem
        tab sweeper launch study = de
        tab sweeper launch study = demo search.tri
        tab sweeper launch study = demo model = smol
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _sweeper_completion sweeper",
        "demo demo-2",
        "demo",
        "compopt -o nospace",
        "search.trials=",
        "smollm2-135m",
    ], done.stderr
