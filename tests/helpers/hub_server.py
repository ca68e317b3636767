"""A Hugging Face hub of one's own, on loopback: the few endpoints that files travel by."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Hub:
    """What the server holds, and what it was asked for."""

    url: str = ""
    commits: dict[str, dict[str, Files]] = field(default_factory=dict)
    """Of each repository, the files of each commit."""
    refs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each repository, the commit of each branch and tag."""
    gated: set[str] = field(default_factory=set)
    token: str | None = None
    """Asked for in every request, if set."""
    cuts: list[int] = field(default_factory=list)
    """The next answers with content break off after so many bytes each."""
    broken: bool = False
    """Answers every request with status 500."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    objects: Files = field(default_factory=dict)
    """Large files by their sha256."""

    def publish(self, repo: str, files: Files, *refs: str) -> str:
        """Commit files to a repository, on main and at tags."""
        commits = self.commits.setdefault(repo, {})
        commit = hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest()
        commits[commit] = files
        self.refs.setdefault(repo, {}).update(dict.fromkeys(("main", *refs), commit))
        return commit

    def downloads(self) -> list[str]:
        """Files whose content was asked for."""
        return [path.rsplit("/", 1)[1] for method, path in self.requests if method == "GET"]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub for as long as the block lasts."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        self._resolve()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self._enter()
        if path is None:
            return
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            new = repo not in self.hub.commits
            if new:
                self.hub.publish(repo, {})
            self._json({"url": f"{self.hub.url}/{repo}"}, 200 if new else 409)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            modes = [
                {"path": f["path"], "shouldIgnore": False, "uploadMode": _mode(f["path"])}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": modes})
        elif path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            self._json({"objects": objects})
        else:  # a commit: one JSON object a line
            repo = path.removeprefix("/api/models/").split("/commit/")[0]
            files = dict(self.hub.commits[repo][self.hub.refs[repo]["main"]])
            for item in map(json.loads, body.splitlines()):
                value = item["value"]
                if item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
            commit = self.hub.publish(repo, files)
            url = f"{self.hub.url}/{repo}/commit/{commit}"
            self._json({"commitUrl": url, "commitOid": commit, "hookOutput": ""})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.objects[hashlib.sha256(content).hexdigest()] = content
        self._json({})

    def _resolve(self) -> None:
        path = self._enter()
        if path is None:
            return
        repo, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        revision = unquote(revision)
        if repo not in self.hub.commits:
            return self._json({}, 401 if self.hub.token is None else 404, "RepoNotFound")
        if repo in self.hub.gated:
            return self._json({}, 403, "GatedRepo")
        commit = self.hub.refs[repo].get(revision, revision)
        if commit not in self.hub.commits[repo]:
            return self._json({}, 404, "RevisionNotFound")
        content = self.hub.commits[repo][commit].get(unquote(file))
        if content is None:
            return self._json({}, 404, "EntryNotFound", commit)
        self._content(content, commit, file)

    def _content(self, content: bytes, commit: str, file: str) -> None:
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        digest = hashlib.sha256 if _mode(file) == "lfs" else hashlib.sha1
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{digest(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            cut = self.hub.cuts.pop(0) if self.hub.cuts else len(content)
            self.wfile.write(content[start : start + cut])
            self.close_connection = cut < len(content) - start

    def _enter(self) -> str | None:
        """The path asked for, unless the request is refused."""
        path = urlsplit(self.path).path
        if path != "/api/agent-harnesses":  # the client's own business
            self.hub.requests.append((self.command, path))
        if self.hub.broken:
            self._json({}, 500)
        elif self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._json({}, 401)
        else:
            return path
        return None

    def _json(
        self, value: object, status: int = 200, error: str = "", commit: str | None = None
    ) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if error:
            self.send_header("X-Error-Code", error)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".pth")) else "regular"
