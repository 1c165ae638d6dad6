"""The exported winner as the champion of a registered model in MLflow: its code and the adapter, without the base."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweeper.config import check
from sweeper.export.manifest import PREDICTIONS
from sweeper.paths import Home
from sweeper.tracking.afterwards import run_of

NEEDS = ("mlflow", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "jinja2", "pandas")
CODE, FRESH = (Path(__file__).with_name(name) for name in ("champion_model.py", "fresh.py"))
ANSWERS = "exported_answers.py"  # what the model's code calls `fresh.py`


def register(
    home: Home, folder: Path, manifest: dict[str, Any], name: str | None, announce: Callable[[str], None]
) -> str | None:
    """Makes an exported adapter the champion of a registered model, and logs what its check found on the trial's run.

    Args:
        folder: as it was exported.
        name: of the model; None: the study's.

    Returns:
        The version; None where the trial has no run to be linked to, which is said.

    Raises:
        TrackingError: if a server cannot be reached, or refuses.
    """
    paths, number = home.study(str(manifest["study"])), int(manifest["trial"])
    found = run_of(paths, check.load(paths), number, announce)
    if found is None:
        return None
    tracker, key = found
    name = name or paths.name
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "champion"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # MLflow's, of its own type hints and of what is not needed
            _save(model, folder, manifest)
        tags = {
            "sweeper.trial": str(number),
            "sweeper.adapter_sha256": manifest["sha256"]["adapter_model.safetensors"],
            "sweeper.data_sha256": str(manifest["data_sha256"]),
        }
        number_of = tracker.register(key, model, name, tags)
    announce(f"registered: models:/{name}@champion is version {number_of}, trial {number}")
    return number_of


def _save(model: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the model: models-from-code, so that nothing of it is a pickle."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = manifest["columns"]
    asked = [columns[name] for name in ("text", "prompt", "code", "context", "question") if columns[name] is not None]
    # A template may read more columns, of which the types are not known; and messages are lists.
    is_simple = bool(asked) and columns["messages"] is None and _reads_text_alone(str(manifest["prompt"]["template"]))
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", name) for name in asked]),
        outputs=Schema([ColSpec("string", "prediction"), ColSpec("double", "probability")]),
    )
    with tempfile.TemporaryDirectory() as temporary:
        code, exported = Path(temporary) / ANSWERS, Path(temporary) / "export"
        shutil.copyfile(FRESH, code)
        shutil.copytree(folder, exported, ignore=shutil.ignore_patterns(PREDICTIONS, "inference.json"))
        mlflow.pyfunc.save_model(
            path=str(model),
            python_model=str(CODE),
            code_paths=[str(code)],
            artifacts={"export": str(exported)},
            pip_requirements=[f"{need}=={version(need).partition('+')[0]}" for need in NEEDS],
            signature=signature if is_simple else None,
        )


def _reads_text_alone(template: str) -> bool:
    from sweeper.data.template import columns_read

    return not columns_read(template)
