"""A stand-in for the hub: it serves directories as models and data sets, with the answers that its clients ask for.

HF_ENDPOINT of a process names its address. A repository is a directory `models/OWNER/NAME` or `datasets/OWNER/NAME`.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    root: Path

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal clean."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api" and len(parts) > 3:
            self._describe(self.root / "/".join(parts[1:4]), parts[4:], body)
        elif "resolve" in parts:
            place = parts.index("resolve")
            owner = parts[:place] if parts[0] == "datasets" else ["models", *parts[:place]]
            self._send_file(self.root.joinpath(*owner, *parts[place + 2 :]))
        else:
            self._send(404, b"{}")

    def _describe(self, folder: Path, rest: list[str], body: bytes) -> None:
        if not folder.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["revision"] and rest[1] not in ("main", _COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif not rest or rest[0] == "revision":
            files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            siblings = [{"rfilename": name} for name in files]
            name = folder.relative_to(folder.parents[1]).as_posix()
            self._send_json({"id": name, "sha": _COMMIT, "siblings": siblings, "tags": [], "private": False})
        elif rest[0] == "tree":
            below = folder.joinpath(*rest[2:])
            paths = below.rglob("*") if "recursive=" in self.path else below.glob("*")
            self._send_json([_entry(folder, path) for path in sorted(paths)])
        elif rest[0] == "paths-info":
            asked = json.loads(body)["paths"] if body[:1] == b"{" else []
            self._send_json([_entry(folder, path) for name in asked if (path := folder / name).exists()])
        else:
            self._send(404, b"{}")

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _COMMIT})
            return
        content = path.read_bytes()
        headers = {"X-Repo-Commit": _COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        self._send(200, content, headers)

    def _send_json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    oid = hashlib.sha1(path.read_bytes() if path.is_file() else b"").hexdigest()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": oid, "size": 0}
    return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}


@contextmanager
def serve_hub(root: Path) -> Iterator[str]:
    """Serve the repositories below a directory, and give the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"root": root}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
