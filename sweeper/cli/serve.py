"""`sweeper serve`: an exported folder behind an OpenAI-compatible address, by vLLM or by transformers' own server."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from sweeper.cli.plainly import plainly
from sweeper.paths import Home

LOOPBACK = ("127.0.0.1", "localhost", "::1")
START_S = 3600.0  # weights may have to be downloaded first, and large ones take minutes to load
_PACKAGES = ("fastapi", "uvicorn", "openai")  # what transformers' server is made of
_NAME = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
Engine = Literal["vllm", "transformers"]


@dataclass(frozen=True)
class Served:
    """What is served, and how.

    Attributes:
        end: the token that ends an answer, where a server would not know it.
    """

    folder: Path
    manifest: Mapping[str, Any]
    name: str
    engine: Engine
    command: list[str]
    end: int | None


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("extra", metavar="[-- VLLM_OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; there is no password.")
@click.option("--name", help="Of the model in requests; otherwise the study's.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "vllm", "transformers"]),
    default="auto",
    show_default=True,
    help="auto: vLLM where it is installed.",
)
@click.option("--trust-code", "trusts_code", is_flag=True, help="Run code that its model's repository has.")
@click.option("--print", "is_printed", is_flag=True, help="Print the command that would be run, and run nothing.")
@plainly
def serve(
    folder: Path,
    extra: tuple[str, ...],
    port: int,
    host: str,
    name: str | None,
    engine: str,
    trusts_code: bool,
    is_printed: bool,
) -> None:
    """Serve an exported folder to OpenAI clients.

    With vLLM where that is installed, otherwise with the server that transformers ships, which answers one request
    after the other. It says when it is ready, and shows a request. Ctrl-C ends it.
    """
    served = _served(folder, name, engine, host, port, list(extra), is_printed, trusts_code)
    if is_printed:
        click.echo(shlex.join(served.command))
        return
    if host not in LOOPBACK:
        click.echo(
            f"warning: there is no authentication: whoever reaches {host}:{port} can ask, and nothing is encrypted",
            err=True,
        )
    _run(served, host, port)


def _served(
    folder: Path,
    name: str | None,
    engine: str,
    host: str,
    port: int,
    extra: list[str],
    is_printed: bool,
    trusts_code: bool,
) -> Served:
    """What is asked for, checked, as a command.

    Raises:
        ExportError: if the folder is no whole export, or the engine is not there or cannot serve it.
        ModelError: if the base is not there, or is another one.
    """
    from sweeper.errors import ExportError
    from sweeper.exporting.manifest import check_files, check_use, read_manifest

    folder = folder.expanduser().absolute()
    manifest = read_manifest(folder)
    check_use(folder, manifest, trusts_code)
    name = name or str(manifest["study"])
    if not re.fullmatch(_NAME, name):
        raise ExportError(f"--name must be letters, digits and . _ / -, but is {name!r}")
    program = _vllm()
    chosen: Engine = "vllm" if engine == "vllm" or (engine == "auto" and program) else "transformers"
    if extra and chosen != "vllm":
        raise ExportError(f"options behind -- are for vLLM, but transformers serves here: {shlex.join(extra)}")
    if not is_printed:
        _check_installed(chosen, program)
    check_files(folder, manifest)
    if chosen == "transformers":
        from sweeper.serving.base import pinned_base

        pinned_base(manifest)
        options = ["--host", host, "--port", str(port), "--name", name]
        command = [sys.executable, "-m", "sweeper.serving.openai_server", str(folder), *options]
        return Served(folder, manifest, name, chosen, command, None)
    command, end = _vllm_command(folder, manifest, name, host, port, program or ["vllm"])
    return Served(folder, manifest, name, chosen, [*command, *extra], end)


def _vllm() -> list[str] | None:
    """What starts vLLM; None where it is not installed."""
    if found := shutil.which("vllm"):
        return [found]
    spec = importlib.util.find_spec("vllm")
    is_there = spec is not None and spec.origin is not None  # a folder of that name has none
    return [sys.executable, "-m", "vllm.entrypoints.cli.main"] if is_there else None


def _vllm_command(
    folder: Path, manifest: dict[str, Any], name: str, host: str, port: int, program: list[str]
) -> tuple[list[str], int | None]:
    """Its command, and the token that ends an answer where vLLM would take another for it."""
    from sweeper.exporting.formats import ADAPTER
    from sweeper.exporting.serving_commands import needs_template, vllm_command
    from sweeper.models.source import source_of
    from sweeper.serving.base import pinned_base
    from sweeper.serving.loaded import load_tokenizer

    base, revision = str(folder), None
    if manifest["format"] == ADAPTER:
        section = pinned_base(manifest)
        base, revision = source_of(section, Home.from_environment()), section.revision
        revision = None if Path(base).is_dir() else revision
    tokenizer, chat = load_tokenizer(folder, manifest)
    command = vllm_command(
        manifest,
        folder,
        base,
        name,
        host=host,
        port=port,
        revision=revision,
        chat_template=tokenizer.chat_template if needs_template(manifest) else None,
        program=program,
    )
    return command, chat.end if chat.end != tokenizer.eos_token_id else None


def _check_installed(engine: Engine, program: list[str] | None) -> None:
    """Raises ExportError where the engine is not installed, saying what to install."""
    from sweeper.errors import ExportError

    if engine == "vllm":
        if program is None:
            raise ExportError(
                "--engine vllm needs vLLM, but it is not installed here: `pip install vllm` in an environment of its "
                "own that is on PATH, on a machine with a GPU; --engine transformers needs none, and --print shows "
                "the command for another machine"
            )
        return
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError(
            f"transformers' server needs {', '.join(missing)}, not installed here: pip install 'sweeper[serve]'"
        )


def _run(served: Served, host: str, port: int) -> None:
    """Serves until Ctrl-C; raises StoreError where the port is taken or the server ends by itself."""
    from sweeper.cli.local_server import LocalServer, until_interrupted
    from sweeper.exporting import serving_commands

    is_vllm = served.engine == "vllm"
    server = LocalServer(
        "vLLM" if is_vllm else "transformers' server",
        port,
        served.command,
        {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"},
        "/health",
        host=host,
        start_s=START_S,
        is_heard=is_vllm,
    )
    with until_interrupted():
        click.echo(f"loading {served.folder} with {server.name}", err=True)
        with server.running() as process:
            url = f"{server.url}/v1"
            click.echo(f"trial {served.manifest['trial']} of {served.manifest['study']} answers at {url}")
            click.echo(f"as model {served.name}; Ctrl-C ends it\n")
            click.echo(serving_commands.python_snippet(served.manifest, url, served.name, served.end) + "\n")
            click.echo(serving_commands.curl_snippet(served.manifest, url, served.name, served.end))
            for note in serving_commands.notes(served.manifest):
                click.echo(f"\n{note}")
            sys.stdout.flush()  # for whoever reads it through a pipe
            process.wait()
