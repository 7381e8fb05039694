"""The Hub of the tests, seen by the unmodified client it is for. Its faults are those of integration/test_hub.py."""

import os
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from loopback_hub import Fault

CARD = b"---\nlicense: apache-2.0\npipeline_tag: image-classification\ntags: [vision]\n---\n# A model\n"


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token="hf_ann")


def test_upload_and_download(hub, api, tmp_path):
    """Large, binary and text files, one of them in a folder."""
    files = {"model.safetensors": os.urandom(300_000), "plots/loss.png": b"\x89PNG\0" + os.urandom(500)}
    files |= {"config.json": b"{}", "README.md": CARD}
    for name, data in files.items():
        (tmp_path / "checkpoint" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkpoint" / name).write_bytes(data)
    api.create_repo("ann/model")
    first = api.upload_folder(repo_id="ann/model", folder_path=tmp_path / "checkpoint")
    assert api.upload_folder(repo_id="ann/model", folder_path=tmp_path / "checkpoint").oid == first.oid
    assert {name: data for name, data in hub.files("ann/model").items() if name != ".gitattributes"} == files
    snapshot = api.snapshot_download("ann/model", cache_dir=tmp_path / "cache")
    assert {name: Path(snapshot, name).read_bytes() for name in files} == files
    info = api.model_info("ann/model", files_metadata=True)
    assert info.sha == first.oid and info.pipeline_tag == "image-classification" and info.tags == ["vision"]
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes.items() >= {name: len(data) for name, data in files.items()}.items()


@pytest.mark.parametrize("token", ["hf_read", "hf_bob", False])
def test_only_the_owner_writes_and_reads_what_is_private(hub, token):
    hub.add_user("ann", "hf_read", write=False)
    hub.add_user("bob")
    hub.add_repo("ann/model", {"a.txt": "a"})
    hub.add_repo("ann/secret", {"a.txt": "secret"}, private=True)
    api = HfApi(endpoint=hub.endpoint, token=token)
    changes = [lambda: api.create_repo("ann/new"), lambda: api.create_tag("ann/model", tag="v1")]
    changes += [lambda: api.upload_file(path_or_fileobj=b"b", path_in_repo="a.txt", repo_id="ann/model")]
    for change in changes:
        with pytest.raises(HfHubHTTPError, match="403" if token else "401"):
            change()
    assert hub.files("ann/model")["a.txt"] == b"a" and ("model", "ann/new") not in hub.repos
    if token != "hf_read":
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("ann/secret")


def test_connection_cut_during_a_download(hub, api, tmp_path):
    content = os.urandom(1000) * 24_000  # the client keeps what it has by 10 MiB
    hub.add_repo("ann/model", {"a.bin": content})
    hub.plant(Fault("resolve", cut=True))
    found = api.hf_hub_download("ann/model", "a.bin", cache_dir=tmp_path)
    assert Path(found).read_bytes() == content
