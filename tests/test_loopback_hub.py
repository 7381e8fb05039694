"""The Hub of the tests, seen by the unmodified client it is for."""

import importlib
import os
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_hub import Fault, LoopbackHub

# What the client speaks HTTP with: httpx in its version 1, httpx2 in its version 2.
httpx = importlib.import_module(HTTPError.__module__)
CARD = "---\nlicense: apache-2.0\npipeline_tag: image-classification\ntags: [vision]\n---\n# A model\n"


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token="hf_ann")


@pytest.fixture
def folder(tmp_path):
    """A checkpoint: large, binary and text files, one of them in a folder."""
    files = {"model.safetensors": os.urandom(300_000), "plots/loss.png": b"\x89PNG\0" + os.urandom(500)}
    files |= {"config.json": b"{}", "README.md": CARD.encode()}
    for name, data in files.items():
        path = tmp_path / "checkpoint" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "checkpoint", files


@pytest.fixture
def push(api, folder):
    """A function that pushes the folder to ann/model, which exists already."""
    api.create_repo("ann/model")
    return lambda **where: api.upload_folder(repo_id="ann/model", folder_path=folder[0], **where)


def pushed(hub, revision="main"):
    return {name: data for name, data in hub.files("ann/model", revision).items() if name != ".gitattributes"}


def outcomes(hub, stage):
    return [status for found, *_, status in hub.requests if found == stage]


def test_upload_and_download(hub, api, push, folder, tmp_path):
    first, second = push(), push()
    assert first.oid == second.oid and pushed(hub) == folder[1]
    snapshot = api.snapshot_download("ann/model", cache_dir=tmp_path / "cache")
    assert {name: Path(snapshot, name).read_bytes() for name in folder[1]} == folder[1]
    info = api.model_info("ann/model", files_metadata=True)
    assert info.sha == first.oid and info.pipeline_tag == "image-classification" and info.tags == ["vision"]
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes.items() >= {name: len(data) for name, data in folder[1].items()}.items()
    (folder[0] / "config.json").write_text('{"new": 1}')
    push(commit_message="Better")
    assert hub.commits("ann/model") == ["Better", "Upload folder using huggingface_hub", "initial commit"]
    assert pushed(hub)["config.json"] == b'{"new": 1}'


def test_branch_and_tag(hub, api, push, folder):
    push()
    api.create_branch("ann/model", branch="last/state", revision="main")
    api.create_tag("ann/model", tag="v1")
    (folder[0] / "config.json").write_text("[]")
    branched = push(revision="last/state")
    assert pushed(hub, "last/state")["config.json"] == b"[]" and pushed(hub) == pushed(hub, "v1") == folder[1]
    assert hub.branches("ann/model") == ["main", "last/state"] and hub.tags("ann/model") == ["v1"]
    references = api.list_repo_refs("ann/model")
    assert references.branches[1].target_commit == branched.oid and references.tags[0].name == "v1"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("ann/model", tag="v1")
    with pytest.raises(RevisionNotFoundError):
        push(revision="nowhere")


def test_private_repository_is_hidden(hub, api, tmp_path):
    hub.add_user("bob")
    hub.add_repo("ann/secret", {"a.txt": "secret"}, private=True)
    for token in (False, "hf_bob"):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=hub.endpoint, token=token).model_info("ann/secret")
    assert api.model_info("ann/secret").private
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("ann/secret", "b.txt", cache_dir=tmp_path)


@pytest.mark.parametrize("token", ["hf_read", "hf_bob", False])
def test_only_the_owner_writes(hub, token):
    hub.add_user("ann", "hf_read", write=False)
    hub.add_user("bob")
    hub.add_repo("ann/model", {"a.txt": "a"})
    api = HfApi(endpoint=hub.endpoint, token=token)
    changes = [lambda: api.create_repo("ann/new"), lambda: api.create_tag("ann/model", tag="v1")]
    changes += [lambda: api.upload_file(path_or_fileobj=b"b", path_in_repo="a.txt", repo_id="ann/model")]
    for change in changes:
        with pytest.raises(HfHubHTTPError, match="403" if token else "401"):
            change()
    assert hub.files("ann/model")["a.txt"] == b"a" and ("model", "ann/new") not in hub.repos


def test_card_with_wrong_metadata_is_refused(hub, push, folder):
    (folder[0] / "README.md").write_text("---\nlicense: my-own\n---\n")
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        push()
    assert hub.commits("ann/model") == ["initial commit"]


# Faults


def test_status_that_the_client_retries(hub, push, folder):
    hub.plant(Fault("preupload", status=429, headers={"Retry-After": "0"}))
    push()
    assert outcomes(hub, "preupload") == [429, 200] and pushed(hub) == folder[1]


def test_status_that_the_client_does_not_retry(hub, push):
    hub.plant(Fault("commit", status=503, times=None))
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="503"):
            push()
    assert hub.commits("ann/model") == ["initial commit"]
    hub.clear_faults()
    push()
    assert len(hub.commits("ann/model")) == 2


@pytest.mark.parametrize("reset", [False, True])
def test_connection_cut_during_an_upload(hub, push, folder, reset):
    hub.plant(Fault("lfs_upload", cut=True, reset=reset))
    push()
    assert sorted(outcomes(hub, "lfs_upload")) == [0, 200, 200] and pushed(hub) == folder[1]


def test_connection_cut_during_a_download(hub, api, tmp_path):
    content = os.urandom(1000) * 24_000  # the client keeps what it has by 10 MiB
    hub.add_repo("ann/model", {"a.bin": content})
    hub.plant(Fault("resolve", cut=True))
    found = api.hf_hub_download("ann/model", "a.bin", cache_dir=tmp_path)
    assert Path(found).read_bytes() == content
    assert outcomes(hub, "resolve") == [200, 0, 206]  # HEAD, half of it, the rest


@pytest.mark.parametrize("fault", [Fault("commit", cut=True, after=True), Fault("commit", status=500, after=True)])
def test_error_after_the_commit(hub, push, folder, fault):
    hub.plant(fault)
    with pytest.raises((httpx.RemoteProtocolError, HfHubHTTPError)):
        push()
    assert pushed(hub) == folder[1]
    push()
    assert len(hub.commits("ann/model")) == 2


def test_fault_at_no_stage_is_a_mistake():
    with pytest.raises(ValueError, match="lfs_upload"):
        Fault("upload")


def test_closed_hub_is_one_without_network():
    with LoopbackHub() as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.add_user("ann"))
        assert api.whoami()["name"] == "ann"
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            api.whoami()
