"""The Hub's routes, each a function of a request."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from .store import Answer, Blob, Refused, Repo, User, card_errors, split_card

if TYPE_CHECKING:
    from .server import LoopbackHub


@dataclass
class Request:
    """One request, its route's parts and what its sender may do."""

    hub: "LoopbackHub"
    method: str
    parts: dict[str, str]
    query: dict[str, list[str]]
    headers: object
    user: User | None
    body: bytes

    def json(self):
        return json.loads(self.body or b"{}")

    def commit(self):
        return self.repo().find(self.parts.get("revision") or "main")

    def repo(self, write=False):
        """The repository that the path names. One that may not be read looks as if it were not there."""
        kind, repo_id = (self.parts.get("kind") or "models").removesuffix("s"), self.parts["id"]
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not (self.user and self.user.owns(repo_id))):
            # The Hub sends no code with its 401, but the client guesses it from https addresses alone.
            status, message = (404, "Repository not found") if self.user else (401, "Invalid username or password.")
            raise Refused(status, message, "RepoNotFound")
        if write:
            self.check_write(repo_id)
        return repo

    def check_write(self, repo_id):
        if self.user is None:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        if not self.user.write:
            raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")
        if not self.user.owns(repo_id):
            raise Refused(403, f"You don't have the rights to write under the namespace {repo_id.split('/')[0]!r}")


ROUTES: list[tuple[str, re.Pattern, str, Callable]] = []
ID, REVISION = r"(?P<id>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{ID}"


def route(methods, path, stage):
    def register(handler):
        ROUTES.append((methods, re.compile(path), stage, handler))
        return handler

    return register


@route("GET", "/api/whoami-v2", "whoami")
def whoami(request):
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    return Answer({"type": "user", "name": request.user.name, "orgs": []})


@route("POST", "/api/repos/create", "create")
def create_repo(request):
    wanted, hub = request.json(), request.hub
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    kind, repo_id = wanted.get("type", "model"), f"{wanted.get('organization') or request.user.name}/{wanted['name']}"
    request.check_write(repo_id)
    repo = Repo(kind, repo_id, wanted.get("visibility") == "private" or bool(wanted.get("private")))
    url = f"{hub.endpoint}/{repo.path}"
    if (kind, repo_id) in hub.repos:
        raise Refused(409, f"You already created this {kind} repo", url=url)
    hub.repos[kind, repo_id] = repo
    return Answer({"url": url, "name": repo_id})


@route("POST", "/api/validate-yaml", "yaml")
def validate_yaml(request):
    text = request.json()["content"]
    errors = card_errors(text)
    empty = [{"message": "empty or missing yaml metadata in repo card"}] if not errors and not split_card(text) else []
    return Answer({"errors": errors, "warnings": empty}, 400 if errors else 200)


@route("GET", f"{API}(?:/revision/{REVISION})?", "info")
def info(request):
    repo, commit = request.repo(), request.commit()
    card = commit.files.get("README.md")
    metadata = split_card(card.data.decode()) if card else {}
    with_blobs = request.query.get("blobs") == ["true"]
    content = {"_id": commit.sha[:24], "id": repo.id, "author": repo.namespace, "sha": commit.sha}
    content |= {"createdAt": list(commit.history())[-1].date, "lastModified": commit.date}
    content |= {"private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
    content |= {"tags": metadata.get("tags") or [], "cardData": metadata}
    content |= {"siblings": [blob.sibling(path, with_blobs) for path, blob in commit.tree()]}
    if repo.kind == "model":
        named = ("pipeline_tag", "library_name", "model-index")
        content |= {"modelId": repo.id} | {name: metadata[name] for name in named if name in metadata}
    return Answer(content)


@route("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.+))?", "tree")
def tree(request):
    commit, folder = request.commit(), (request.parts["path"] or "").strip("/")
    prefix = f"{folder}/" if folder else ""
    below = {path: blob for path, blob in commit.tree() if path.startswith(prefix)}
    if folder and not below:
        raise Refused(404, f"{folder} does not exist on {request.parts['revision']!r}", "EntryNotFound")
    entries = [*folders(below, commit), *(blob.entry(path) for path, blob in below.items())]
    if request.query.get("recursive") != ["true"]:
        entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
    return Answer([expanded(request, entry) for entry in entries if entry["path"].startswith(prefix)])


def folders(paths, commit):
    names = sorted({str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"."})
    return [{"type": "directory", "path": n, "oid": hashlib.sha1((commit.sha + n).encode()).hexdigest()} for n in names]


def expanded(request, entry):
    commit = request.commit()
    last = {"id": commit.sha, "title": commit.title, "date": commit.date}
    size = {"size": 0} if entry["type"] == "directory" else {}
    return entry | size | ({"lastCommit": last} if "true" in str(request.query.get("expand")).lower() else {})


@route("POST", f"{API}/paths-info/{REVISION}", "tree")
def paths_info(request):
    commit = request.commit()
    request.query |= parse_qs(request.body.decode())
    known = {e["path"]: e for e in folders(commit.files, commit)} | {p: b.entry(p) for p, b in commit.tree()}
    return Answer([expanded(request, known[path]) for path in request.query.get("paths", []) if path in known])


@route("POST", f"{API}/preupload/{REVISION}", "preupload")
def preupload(request):
    repo = request.repo(write=True)
    commit, wanted = repo.branch(request.parts["revision"]), request.json()

    def plan(file):
        path, there = file["path"], commit.files.get(file["path"])
        large = commit.wants_lfs(path, file["size"], base64.b64decode(file["sample"]))
        mode = "lfs" if large else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": there.etag if there else None}

    return Answer({"files": [plan(file) for file in wanted["files"]]})


@route("POST", rf"/(?:(?P<kind>datasets|spaces)/)?{ID}\.git/info/lfs/objects/batch", "lfs_batch")
def lfs_batch(request):
    repo = request.repo(write=True)

    def plan(wanted):
        oid, size = wanted["oid"], wanted["size"]
        if oid in repo.objects:
            return {"oid": oid, "size": size}
        repo.expected[oid] = size
        address = f"{request.hub.endpoint}/lfs-upload/{repo.kind}s/{repo.id}/{oid}"
        return {"oid": oid, "size": size, "actions": {"upload": {"href": address}}}

    return Answer({"transfer": "basic", "objects": [plan(wanted) for wanted in request.json()["objects"]]})


STORE = rf"(?P<kind>models|datasets|spaces)/{ID}/(?P<oid>[0-9a-f]{{64}})"


@route("PUT", f"/lfs-upload/{STORE}", "lfs_upload")
def lfs_upload(request):  # without a token: the address is the right to write, as on the Hub's storage
    repo = request.hub.repos[request.parts["kind"].removesuffix("s"), request.parts["id"]]
    oid, data = request.parts["oid"], request.body
    if oid not in repo.expected:
        raise Refused(403, "The upload was not announced")
    if len(data) != repo.expected[oid] or hashlib.sha256(data).hexdigest() != oid:
        raise Refused(400, "The content has another size or SHA-256 than was announced")
    repo.objects[oid] = data
    return Answer(b"")


@route("POST", f"{API}/commit/{REVISION}", "commit")
def commit(request):
    repo = request.repo(write=True)
    parent = repo.branch(request.parts["revision"])
    if "create_pr" in request.query:
        raise Refused(400, "This Hub has no pull requests")
    operations = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = operations[0]["value"]
    if header.get("parentCommit", parent.sha) != parent.sha:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(parent.files)
    for operation in operations[1:]:
        key, value = operation["key"], operation["value"]
        path = value["path"]
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in repo.objects:
                raise Refused(400, f"The LFS object of {path} was never uploaded: {value['oid']}")
            files[path] = Blob(repo.objects[value["oid"]], lfs=True)
        else:
            raise Refused(400, f"This Hub has no operation {key}")
    summary, description = header["summary"], header.get("description", "")
    made = repo.add_commit(request.parts["revision"], summary, description, request.user.name, files)
    url = f"{request.hub.endpoint}/{repo.path}/commit/{made.sha}"
    return Answer({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


@route("GET", f"{API}/commits/{REVISION}", "commits")
def commits(request):
    listed = [
        {"id": c.sha, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
        for c in request.commit().history()
    ]
    return Answer(listed)


@route("GET", f"{API}/refs", "refs")
def refs(request):
    repo = request.repo()

    def listed(named, where):
        return [{"name": n, "ref": f"refs/{where}/{n}", "targetCommit": c.sha} for n, c in named.items()]

    branches, tags = listed(repo.branches, "heads"), listed(repo.tags, "tags")
    return Answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@route("POST", f"{API}/branch/{REVISION}", "branch")
def branch(request):
    repo = request.repo(write=True)
    start = repo.find(request.json().get("startingPoint") or "main")
    return add_reference(repo.branches, request.parts["revision"], start)


@route("POST", f"{API}/tag/{REVISION}", "tag")
def tag(request):
    repo = request.repo(write=True)
    return add_reference(repo.tags, request.json()["tag"], repo.find(request.parts["revision"]))


def add_reference(references, name, target):
    if name in references:
        raise Refused(409, f"Reference already exists: {name}")
    references[name] = target
    return Answer()


@route("GET HEAD", rf"/(?:(?P<kind>datasets|spaces)/)?{ID}/resolve/{REVISION}/(?P<path>.+)", "resolve")
def resolve(request):
    commit, path = request.commit(), request.parts["path"]
    headers = {"X-Repo-Commit": commit.sha, "Content-Type": "application/octet-stream"}
    if path not in commit.files:
        refused = Refused(404, "Entry not found", "EntryNotFound")
        refused.answer.headers |= {"X-Repo-Commit": commit.sha}
        raise refused
    blob = commit.files[path]
    headers |= {"ETag": f'"{blob.etag}"'}
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    return Answer(blob.data, 200, headers)
