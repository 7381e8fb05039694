"""A small Hub on the loopback interface: the parts of its HTTP protocol that `huggingface_hub` uses, for tests.

    with LoopbackHub() as hub:
        hub.add_user("ann", token="hf_ann")
        HfApi(endpoint=hub.endpoint, token="hf_ann").create_repo("ann/model")

Everything is kept in memory. Large files go by LFS: Xet, pull requests and Spaces are not spoken.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from .routes import ROUTES, Request
from .store import Answer, Blob, Refused, Repo, User


@dataclass
class Fault:
    """What goes wrong at the next requests of a stage, which is one of those `routes` names: create, commit...

    Without `status` and `cut` it is a 500. A cut breaks the connection in the middle of the request's body if it has
    one, else in the middle of the answer's; it never hits a HEAD, which has neither. `reset` cuts by TCP reset, not by
    an orderly close. With `after` the work is done first.
    """

    stage: str
    status: int | None = None
    times: int | None = 1  # None: for ever
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    reset: bool = False
    after: bool = False

    def __post_init__(self):
        if self.stage not in (stages := {stage for _, _, stage, _ in ROUTES}):
            raise ValueError(f"{self.stage!r} is no stage: {sorted(stages)}")
        self.cut = self.cut or self.reset
        if self.status is None and not self.cut:
            self.status = 500

    def hits(self, stage, method):
        return stage == self.stage and not (self.cut and method == "HEAD")


class LoopbackHub:
    """The server, running between `with` and its end; tests put into it and look into it directly."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lock = threading.RLock()
        self.connections: set[socket.socket] = set()
        self._users: dict[str, User] = {}
        self._faults: list[Fault] = []
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.hub = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        # Polled so often that closing a Hub costs a test nothing.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the server and all its connections: from here on its address refuses, like a Hub without network."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            hang_up(connection)
        self._thread.join()

    def add_user(self, name, token=None, write=True):
        """Returns a token of the user's. A user may have several."""
        token = token or f"hf_{name}"
        self._users[token] = User(name, write)
        return token

    def add_repo(self, repo_id, files, kind="model", private=False):
        """A repository with one commit after the initial one; contents are bytes, text or the Path of a file."""
        repo = self.repos[kind, repo_id] = Repo(kind, repo_id, private)
        blobs, parent = {}, repo.branch("main")
        for path, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            data = data.encode() if isinstance(data, str) else data
            blobs[path] = Blob(data, parent.wants_lfs(path, len(data), data[:512]))
        repo.objects |= {blob.sha256: blob.data for blob in blobs.values() if blob.lfs}
        repo.add_commit("main", "Add files", "", repo.namespace, parent.files | blobs)

    def files(self, repo_id, revision="main", kind="model"):
        """Path -> bytes, `.gitattributes` included. Raises KeyError without such a repository or revision."""
        return {path: blob.data for path, blob in self._find(repo_id, revision, kind).tree()}

    def commits(self, repo_id, revision="main", kind="model"):
        """The titles, newest first."""
        return [commit.title for commit in self._find(repo_id, revision, kind).history()]

    def branches(self, repo_id, kind="model"):
        return list(self.repos[kind, repo_id].branches)

    def tags(self, repo_id, kind="model"):
        return list(self.repos[kind, repo_id].tags)

    def _find(self, repo_id, revision, kind):
        try:
            return self.repos[kind, repo_id].find(revision)
        except Refused:
            raise KeyError(revision) from None

    def plant(self, fault):
        with self.lock:
            self._faults.append(fault)

    def clear_faults(self):
        with self.lock:
            self._faults.clear()

    def take_fault(self, stage, method):
        with self.lock:
            for fault in self._faults:
                if fault.hits(stage, method):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times == 0:
                            self._faults.remove(fault)
                    return fault
        return None

    def user(self, headers):
        given = headers.get("Authorization")
        if given and given.removeprefix("Bearer ") not in self._users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self._users[given.removeprefix("Bearer ")] if given else None

    def environment(self, token=None, cache=None):
        """For a process that shall know this Hub alone: the environment without anything of the user's Hub.

        `cache` is the folder of all its Hugging Face caches.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
        kept |= {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        kept |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        kept |= {"HF_TOKEN": token} if token else {}
        return kept | ({"HF_HOME": str(cache)} if cache else {})


def hang_up(connection):
    with contextlib.suppress(OSError):  # its other end was faster
        connection.shutdown(socket.SHUT_RDWR)


class Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False
    request_queue_size = 64

    def handle_error(self, *address):
        if not isinstance(sys.exception(), (OSError, ValueError)):  # what a broken connection raises
            super().handle_error(*address)


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with connections that stay open; the faults happen here."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.hub = self.server.hub
        self.hub.connections.add(self.connection)

    def finish(self):
        self.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        pass

    def serve(self):
        address = urlsplit(self.path)
        stage, handler, parts = self.find_route(address.path)
        fault = self.hub.take_fault(stage, self.command)
        size = int(self.headers.get("Content-Length") or 0)
        if fault and fault.cut and not fault.after and size:
            self.rfile.read(size // 2)
            return self.cut(fault)
        body = self.rfile.read(size)
        answer = self.respond(fault, lambda: self.work(handler, parts, parse_qs(address.query), body))
        if not (fault and fault.cut):
            return self.send(answer)
        if not fault.after:
            self.send(answer, len(answer.body()) // 2)
        return self.cut(fault)

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def respond(self, fault, work):
        if fault is None:
            return work()
        done = work() if fault.after else None
        answer = Refused(fault.status, "planted fault").answer if fault.status else done or work()
        answer.headers = answer.headers | fault.headers
        return answer

    def find_route(self, path):
        for methods, pattern, stage, handler in ROUTES:
            if self.command in methods.split() and (found := pattern.fullmatch(path)):
                return stage, handler, {name: part and unquote(part) for name, part in found.groupdict().items()}
        return "unknown", None, {}

    def work(self, handler, parts, query, body):
        if handler is None:
            return Answer({"error": f"No such route: {self.command} {self.path}"}, 404)
        try:
            with self.hub.lock:
                user = self.hub.user(self.headers)
                return handler(Request(self.hub, self.command, parts, query, self.headers, user, body))
        except Refused as refused:
            return refused.answer
        except Exception:  # a mistake of this file's or a malformed request: the test's output shall show it
            traceback.print_exc(file=sys.stderr)
            return Answer({"error": "The test Hub failed, see its stderr"}, 500)

    def send(self, answer, limit=None):
        """The answer, of whose body only `limit` bytes if given."""
        body = answer.body()
        headers = {"Content-Type": "application/json; charset=utf-8", "X-Request-Id": "hub"}
        self.send_response(answer.status)
        for name, value in (headers | answer.headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:limit])

    def cut(self, fault):
        self.close_connection = True
        if fault.reset:  # what closing does where nothing may linger
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
