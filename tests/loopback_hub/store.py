"""What the Hub keeps: repositories of commits, by Git's and LFS's names for their contents."""

import fnmatch
import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import NamedTuple

import yaml

LARGE = 10 * 2**20  # bytes; anything from here on is LFS, whatever .gitattributes says
LFS_SUFFIXES = "7z arrow bin ckpt gz h5 model msgpack npy npz onnx ot parquet pb pickle pkl pt pth safetensors tar zip"
COUNT = itertools.count()  # of the commits
TRACKED = "{} filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Answer:
    """Of a request: `content` is JSON if it is not bytes."""

    content: object = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def body(self):
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content, default=str).encode()


class Refused(Exception):
    """A request that ends in an error, told by header and body as the Hub tells it."""

    def __init__(self, status, message, code=None, **content):
        line = " ".join(message.split()).encode("ascii", "replace").decode()
        headers = {"X-Error-Message": line} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer({"error": message} | content, status, headers)


class User(NamedTuple):
    name: str
    write: bool  # whether the token may

    def owns(self, repo_id):
        return repo_id.split("/")[0] == self.name


def split_card(text):
    """The metadata of a README.md; raises yaml.YAMLError where it is none."""
    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.DOTALL)
    data = yaml.safe_load(found[1]) if found else {}
    if not isinstance(data, dict):
        raise yaml.YAMLError("the metadata is not a mapping")
    return data


def card_errors(text):
    try:
        split_card(text)
    except yaml.YAMLError as error:
        return [{"message": f"YAML: {error}"}]
    return []


class Blob:
    """The content of one file, with the names git, LFS and HTTP give it."""

    def __init__(self, data: bytes, lfs: bool):
        self.data, self.sha256 = data, hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n".encode()
        stored = pointer if lfs else data
        self.oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
        self.lfs = {"oid": self.sha256, "size": len(data), "pointerSize": len(pointer)} if lfs else None

    @property
    def etag(self):
        return self.sha256 if self.lfs else self.oid

    def entry(self, path):
        large = {"lfs": self.lfs} if self.lfs else {}
        return {"type": "file", "path": path, "oid": self.oid, "size": len(self.data)} | large

    def sibling(self, path, with_blobs):
        if not with_blobs:
            return {"rfilename": path}
        large = {"lfs": self.lfs | {"sha256": self.sha256}} if self.lfs else {}
        return {"rfilename": path, "blobId": self.oid, "size": len(self.data)} | large


@dataclass
class Commit:
    title: str
    message: str
    author: str
    files: dict[str, Blob]
    parent: "Commit | None" = None
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))

    def __post_init__(self):
        # Dates are coarse: without the number, equal commits on two branches could be one.
        content = [self.parent and self.parent.sha, next(COUNT), self.title, self.date, [b.oid for _, b in self.tree()]]
        self.sha = hashlib.sha1(json.dumps(content).encode()).hexdigest()

    def tree(self):
        return sorted(self.files.items())

    def history(self):
        commit = self
        while commit:
            yield commit
            commit = commit.parent

    def tracks(self, path):
        """Whether .gitattributes names the path as a large file."""
        lines = self.files[".gitattributes"].data.decode().splitlines() if ".gitattributes" in self.files else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line.split()]
        return any(fnmatch.fnmatch(path if "/" in p else PurePosixPath(path).name, p) for p in patterns)

    def wants_lfs(self, path, size, sample):
        return size >= LARGE or b"\0" in sample or self.tracks(path)


@dataclass
class Repo:
    kind: str
    id: str
    private: bool
    branches: dict[str, Commit] = field(init=False)
    tags: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS objects that arrived, by SHA-256
    expected: dict[str, int] = field(default_factory=dict)  # sizes of those that a batch announced

    def __post_init__(self):
        lines = "".join(TRACKED.format(f"*.{suffix}") for suffix in LFS_SUFFIXES.split())
        first = Commit("initial commit", "", self.namespace, {".gitattributes": Blob(lines.encode(), lfs=False)})
        self.branches = {"main": first}

    @property
    def namespace(self):
        return self.id.split("/")[0]

    @property
    def path(self):
        """Of its address."""
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def branch(self, name):
        """The newest commit of a branch: no other revision takes commits."""
        if name not in self.branches:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return self.branches[name]

    def add_commit(self, branch, title, message, author, files):
        """Puts a commit with these files, all of them, on a branch."""
        if "README.md" in files and (errors := card_errors(files["README.md"].data.decode())):
            raise Refused(400, f"Invalid metadata in README.md: {errors[0]['message']}")
        made = Commit(title, message, author, files, self.branch(branch))
        # As on the Hub, a large file that no line covers gets one of its own.
        uncovered = [path for path, blob in made.tree() if blob.lfs and not made.tracks(path)]
        if uncovered:
            attributes = files[".gitattributes"].data if ".gitattributes" in files else b""
            attributes += "".join(TRACKED.format(path) for path in uncovered).encode()
            made = Commit(title, message, author, files | {".gitattributes": Blob(attributes, lfs=False)}, made.parent)
        self.branches[branch] = made
        return made

    def find(self, revision):
        """The commit of a branch, a tag or at least 7 digits of a SHA."""
        if named := self.branches.get(revision) or self.tags.get(revision):
            return named
        heads = [*self.branches.values(), *self.tags.values()]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            for commit in (commit for head in heads for commit in head.history()):
                if commit.sha.startswith(revision):
                    return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
