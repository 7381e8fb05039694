"""The Hub of the tests, seen by the unmodified client it is for. Its faults are those of integration/test_hub.py."""

import os
from pathlib import Path

from huggingface_hub import HfApi

CARD = b"---\nlicense: apache-2.0\npipeline_tag: image-classification\ntags: [vision]\n---\n# A model\n"


def test_upload_and_download(hub, tmp_path):
    """Large, binary and text files, one of them in a folder."""
    api = HfApi(endpoint=hub.endpoint, token="hf_ann")
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
