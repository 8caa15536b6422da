"""A small Hub on loopback: it keeps every commit of its model repositories, serves their files, and fails when told.

It speaks what the real client says when it creates a repository, uploads in one commit, and loads by name.
"""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER = "somebody"
TOKEN = "hf_" + "NeverWriteThisTokenAnywhere"
SIGNATURE = "X-Amz-Signature=" + "0123456789abcdef" * 2
PATIENCE = 60  # seconds that a held request waits at most

_ROUTES = (
    ("POST", "create", r"/api/repos/create"),
    ("GET", "auth", r"/api/models/(?P<repo>[^/]+/[^/]+)/auth-check/write"),
    ("POST", "branch", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)"),
    ("POST", "validate", r"/api/validate-yaml"),
    ("POST", "preupload", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)"),
    ("POST", "batch", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch"),
    ("PUT", "upload", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    ("POST", "commit", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)"),
    ("GET", "info", r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?"),
    ("GET", "tree", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<path>.+))?"),
    ("GET", "resolve", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
    ("POST", "event", r"/test/event/(?P<path>.+)"),
)
_NEEDS_TOKEN = {"create", "auth", "branch", "preupload", "batch", "commit"}


@dataclass
class Commit:
    """One commit: what it brought, and the whole tree after it (path → content)."""

    message: str
    parent: str | None
    changed: dict[str, bytes]
    tree: dict[str, bytes]
    oid: str = ""

    def __post_init__(self):
        parts = [self.message, str(self.parent), *(f"{k}:{hashlib.sha1(v).hexdigest()}" for k, v in self.tree.items())]
        self.oid = hashlib.sha1("\n".join(parts).encode()).hexdigest()


@dataclass
class HubServer:
    """The server; a context manager. All state may be read after, or between, the requests of a client.

    Attributes:
        port: Where it listens; 0 is any free port. A socket that only keeps the port may have it, too.
        branches: Repository → branch → its commits, oldest first.
        events: What happened, in order: `"commit"` and so on when a request arrives, and what a client reported.
    """

    port: int = 0
    branches: dict[str, dict[str, list[Commit]]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)

    def __enter__(self):
        self._lock, self._changed, self._over = threading.Lock(), threading.Condition(), threading.Event()
        self._blobs: dict[str, bytes] = {}
        self._faults: dict[str, list] = {}
        self._held: dict[str, str] = {}
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._over.set()
        with self._changed:
            self._held.clear()
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def commits(self, repo: str, branch: str = "main") -> list[Commit]:
        """The commits of a branch after the one that made the repository."""
        return self.branches[repo][branch][1:]

    def fail_next(self, kind: str, *faults: int | str) -> None:
        """The next requests of a kind (see the routes) fail one after the other.

        Args:
            kind (`str`): `"commit"` and so on.
            *faults (`int` or `str`): A status; `"reset"`, the connection breaks in the middle of the request;
                `"silence"`, no answer ever; `"fine"`, an answer as it should be.
        """
        self._faults.setdefault(kind, []).extend(faults)

    def hold(self, kind: str, until: str) -> None:
        """Requests of a kind, or a client's report of one event, wait until another event is among `events`.

        A client reports by `POST /test/event/NAME`.
        """
        self._held[kind] = until

    def note(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def _wait_where_held(self, kind: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: kind not in self._held or self._held[kind] in self.events, timeout=PATIENCE)

    def _next_fault(self, kind: str) -> int | str:
        with self._lock:
            faults = self._faults.get(kind)
            return faults.pop(0) if faults else "fine"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True
    hub: HubServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._dispatch("GET")

    do_HEAD = do_GET

    def do_POST(self):
        self._dispatch("POST")

    def do_PUT(self):
        self._dispatch("PUT")

    def _dispatch(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        raw = urlsplit(self.path).path
        for wanted, kind, pattern in _ROUTES:
            match = re.fullmatch(pattern, raw)
            if wanted == method and match:
                words = {name: unquote(word) for name, word in match.groupdict().items() if word is not None}
                return self._answer(kind, words)
        self._body()
        self._json(404, {"error": f"no such address: {path}"}, {"X-Error-Code": "EntryNotFound"})

    def _answer(self, kind: str, words: dict[str, str]) -> None:
        if kind != "event":
            self.hub.note(kind)
        fault = self.hub._next_fault(kind)
        if fault == "reset":
            return self._reset()
        body = self._body()
        self.hub._wait_where_held(words["path"] if kind == "event" else kind)
        if fault == "silence":
            self.close_connection = True
            self.hub._over.wait(PATIENCE)
            return None
        authorization = self.headers.get("Authorization", "")
        if isinstance(fault, int):  # an unfriendly server, that repeats what it was sent
            return self._json(fault, {"error": f"told to fail, {authorization}"}, {"X-Error-Message": "told to fail"})
        if kind in _NEEDS_TOKEN and authorization != f"Bearer {TOKEN}":
            message = "Invalid credentials in Authorization header"
            return self._json(401, {"error": f"{message}: {authorization}"}, {"X-Error-Message": message})
        if kind not in ("create", "validate", "upload", "event") and words["repo"] not in self.hub.branches:
            return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        with self.hub._lock:
            return getattr(self, f"_{kind}")(body, **words)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reset(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def _json(self, status: int, value, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # ---- What each address does ----

    def _event(self, body, path):
        self.hub.note(path)
        self._json(200, {})

    def _create(self, body):
        wanted = json.loads(body)
        repo = f"{wanted.get('organization') or USER}/{wanted['name']}"
        known = repo in self.hub.branches
        if not known:
            first = {".gitattributes": b"*.safetensors filter=lfs\n"}
            self.hub.branches[repo] = {"main": [Commit("initial commit", None, first, first)]}
        self._json(409 if known else 200, {"url": f"{self.hub.url}/{repo}"})

    def _auth(self, body, repo):
        self._json(200, {})

    def _branch(self, body, repo, revision):
        known = revision in self.hub.branches[repo]
        self.hub.branches[repo].setdefault(revision, list(self.hub.branches[repo]["main"]))
        self._json(409 if known else 200, {})

    def _validate(self, body):
        self._json(200, {"errors": [], "warnings": []})

    def _head(self, repo: str, revision: str) -> Commit | None:
        """The newest commit of a branch, or the one with that name; answers itself where there is none."""
        branches = self.hub.branches[repo]
        if revision in branches:
            return branches[revision][-1]
        named = [commit for commits in branches.values() for commit in commits if commit.oid == revision]
        if not named:
            self._json(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        return named[0] if named else None

    def _preupload(self, body, repo, revision):
        if not (head := self._head(repo, revision)):
            return
        files = []
        for wanted in json.loads(body)["files"]:
            path, content = wanted["path"], head.tree.get(wanted["path"])
            mode = "lfs" if path.endswith((".safetensors", ".pt", ".pth")) else "regular"
            oid = None if content is None else _oid(content, mode)
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json(200, {"files": files})

    def _batch(self, body, repo):
        objects = []
        for wanted in json.loads(body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub._blobs:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}?{SIGNATURE}"}}
            objects.append(answer)
        self._json(200, {"transfer": "basic", "objects": objects})

    def _upload(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json(400, {"error": "the content is not what its name says"})
        self.hub._blobs[oid] = body
        self._json(200, {})

    def _commit(self, body, repo, revision):
        if not (head := self._head(repo, revision)):
            return
        message, changed = None, {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                changed[value["path"]] = self.hub._blobs[value["oid"]]
            else:
                return self._json(400, {"error": f"unknown operation {entry['key']}"})
        commit = Commit(message, head.oid, changed, {**head.tree, **changed})
        self.hub.branches[repo][revision].append(commit)
        self.hub.note(f"committed {message}")
        self._json(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit.oid}", "commitOid": commit.oid})

    def _info(self, body, repo, revision="main"):
        if head := self._head(repo, revision):
            siblings = [{"rfilename": path} for path in head.tree]
            self._json(200, {"id": repo, "sha": head.oid, "private": False, "tags": [], "siblings": siblings})

    def _tree(self, body, repo, revision, path=""):
        if not (head := self._head(repo, revision)):
            return
        prefix = f"{path}/" if path else ""
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content, "regular")}
            for name, content in head.tree.items()
            if name.startswith(prefix)
        ]
        if not entries:
            return self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        self._json(200, entries)

    def _resolve(self, body, repo, revision, path):
        if not (head := self._head(repo, revision)):
            return
        headers = {"X-Repo-Commit": head.oid}
        if path not in head.tree:
            return self._json(404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"})
        content = head.tree[path]
        self._send(200, content, {**headers, "ETag": f'"{_oid(content, "lfs")}"', "X-Linked-Size": str(len(content))})


def _oid(content: bytes, mode: str) -> str:
    """What the client compares: the sha256 of a large file, git's hash of the blob for others."""
    if mode == "lfs":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
