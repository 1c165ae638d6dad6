"""`sweeper export` of a study that was trained: what is written, what is said of it, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from click.testing import CliRunner, Result
from filelock import FileLock
from mlflow import MlflowClient
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sweeper.cli import export as cli_export
from sweeper.cli.main import main
from sweeper.config import check, compose
from sweeper.config.schema import Config
from sweeper.exporting import export as exporting
from sweeper.exporting import merged as merging
from sweeper.exporting.manifest import MANIFEST, PREDICTIONS, sha256
from sweeper.housekeeping import whole
from sweeper.mistakes import kept
from sweeper.paths import TEST, Home, StudyPaths
from sweeper.tracking.mlflow_runs import NUMBER_TAG
from sweeper.tracking.opened import opened
from sweeper.worker.session import Session
from tests.conftest import SHORT, share_formulas

ITEMS = 6  # of each kind, of the bundled retention suite


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, few_tickets: Path, formulas: Path, migrated: Path) -> StudyPaths:
    """A finished study of two trials, with a small retention suite."""
    folder = tmp_path_factory.mktemp("exported")
    home = Home(folder / "store")
    home.create()
    share_formulas(formulas, home.memory)
    shutil.copy(migrated, home.mlflow_file)
    overrides = [*SHORT, f"data.path={few_tickets}", "search.trials=2", "train.examples=64", f"store.home={home.root}"]
    for kind in ("choices", "passages"):
        lines = (resources.files("sweeper.retention") / "bundled" / f"{kind}.jsonl").read_text().splitlines(True)
        (folder / f"{kind}.jsonl").write_text("".join(lines[:ITEMS]))
        overrides.append(f"retention.{kind}={folder / kind}.jsonl")
    configs: list[Config] = []
    compose.main(
        [*overrides, "retention.sample=2", "retention.max_rise=100", "retention.max_drop=1", "pruner=none"],
        configs.append,
    )
    paths = home.study("demo")
    paths.create()
    check.save(configs[0], paths)
    assert Session(paths, opened(paths, configs[0]), lambda: False).run()["status"] == "finished"
    share_formulas(home.memory, formulas)
    return paths


@pytest.fixture
def study(trained: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyPaths]:
    monkeypatch.setenv("SWEEPER_HOME", str(trained.home.root))
    return trained


def command(*arguments: str, code: int = 0) -> Result:
    # Trained for seconds, the winner is nothing to use.
    arguments += ("--force",) if arguments[0] == "export" else ()
    done = CliRunner().invoke(main, [*arguments], env={"COLUMNS": "120"})
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def exported(folder: Path, *arguments: str) -> dict[str, Any]:
    """Exports, and checks what holds of every export."""
    command("export", "demo", "--to", str(folder), *arguments)
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert names == {MANIFEST, *manifest["sha256"]}
    for name, digest in manifest["sha256"].items():
        assert sha256(folder / name) == digest
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o644
    assert "store" not in (folder / "README.md").read_text()  # no folder of this machine
    return manifest


@pytest.fixture(scope="module")
def adapter(trained: StudyPaths, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("out") / "adapter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_HOME", str(trained.home.root))
        return folder, exported(folder)


def test_the_winner_is_scored_as_it_is_handed_over(study: StudyPaths, adapter: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = adapter
    found = manifest["parity"]
    test = json.loads(command("status", "demo", "--json").stdout)["test"]
    assert manifest["trial"] == test["trial"]
    assert (found["holds"], found["split"], found["rows"]) == (True, "test", test["rows"])
    assert found["recorded"] == pytest.approx(test["winner"]["accuracy"])
    assert found["moved"] < 0.01
    assert found["retention"]["recorded"] is not None
    assert found["retention"]["drop"] == pytest.approx(found["retention"]["recorded"], abs=0.01)
    assert [way["rows"] for way in found["served"]] == [test["rows"]] * 2
    recorded = kept.read(study.predictions(manifest["trial"], TEST))
    answers = kept.read(folder / PREDICTIONS)
    assert [one.sha256 for one in answers] == [one.sha256 for one in recorded]
    assert sum(a.prediction == b.prediction for a, b in zip(answers, recorded, strict=True)) == found["same"]
    assert manifest["reproduce"].startswith("sweeper launch study=demo")
    assert str(study.home.root) not in manifest["reproduce"]
    weights = load_file(folder / "adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in weights.values()} == {manifest["lora"]["rank"]}


def test_the_card_says_what_it_is(adapter: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = adapter
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    known = yaml.safe_load(head)
    assert (known["library_name"], known["license"]) == ("peft", "apache-2.0")
    [result] = known["model-index"][0]["results"]
    assert {one["type"]: one["value"] for one in result["metrics"]}["accuracy"] == pytest.approx(
        manifest["scores"]["test"]["accuracy"], abs=1e-4
    )
    for words in (
        f"Trial {manifest['trial']} of 2",
        "untuned 4-bit base",
        "95 % interval",
        "Retention in full",
        "GiB at the peak",
        "over the base in 16 bits",
        "vllm serve",
        "--enable-lora",
        "ollama create",
        "The search space",
        "What it cost",
        "sha256 of the rows",
        manifest["reproduce"],
        "Pass on the licence",
    ):
        assert words in text, words
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_the_code_of_the_card_answers(adapter: tuple[Path, dict[str, Any]]) -> None:
    folder = adapter[0]
    text = (folder / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace('folder = "DIR"', f"folder = {str(folder)!r}")
    assert "PeftModel" in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("form", ["merged", "merged-4bit"])
def test_a_whole_model_answers_as_its_adapter(study: StudyPaths, tmp_path: Path, form: str) -> None:
    folder = tmp_path / form
    manifest = exported(folder, "--format", form)
    found = manifest["parity"]
    assert found["holds"]
    assert found["same"] > found["rows"] * 0.8
    assert not (folder / "adapter_model.safetensors").exists()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert hasattr(model.config, "quantization_config") is (form == "merged-4bit")
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]
    assert command("predict", str(folder), "where is my parcel").output.strip() in manifest["labels"]
    runs = MlflowClient(tracking_uri=study.home.mlflow_url)
    experiment = runs.get_experiment_by_name("demo").experiment_id
    [run] = runs.search_runs([experiment], filter_string=f"tags.`{NUMBER_TAG}` = '{manifest['trial']}'")
    assert run.data.metrics[f"export/{form}/accuracy"] == pytest.approx(found["exported"])


def test_it_is_registered_once_and_goes_with_its_study(
    study: StudyPaths, adapter: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri=study.home.mlflow_url)
    version = client.get_model_version_by_alias("demo", "champion")
    assert f"Trial {adapter[1]['trial']} of demo: accuracy" in version.description
    assert version.tags["sweeper.trial"] == str(adapter[1]["trial"])
    assert client.get_run(version.run_id).data.metrics["export/adapter/accuracy"] == adapter[1]["parity"]["exported"]
    again = command("export", "demo", "--to", str(tmp_path / "again"))
    assert "models:/demo@champion is version 1" in again.output
    assert len(client.search_model_versions("name = 'demo'")) == 1
    other = command("export", "demo", "--to", str(tmp_path / "other"), "--trial", str(1 - adapter[1]["trial"]))
    assert "it is not the winner; --register-as NAME" in other.output

    client.set_registered_model_tag("demo", "sweeper.study_id", "another")  # as if somebody else had made it
    foreign = command("export", "demo", "--to", str(tmp_path / "foreign"))
    assert "the registered model 'demo' is not this study's" in foreign.output
    named = command("export", "demo", "--to", str(tmp_path / "named"), "--register-as", "demo")
    assert "models:/demo@champion is version 1" in named.output

    moved = Home(shutil.copytree(study.home.root, tmp_path / "copy"))
    whole.delete_whole(moved, "demo", lambda _: None)
    left = MlflowClient(tracking_uri=moved.mlflow_url)
    assert left.search_registered_models() == []
    assert len(client.search_registered_models()) == 1


def test_the_champion_predicts_without_sweeper(
    study: StudyPaths, adapter: tuple[Path, dict[str, Any]], few_tickets: Path, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri=study.home.mlflow_url)
    version = client.get_model_version_by_alias("demo", "champion")
    [model] = (study.home.artifacts / "demo" / version.run_id / "artifacts" / "champion").iterdir()
    assert version.source.endswith(f"/champion/{model.name}")
    assert not list(model.rglob("*.pkl"))
    assert not list(model.rglob("model*.safetensors"))  # the adapter alone
    rows = [json.loads(line) for line in (few_tickets / "test.jsonl").read_text().splitlines()]
    (tmp_path / "rows.json").write_text(json.dumps([{"text": row["text"]} for row in rows]))
    script = (
        "import json, mlflow, sys\n"
        f"model = mlflow.pyfunc.load_model({str(model)!r})\n"
        "rows = json.load(open('rows.json'))\n"
        "found = model.predict(rows)\n"
        "alone = model.predict([rows[0]['text']]) if model.metadata.signature is None else found[:1]\n"
        "assert list(alone['prediction']) == list(found['prediction'][:1])\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'sweeper']\n"
        "json.dump(list(found['prediction']), open('answers.json', 'w'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads((tmp_path / "answers.json").read_text())
    by_row = {one.row: one.prediction for one in kept.read(adapter[0] / PREDICTIONS)}
    assert answers == [by_row[f"test.jsonl:{number}"] for number in range(1, len(rows) + 1)]


def test_a_server_that_is_away_does_not_undo_an_export(
    study: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = command("export", "demo", "--to", str(tmp_path / "out"), "--json").output
    assert "warning: not in MLflow:" in said
    assert '"model_version": null' in said
    assert (tmp_path / "out" / MANIFEST).is_file()


def test_what_is_asked_in_vain_is_said(study: StudyPaths, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert "give one of them" in command("export", "demo", "--to", out, "--trial", "0", "--metric", "x", code=2).output
    assert "--device must be auto" in command("export", "demo", "--to", out, "--device", "tpu", code=2).output
    said = command("export", "demo", "--to", out, "--no-parity", "--register-as", "mine").output
    assert "not registered as a champion: it was not scored (--no-parity)" in said


def test_the_card_does_not_say_where_it_ran(study: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Home(shutil.copytree(study.home.root, tmp_path / "copy"))
    monkeypatch.setenv("SWEEPER_HOME", str(moved.root))
    config = moved.study("demo").config
    text = config.read_text().replace("on_finish: null", "on_finish: /home/me/bin/off.sh")
    config.write_text(text.replace("mirror: null", "mirror: file:///home/me/backup"))
    assert "/home/me/backup" in config.read_text()
    assert "/home/me/bin" in config.read_text()
    exported(tmp_path / "out", "--no-parity")
    for name in ("README.md", MANIFEST):
        assert "/home/me" not in (tmp_path / "out" / name).read_text()


def test_what_does_not_answer_as_its_trial_is_not_written(
    study: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporting.write_tokenizer

    def other(folder: Path, *arguments: Any) -> Any:
        chat = write(folder, *arguments)
        file = folder / "chat_template.jinja"
        file.write_text("Hello. " + file.read_text())
        return chat

    monkeypatch.setattr(exporting, "write_tokenizer", other)
    said = command("export", "demo", "--to", str(tmp_path / "out"), code=2).output
    assert "prompts have other tokens than in training" in said
    assert "--allow-drop writes it all the same" in said
    assert list(tmp_path.iterdir()) == []
    said = command("export", "demo", "--to", str(tmp_path / "out"), "--allow-drop").output
    assert "not registered as a champion: it does not answer as its trial did" in said
    assert (
        "It does not answer as its trial did, and was exported all the same" in (tmp_path / "out/README.md").read_text()
    )


def test_a_merged_weight_that_is_damaged_is_refused(
    study: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = merging.write

    def damaged(folder: Path, *arguments: Any) -> Any:
        digests = write(folder, *arguments)
        file = folder / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        return digests

    monkeypatch.setattr(merging, "write", damaged)
    said = command("export", "demo", "--to", str(tmp_path / "out"), "--format", "merged", code=2).output
    assert "weights are not what was exported, the first of them" in said
    assert list(tmp_path.iterdir()) == []


def test_a_running_study_keeps_its_device(study: StudyPaths, tmp_path: Path) -> None:
    with FileLock(study.work_lock):
        said = command("export", "demo", "--to", str(tmp_path / "out"), code=2).output
        assert "demo" in said
        assert list(tmp_path.iterdir()) == []
        manifest = exported(tmp_path / "out", "--no-parity")
    assert manifest["parity"] is None
    assert "exported without being scored" in (tmp_path / "out" / "README.md").read_text()


def test_rows_that_changed_are_said(
    study: StudyPaths, few_tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Home(shutil.copytree(study.home.root, tmp_path / "copy"))
    monkeypatch.setenv("SWEEPER_HOME", str(moved.root))
    data = shutil.copytree(few_tickets, tmp_path / "data")
    config = moved.study("demo").config
    config.write_text(config.read_text().replace(str(few_tickets), str(data)))
    lines = (data / "test.jsonl").read_text().splitlines(True)
    row = json.loads(lines[0])
    (data / "test.jsonl").write_text(json.dumps({**row, "text": "another text"}) + "\n" + "".join(lines[1:]))
    said = command("export", "demo", "--to", str(tmp_path / "out"), code=2).output
    assert "--no-parity exports without the check" in " ".join(said.split())


def test_another_metric_chooses_another_trial(study: StudyPaths, tmp_path: Path) -> None:
    said = command("export", "demo", "--to", str(tmp_path / "x"), "--metric", "beauty", code=2).output
    assert "accuracy" in said
    assert "macro_f1" in said
    folder = tmp_path / "out"
    manifest = exported(folder, "--metric", "retention/perplexity", "--no-parity")
    trials = json.loads(command("status", "demo", "--json").stdout)["trials"]
    values = {one["number"]: one["metrics"]["retention/perplexity"] for one in trials}
    assert manifest["trial"] == min(values, key=lambda number: values[number])


def test_gguf_needs_the_converter(study: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = command("export", "demo", "--to", str(tmp_path / "out"), "--format", "gguf", code=2).output
    assert "needs llama.cpp's converter" in said
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text(
        f"#!{sys.executable}\n"
        "import sys, pathlib\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "assert (folder / 'tokenizer.json').is_file() and list(folder.glob('model*.safetensors'))\n"
        "pathlib.Path(sys.argv[sys.argv.index('--outfile') + 1]).write_bytes(b'GGUF')\n"
    )
    converter.chmod(0o755)
    manifest = exported(tmp_path / "out", "--format", "gguf", "--no-parity")
    assert (tmp_path / "out" / "demo.gguf").read_bytes() == b"GGUF"
    assert manifest["format"] == "gguf"
    converter.write_text(f"#!{sys.executable}\nprint('no such architecture')\nraise SystemExit(3)\n")
    said = command("export", "demo", "--to", str(tmp_path / "no"), "--format", "gguf", "--no-parity", code=2).output
    assert "ended with 3" in said
    assert "no such architecture" in said
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_stopped_leaves_the_old_one(
    study: StudyPaths, adapter: tuple[Path, dict[str, Any]], tmp_path: Path, ends: signal.Signals
) -> None:
    folder = Path(shutil.copytree(adapter[0], tmp_path / "out"))
    before = (folder / MANIFEST).read_bytes()
    command_line = [sys.executable, "-m", "sweeper", "export", "demo", "--to", str(folder), "--force"]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert "scoring the export" in process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        for one in [process, *(children if ends is signal.SIGINT else [])]:  # Ctrl-C reaches all
            one.send_signal(ends)
        assert process.wait(30) != 0
    psutil.wait_procs(children, timeout=60)
    assert (folder / MANIFEST).read_bytes() == before
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["out"] if ends is signal.SIGINT else len(left) == 2
    command("export", "demo", "--to", str(folder), "--no-parity")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (folder / MANIFEST).read_bytes() != before


def test_the_folder_is_named_as_it_was_written(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cli_export, "export_trial", lambda *_: {})
    monkeypatch.setattr(cli_export, "_record", lambda *_: None)
    asked = dict.fromkeys(("number", "metric", "form", "force", "skips_parity", "allows_drop"))
    cli_export.run(home, "demo", Path("~/out"), as_json=True, asked={**asked, "device": "cpu"})
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "out")
