"""Google Drive as far as gdown knows it, on loopback, and a way to make requests ask it.

A public folder is listed by ``/embeddedfolderview``, a page of links; a file comes from ``/uc``,
a large one after a page with a form, and by ranges.
"""

from __future__ import annotations

import hashlib
import html
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, urlsplit

import requests
from requests.adapters import HTTPAdapter

SERVER_VARIABLE = "TEST_DRIVE_SERVER"
QUOTA = """<html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>
</body></html>"""


def drive_id(path: str) -> str:
    return "1" + hashlib.sha256(path.encode()).hexdigest()[:32]


class Drive(ThreadingHTTPServer):
    """Serves `files`, by their paths below the folder whose id is `root`."""

    daemon_threads = True

    def __init__(self, root: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.files: dict[str, bytes] = {}
        self.status = 200
        """Of every answer."""
        self.page: str | None = None
        """Sent in place of each file."""
        self.confirm = False
        """Files come after a page with a form."""
        self.cuts: list[int] = []
        """The next transfers break off after so many bytes each."""
        self.delay = 0.0
        """Seconds between two blocks of a file."""
        self.requests: list[str] = []
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(root: str) -> Iterator[Drive]:
    with Drive(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


_send = HTTPAdapter.send


def _rerouted(self: HTTPAdapter, request: requests.PreparedRequest, *args: object, **more: object):  # type: ignore[no-untyped-def]
    asked = urlsplit(str(request.url))
    if not (asked.hostname or "").endswith((".google.com", ".googleusercontent.com")):
        raise requests.ConnectionError(f"{asked.hostname} is not part of the test")
    original, request.url = request.url, os.environ[SERVER_VARIABLE] + f"{asked.path}?{asked.query}"
    response = _send(self, request, *args, **more)  # type: ignore[arg-type]
    request.url = response.url = original  # type: ignore[assignment]
    return response


def reroute() -> None:
    """Have requests ask the server named by the environment, in this process, for Google's."""
    HTTPAdapter.send = _rerouted  # type: ignore[method-assign]


def restore() -> None:
    HTTPAdapter.send = _send  # type: ignore[method-assign]


class _Handler(BaseHTTPRequestHandler):
    server: Drive

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        self.server.requests.append(asked.path)
        if self.server.status != 200:
            self._page(f"status {self.server.status}", self.server.status)
        elif asked.path == "/embeddedfolderview":
            self._folder(query["id"])
        elif self.server.page is not None:
            self._page(self.server.page)
        elif self.server.confirm and "confirm" not in query:
            self._page(
                '<html><form id="download-form" action="https://drive.usercontent.google.com/'
                f'download" method="get"><input type="hidden" name="id" value="{query["id"]}">'
                '<input type="hidden" name="confirm" value="t"></form></html>'
            )
        else:
            self._file(query["id"])

    def _folder(self, folder_id: str) -> None:
        folders = {p.as_posix() for path in self.server.files for p in PurePosixPath(path).parents}
        ids = {drive_id(f): f for f in folders} | {self.server.root: "."}
        if folder_id not in ids:
            return self._page("gone", 404)
        folder, links = ids[folder_id], []
        for path in sorted(self.server.files):
            if PurePosixPath(path).parent.as_posix() == folder:
                address = f"https://drive.google.com/file/d/{drive_id(path)}/view?usp=drive_web"
                links.append((address, path))
        for path in sorted(folders - {"."}):
            if PurePosixPath(path).parent.as_posix() == folder:
                links.append((f"https://drive.google.com/drive/folders/{drive_id(path)}", path))
        rows = "".join(
            f'<a href="{address}"><div>{html.escape(PurePosixPath(path).name)}</div></a>'
            for address, path in links
        )
        title = html.escape(PurePosixPath(folder).name or "weights")
        self._page(f"<html><head><title>{title}</title></head><body>{rows}</body></html>")

    def _page(self, text: str, status: int = 200) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, file_id: str) -> None:
        path = next((p for p in self.server.files if drive_id(p) == file_id), None)
        if path is None:
            return self._page("gone", 404)
        content, start = self.server.files[path], 0
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if wanted := self.headers.get("Range"):
            self.server.ranges.append(wanted)
            if self.headers.get("If-Range") in (None, tag):
                start = int(wanted.removeprefix("bytes=").split("-")[0])
        if start >= len(content):
            return self._page("", 416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "application/octet-stream")
        name = PurePosixPath(path).name
        self.send_header("Content-Disposition", f'attachment; filename="{name}"')
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = start + self.server.cuts.pop(0) if self.server.cuts else len(content)
        for at in range(start, min(end, len(content)), 1 << 14):
            self.wfile.write(content[at : min(at + (1 << 14), end)])
            self.wfile.flush()
            time.sleep(self.server.delay)

    def log_message(self, format: str, *args: object) -> None: ...
