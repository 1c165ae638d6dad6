"""`sweeper ui --optuna`: optuna-dashboard on the same storage as the search, bound to this machine."""

from __future__ import annotations

import importlib.util
import os
import sys

from sweeper.cli.local_server import HOST, LocalServer, browse
from sweeper.errors import StoreError, unknown
from sweeper.paths import Home


def optuna_dashboard(home: Home, port: int) -> LocalServer:
    """The dashboard's server.

    Raises:
        StoreError: if the package is not installed.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise StoreError(
            "--optuna needs the package optuna-dashboard, but it is not installed: "
            "pip install 'sweeper[optuna-dashboard]'"
        )
    command = [
        *(sys.executable, "-m", "optuna_dashboard._cli", home.optuna_url),
        *("--host", HOST, "--port", str(port), "--server", "wsgiref"),
    ]
    return LocalServer("optuna-dashboard", port, command, os.environ, "/api/studies")


def serve(home: Home, port: int, study: str | None = None, is_opening: bool = False) -> None:
    """Serves the store's studies until Ctrl-C.

    Args:
        study: which one to show; None: the list.
        is_opening: whether to open a browser.

    Raises:
        StoreError: if there is no store or no such study, or the dashboard is not installed or cannot run.
    """
    if not home.has_optuna:
        raise StoreError(f"there are no studies at {home.root}; launch one there, or set SWEEPER_HOME")
    server = optuna_dashboard(home, port)

    def links() -> dict[str, str]:
        known = {one["study_name"]: one["study_id"] for one in server.get("/api/studies")["study_summaries"]}
        if study is not None and study not in known:
            raise StoreError(f"{unknown('study', study, known)} (store: {home.root})")
        wanted = known if study is None else [study]
        return {name: f"{server.url}/dashboard/studies/{known[name]}" for name in wanted}

    browse(server, home, "/dashboard", links, is_opening)
