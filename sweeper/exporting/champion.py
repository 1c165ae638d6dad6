"""The exported winner as the champion of a registered model in MLflow: its code and the adapter, without the base."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.config import check
from sweeper.exporting.manifest import INFERENCE, PREDICTIONS
from sweeper.paths import Home
from sweeper.tracking.afterwards import run_of
from sweeper.tracking.tracker import RunKey

if TYPE_CHECKING:
    from sweeper.tracking.mlflow_tracker import MlflowTracker

NEEDS = ("mlflow", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "jinja2", "pandas")
CODE, FRESH = (Path(__file__).with_name(name) for name in ("champion_model.py", "fresh.py"))
ANSWERS = "exported_answers.py"  # what the model's code calls `fresh.py`


def record(
    home: Home,
    folder: Path,
    manifest: dict[str, Any],
    name: str | None,
    announce: Callable[[str], None],
    is_named: bool = False,
) -> str | None:
    """Logs what the check of an export found on the trial's run; with a name, makes the export a champion too.

    Args:
        folder: as it was exported.
        name: of the registered model.
        is_named: whether a person named it, so that it may be one that the study did not make.

    Returns:
        The version that is the champion; None where none was made, or the trial has no run, which is said.

    Raises:
        TrackingError: if a server cannot be reached, or refuses.
    """
    paths, number = home.study(str(manifest["study"])), int(manifest["trial"])
    if (found := run_of(paths, check.load(paths), number, announce)) is None:
        return None
    tracker, key = found
    tracker.log(key, metrics(manifest), step=int(manifest["examples"]))
    if name is not None and not is_named and tracker.is_foreign(name):
        announce(
            f"not registered as a champion: the registered model {name!r} is not this study's; --register-as NAME "
            "takes another one, or this one all the same"
        )
        name = None
    version_of = _register(tracker, key, folder, manifest, name) if name is not None else None
    tracker.flush()
    if version_of is not None:
        announce(f"registered: models:/{name}@champion is version {version_of}, trial {number}")
    return version_of


def metrics(manifest: dict[str, Any]) -> dict[str, float]:
    """What the check found, as metrics of the trial's run."""
    found, prefix = manifest["parity"], f"export/{manifest['format']}"
    values = {found["metric"]: found["exported"], "difference": found["difference"], "moved": found["moved"]}
    if found["retention"] is not None:
        values["retention_drop"] = found["retention"]["drop"]
    return {f"{prefix}/{name}": float(value) for name, value in values.items() if value is not None}


def _register(tracker: MlflowTracker, key: RunKey, folder: Path, manifest: dict[str, Any], name: str) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        # Called by its content: an earlier version of the same run keeps its own.
        model = Path(temporary) / manifest["sha256"]["adapter_model.safetensors"][:12]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # MLflow's, of its own type hints and of what is not needed
            _save(model, folder, manifest)
        tags = {
            "sweeper.trial": str(manifest["trial"]),
            "sweeper.adapter_sha256": manifest["sha256"]["adapter_model.safetensors"],
            "sweeper.data_sha256": str(manifest["data_sha256"]),
        }
        found = manifest["parity"]
        description = (
            f"Trial {manifest['trial']} of {manifest['study']}: {found['metric']} {found['exported']:.3f} over "
            f"{found['rows']:,} {found['split']} rows as exported, {found['recorded']:.3f} as recorded"
        )
        return tracker.register(key, model, name, tags, description)


def _save(model: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the model: models-from-code, so that nothing of it is a pickle."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = manifest["columns"]
    asked = [columns[name] for name in ("text", "prompt", "code", "context", "question") if columns[name] is not None]
    # A template may read more columns, of which the types are not known; and messages are lists.
    is_simple = columns["messages"] is None and _reads_text_alone(str(manifest["prompt"]["template"]))
    signature = None
    if is_simple:
        signature = ModelSignature(
            inputs=Schema([ColSpec("string", name) for name in asked]),
            outputs=Schema([ColSpec("string", "prediction"), ColSpec("double", "probability")]),
        )
    with tempfile.TemporaryDirectory() as temporary:
        code, exported = Path(temporary) / ANSWERS, Path(temporary) / "export"
        shutil.copyfile(FRESH, code)
        shutil.copytree(folder, exported, ignore=shutil.ignore_patterns(PREDICTIONS, INFERENCE))
        mlflow.pyfunc.save_model(
            path=str(model),
            python_model=str(CODE),
            code_paths=[str(code)],
            artifacts={"export": str(exported)},
            pip_requirements=[f"{need}=={version(need).partition('+')[0]}" for need in NEEDS],
            signature=signature,
        )


def _reads_text_alone(template: str) -> bool:
    from sweeper.data.template import columns_read

    return not columns_read(template)
