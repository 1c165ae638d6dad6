"""The merged model as a GGUF file, by llama.cpp's own converter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from sweeper.errors import ExportError

CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf", "convert_hf_to_gguf")
_SHOWN = 10  # last lines of a converter that failed


def converter() -> str:
    """llama.cpp's converter.

    Raises:
        ExportError: if it is not on the PATH.
    """
    found = next((place for name in CONVERTERS if (place := shutil.which(name)) is not None), None)
    if found is None:
        raise ExportError(
            f"--format gguf: needs llama.cpp's converter, {CONVERTERS[0]}, as an executable on the PATH, but it is not "
            "there. Clone github.com/ggml-org/llama.cpp, install its requirements, and add that folder to the PATH; or "
            "export --format merged, which it converts elsewhere, and which Ollama reads as it is"
        )
    return found


def file_name(study: str) -> str:
    """What the file is called."""
    return f"{study}.gguf"


def convert(converter: str, merged: Path, folder: Path, study: str) -> None:
    """Converts a merged model with its tokenizer, in 16 bits.

    Raises:
        ExportError: if the converter fails; with the end of what it said.
    """
    file = folder / file_name(study)
    done = subprocess.run(
        [converter, str(merged), "--outfile", str(file), "--outtype", "bf16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not file.is_file():
        said = "\n".join(done.stdout.strip().splitlines()[-_SHOWN:])
        raise ExportError(f"{converter} must write {file.name}, but ended with {done.returncode}:\n{said}")
