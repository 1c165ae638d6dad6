"""`sweeper serve`: an export answers the official client as the study scored it, and nothing is left behind."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import torch
import uvicorn
from click.testing import CliRunner, Result
from openai import OpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sweeper.cli.main import main
from sweeper.config import check
from sweeper.config.schema import ModelSection
from sweeper.data import rows
from sweeper.exporting import export as exporting
from sweeper.exporting.manifest import MANIFEST, read_manifest
from sweeper.exporting.predict import Predictor
from sweeper.exporting.serving_commands import request
from sweeper.models import base, origin
from sweeper.paths import Home, StudyPaths
from sweeper.serving.loaded import load
from sweeper.serving.openai_server import application
from tests.cli.serving import free_port

# Stands in for vLLM: writes down how it was called, answers at /health, and has a process of its own, as vLLM has.
STAND_IN = """#!{python}
import http.server, json, subprocess, sys
json.dump(sys.argv[1:], open({file!r}, "w"))
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""


@pytest.fixture(scope="module")
def exported(trained: StudyPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "adapter"
    wanted = exporting.Wanted(force=True, has_parity=False)
    exporting.export(trained.home, "demo", folder, wanted, lambda _: None)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: StudyPaths) -> Path:
    """A copy to break."""
    monkeypatch.setenv("SWEEPER_HOME", str(trained.home.root))
    return Path(shutil.copytree(exported, tmp_path / "adapter"))


@pytest.fixture
def texts(trained: StudyPaths) -> list[str]:
    """Of rows of the test split."""
    config = check.load(trained)
    return [row.text for row in rows.of(config, trained.splits, None).test[:6]]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `vllm` on PATH; the file that it writes its arguments to."""
    file, program = tmp_path / "arguments.json", tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, file=str(file)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return file


def changed(folder: Path, **values: Any) -> dict[str, Any]:
    """Writes other values into the manifest, which no hash covers; a value that is a mapping is joined to its own."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for key, value in values.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return read_manifest(folder)


def command(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["serve", *arguments])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def _runs(process: psutil.Process) -> bool:
    """Whether it runs: one that has ended may wait for init to notice."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def serving(*arguments: str, ends: signal.Signals = signal.SIGINT) -> Iterator[tuple[int, str]]:
    """The port and what `sweeper serve` says, while it serves; then nothing of it is left."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "serve", "--port", str(port), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    started: list[psutil.Process] = []
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("curl"):
                break
        else:
            raise AssertionError(f"it was never ready, but said {said}")
        started = psutil.Process(process.pid).children(recursive=True)
        assert started
        yield port, said
    finally:
        process.send_signal(ends)
        code = process.wait(30)
        process.stdout.close()
    assert code == 0
    assert not [one for one in started if _runs(one)]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port))


@contextmanager
def answering(folder: Path, home: Home) -> Iterator[OpenAI]:
    """A client of the same server in this process."""
    manifest, port = read_manifest(folder), free_port()
    app = application(load(folder, manifest, home), manifest["study"])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)


def answer(client: OpenAI, manifest: dict[str, Any], text: str, **changes: Any) -> str | None:
    """What is answered to a text, asked as the snippets ask."""
    system = manifest["prompt"]["system"]
    messages = [{"role": "system", "content": system}] if system else []
    message = manifest["prompt"]["template"].replace("{{ text }}", text)
    body = request(manifest, manifest["study"], [*messages, {"role": "user", "content": message}])
    extra = {key: body.pop(key) for key in ("structured_outputs",) if key in body}
    return client.chat.completions.create(**{**body, "extra_body": extra, **changes}).choices[0].message.content


def test_the_client_gets_what_the_study_predicts(folder: Path, texts: list[str], trained: StudyPaths) -> None:
    manifest = read_manifest(folder)
    with serving(str(folder)) as (port, said):
        assert f"trial 0 of demo answers at http://127.0.0.1:{port}/v1" in said
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["demo"]
            answers = [answer(client, manifest, text) for text in texts]
            with pytest.raises(openai.BadRequestError) as refused:
                answer(client, manifest, texts[0], model="gpt2")
            assert "Server is pinned to 'demo'" in str(refused.value.body)
        snippet = said[said.index("from openai") : said.index("\ncurl")]
        ran = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60, check=True)
        assert ran.stdout.strip() in manifest["labels"]
        _, _, url, _, header, _, body = shlex.split(said[said.index("\ncurl") :])
        asked = urllib.request.Request(url, body.encode(), dict([header.split(": ")]))
        with urllib.request.urlopen(asked, timeout=30) as got:
            assert json.load(got)["choices"][0]["message"]["content"] == ran.stdout.strip()
    predicted = Predictor.load(folder, trained.home).predict([{"text": text} for text in texts])
    assert answers == predicted


def test_an_answer_is_one_of_the_choices_and_streams(folder: Path, texts: list[str], trained: StudyPaths) -> None:
    manifest = read_manifest(folder)
    with answering(folder, trained.home) as client:
        only = {"structured_outputs": {"choice": ["app crash at night", "how"]}}
        assert answer(client, manifest, texts[0], extra_body=only) in {"app crash at night", "how"}
        streamed = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": texts[0]}], stream=True, extra_body=only
        )
        whole = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
        assert whole == answer(client, manifest, texts[0], extra_body=only)
        for wrong in ({"json": {}}, {"choice": []}, {"choice": "how to"}, {"choice": ["a"], "regex": "a"}, []):
            with pytest.raises(openai.UnprocessableEntityError) as refused:
                answer(client, manifest, texts[0], extra_body={"structured_outputs": wrong})
            assert "this server knows no other kind" in str(refused.value.body)
        for path in ("/load_model", "/reset", "/docs"):  # nothing that loads, unloads, or is loaded from elsewhere
            with pytest.raises(openai.NotFoundError):
                client.post(str(client.base_url).replace("/v1/", path), cast_to=object, body={"model": "gpt2"})


def test_written_answers_are_those_of_predict(folder: Path, texts: list[str], trained: StudyPaths) -> None:
    columns = {"text": None, "label": None, "prompt": "question", "answer": "answer"}
    prompt = {"template": "Answer:\n{{ text }}", "system": "Be brief."}
    task = {"name": "generation", "max_new_tokens": 5}
    manifest = changed(folder, labels=[], task=task, columns=columns, prompt=prompt)
    predicted = Predictor.load(folder, trained.home).predict([{"question": text} for text in texts])
    with answering(folder, trained.home) as client:
        assert [answer(client, manifest, text) for text in texts] == predicted
        for temperature in (openai.NOT_GIVEN, 1.5):  # greedy whatever it is
            assert answer(client, manifest, texts[0], temperature=temperature) == predicted[0]


@pytest.mark.parametrize("kind", ["merged", "merged-4bit"])
def test_a_whole_model_is_served_without_its_base(
    folder: Path, texts: list[str], trained: StudyPaths, kind: str
) -> None:
    weights = json.loads((folder / exporting.CONFIG).read_text())["base_model_name_or_path"]
    model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    for name in (exporting.CONFIG, "adapter_model.safetensors"):
        (folder / name).unlink()
    model.save_pretrained(folder)
    if kind == "merged-4bit":
        quantised: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, quantization_config=base.quantization(torch.float32), device_map={"": "cpu"}
        )
        base.guard(quantised)
        quantised.save_pretrained(folder)
    sha256 = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.name != MANIFEST
    }
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest |= {"format": kind, "sha256": sha256, "base": None, "model": {**manifest["model"], "path": "/gone"}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert "openai_server" in command(str(folder), "--engine", "transformers", "--print").output
    loaded = load(folder, manifest, trained.home)
    assert bool(getattr(loaded.model.config, "quantization_config", None)) == (kind == "merged-4bit")
    with answering(folder, trained.home) as client:
        assert answer(client, manifest, texts[0]) in manifest["labels"]
    said = shlex.split(command(str(folder), "--engine", "vllm", "--print").output)
    assert said[:5] == ["vllm", "serve", str(folder), "--served-model-name", "demo"]
    assert "--enable-lora" not in said


def test_vllm_is_started_where_it_is_installed(folder: Path, stand_in: Path) -> None:
    arguments = ("--name", "tickets", "--host", "127.0.0.1")
    with serving(str(folder), *arguments, "--", "--max-model-len", "512", ends=signal.SIGTERM) as (port, said):
        told = json.loads(stand_in.read_text())
        assert "as model tickets" in said
    source = json.loads((folder / exporting.CONFIG).read_text())["base_model_name_or_path"]
    assert told[:4] == ["serve", source, "--tokenizer", str(folder)]
    assert f"tickets={folder}" in told
    assert told[-6:] == ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "512"]
    stand_in.unlink()
    shown = command(str(folder), "--print").output
    assert shlex.split(shown)[1:3] == told[:2]
    assert not stand_in.exists()


def test_another_address_is_warned_of(folder: Path, stand_in: Path) -> None:
    with socket.socket() as other:  # so that it ends before it listens
        port = free_port()
        other.bind(("127.0.0.1", port))
        other.listen()
        said = command(str(folder), "--host", "0.0.0.0", "--port", str(port), code=2).output
        assert "warning: there is no authentication" in said
        assert f"port {port} must be free" in said
        assert f"--port {port + 1}" in said
        assert "no authentication" not in command(str(folder), "--port", str(port), code=2).output
    assert "--host must be an address of this machine" in command(str(folder), "--host", "192.0.2.1", code=2).output


def test_what_cannot_be_served_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> str:
        return command(str(folder), *arguments, code=2).output

    assert "an exported folder has a readable sweeper.json" in command(str(tmp_path), code=2).output
    assert "options behind -- are for vLLM" in refused("--", "--dtype", "auto")
    assert "--name must be letters, digits" in refused("--name", "a=b")
    assert "`pip install vllm`" in refused("--engine", "vllm")
    with (folder / "chat_template.jinja").open("a") as template:
        template.write(" ")
    assert "must be as they were exported, but changed: chat_template.jinja" in refused()
    (folder / "chat_template.jinja").unlink()
    assert "without chat_template.jinja" in refused("--print")
    manifest = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text('{"study": "demo"}')
    assert "sweeper.json lacks trial, model" in refused()
    (folder / MANIFEST).write_text(manifest)
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else real(name))
    assert "needs uvicorn, not installed here: pip install 'sweeper[serve]'" in refused()


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_base_that_is_not_there_is_said(folder: Path, engine: str) -> None:
    changed(folder, model={"path": "/nowhere"})
    said = command(str(folder), "--engine", engine, "--print", code=2).output
    assert "model.path: there is no folder /nowhere" in said
    section = ModelSection.model_validate({**read_manifest(folder)["model"], "path": "bundled:tiny"})
    known = origin.of_files(section, origin.find(section)).as_dict()
    known["files"]["model.safetensors"] = "1 0"
    manifest = read_manifest(folder) | {"model": section.model_dump(mode="json"), "base": known}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    said = command(str(folder), "--engine", engine, "--print", code=2).output
    assert "the base must be the one that the study was begun with" in said


def test_a_server_that_does_not_start_says_why(folder: Path) -> None:
    changed(folder, model={"path": "org/no-such-base", "gguf_package": None}, base=None)
    said = command(str(folder), "--engine", "transformers", "--port", str(free_port()), code=2).output
    assert "transformers' server must run until Ctrl-C, but has ended with 2" in said
    assert "model.path: 'org/no-such-base' could not be loaded" in said
