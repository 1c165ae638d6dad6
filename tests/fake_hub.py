"""A Hub on this machine: it serves the folders that it is given as models, by branch and commit."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_" + "TestToken" * 4


@dataclass
class Model:
    """One repository."""

    commits: dict[str, Path]
    branches: dict[str, str]
    is_gated: bool = False
    is_private: bool = False


@dataclass
class FakeHub:
    """What is served, and what was asked for."""

    models: dict[str, Model] = field(default_factory=dict)
    downloads: list[tuple[str, str]] = field(default_factory=list)  # commit and file of each body that was sent
    is_down: bool = False
    url: str = ""

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str], bytes, tuple[str, str] | None]:
        """The status, headers and body of a GET, and what that is the download of."""
        if self.is_down:
            return 503, {}, b"", None
        if token not in (None, TOKEN):
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"", None
        is_api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models" if is_api else "").strip("/").split("/")
        organisation, name, *rest = parts if len(parts) > 1 else ["", *parts]  # a few old models have no organisation
        model = self.models.get(f"{organisation}/{name}")
        if model is None or (model.is_private and token is None):
            return (404 if token else 401), {"X-Error-Code": "RepoNotFound"}, b"", None
        if is_api and rest[:1] == ["refs"]:
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in model.branches.items()]
            return 200, {}, json.dumps({"branches": branches, "tags": [], "converts": []}).encode(), None
        revision = rest[1] if len(rest) > 1 else "main"
        near = [commit for commit in model.commits if commit.startswith(revision)]
        commit = model.branches.get(revision) or (near[0] if near else None)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"", None
        folder = model.commits[commit]
        if is_api:
            if rest[:1] == ["tree"]:
                return 404, {"X-Error-Code": "EntryNotFound"}, b"", None
            files = [{"rfilename": f.name, "size": f.stat().st_size} for f in sorted(folder.iterdir())]
            body = {"id": f"{organisation}/{name}", "sha": commit, "siblings": files, "tags": [], "downloads": 0}
            return 200, {}, json.dumps(body).encode(), None
        if model.is_gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"", None
        file = folder / "/".join(rest[2:])
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"", None
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        return 200, headers, content, (commit, file.name)


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A Hub that answers at `url` within this context."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _respond(self, with_body: bool) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
            status, headers, body, download = hub.answer(unquote(self.path.partition("?")[0]), token)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)
                if download is not None:
                    hub.downloads.append(download)

        def do_GET(self) -> None:
            self._respond(with_body=True)

        def do_HEAD(self) -> None:
            self._respond(with_body=False)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
