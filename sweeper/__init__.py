"""sweeper: the best QLoRA adapter for a task, on the GPU you have, for the dollars you set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sweeper.api import Adapter, Launch, Study, export, launch, list_studies, load_study
    from sweeper.errors import ConfigError, DataError, ExportError, ModelError, StoreError, SweeperError
    from sweeper.search.views import TrialView as Trial

__all__ = [
    "Adapter",
    "ConfigError",
    "DataError",
    "ExportError",
    "Launch",
    "ModelError",
    "StoreError",
    "Study",
    "SweeperError",
    "Trial",
    "__version__",
    "export",
    "launch",
    "list_studies",
    "load_study",
]


def __getattr__(name: str) -> Any:
    """Loads what is asked for: the command line imports this module too, and is to answer at once."""
    if name not in __all__:
        raise AttributeError(f"module 'sweeper' has no attribute {name!r}")
    if name == "Trial":
        return import_module("sweeper.search.views").TrialView
    return getattr(import_module("sweeper.errors" if name.endswith("Error") else "sweeper.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
