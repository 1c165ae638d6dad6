"""`sweeper ui --optuna`: optuna-dashboard on the same storage as the search, bound to this machine."""

from __future__ import annotations

import importlib.util
import os
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from sweeper.cli.local_server import HOST, LocalServer, browse
from sweeper.errors import StoreError, unknown
from sweeper.paths import Home
from sweeper.search.storage import open_storage


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
    # It opens the storage by itself: an address may have a password in it, and everybody can read a command line.
    command = [sys.executable, "-m", "sweeper.cli.dashboard", str(port)]
    environment = {**os.environ, "SWEEPER_HOME": str(home.root)}
    return LocalServer("optuna-dashboard", port, command, environment, "/api/studies")


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


class _Server(ThreadingMixIn, WSGIServer):
    """A page asks for several things at once."""

    daemon_threads = True


def main(port: int) -> None:
    """Serves the dashboard on the store that SWEEPER_HOME names."""
    import optuna_dashboard

    application = optuna_dashboard.wsgi(open_storage(Home.from_environment()))
    make_server(HOST, port, application, server_class=_Server).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
