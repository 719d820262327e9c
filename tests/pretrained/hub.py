"""A stand-in for the Hub on this machine's loopback: the two requests that huggingface_hub makes for a file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        """Repository -> name of a file -> what it holds."""
        self.gated: set[str] = set()
        self.asked: list[str] = []
        """METHOD path, in order."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, *, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        owner, _, rest = self.path.strip("/").partition("/")
        repo, _, name = rest.partition("/resolve/main/")
        repo = f"{owner}/{repo}"
        held = self.server.files.get(repo)
        if repo in self.server.gated:
            return self.refuse(403, "GatedRepo")
        if held is None:
            return self.refuse(401, "RepoNotFound")
        if name not in held:
            return self.refuse(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(held[name]).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(held[name])))
        self.end_headers()
        if body:
            self.wfile.write(held[name])
        return None

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
