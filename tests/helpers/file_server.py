"""A web server for tests that misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves the bytes in `files`, by name; `listing` as Zenodo does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.checksums: dict[str, str] = {}
        """Listed instead of the true ones."""
        self.drop_after: int | None = None
        """Bytes of a body after which the connection breaks."""
        self.statuses: list[int] = []
        """Answers to the next requests, in place of the file."""
        self.ranges = True
        self.if_range = True
        self.etags = True
        self.sent = 0
        """Bytes of bodies so far."""
        self.requests: list[str] = []
        """What was asked for: the path and the range."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        span = self.headers.get("Range", "")
        server.requests.append(f"{self.path} {span}".strip())
        if server.statuses:
            self._answer(server.statuses.pop(0), b"")
        elif self.path == "/listing":
            self._answer(200, json.dumps({"entries": self._entries()}).encode())
        elif (content := server.files.get(self.path[1:])) is None:
            self._answer(404, b"")
        else:
            self._file(content, span)

    def _file(self, content: bytes, span: str) -> None:
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": tag} if self.server.etags else {}
        same = self.headers.get("If-Range") == tag or not self.server.if_range
        if not (span and same and self.server.ranges):
            return self._answer(200, content, headers)
        found = re.fullmatch(r"bytes=(\d+)-", span)
        assert found
        start = int(found[1])
        if start >= len(content):
            return self._answer(416, b"", headers)
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206, content[start:], headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        drop = self.server.drop_after
        sent = body if drop is None or self.path == "/listing" else body[:drop]
        self.server.sent += len(sent)  # before the client can have the last of it
        self.wfile.write(sent)
        if len(sent) < len(body):
            self.close_connection = True

    def _entries(self) -> list[dict[str, object]]:
        return [
            {
                "key": name,
                "size": len(content),
                "checksum": self.server.checksums.get(
                    name, f"md5:{hashlib.md5(content).hexdigest()}"
                ),
            }
            for name, content in self.server.files.items()
        ]

    def log_message(self, format: str, *args: object) -> None:
        pass
