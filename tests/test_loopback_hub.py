"""The Hub of the tests, seen by the unmodified clients it is for."""

import importlib
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
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
CARD = (
    "---\nlicense: apache-2.0\npipeline_tag: image-classification\ntags: [vision]\ndate: 2026-01-31\n---\n# A model\n"
)


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token="hf_ann")


@pytest.fixture
def folder(tmp_path):
    """What a checkpoint is made of: large, binary and text files, one of them in a folder."""
    files = {"model.safetensors": os.urandom(300_000), "plots/loss.png": b"\x89PNG\0" + os.urandom(500)}
    files |= {"config.json": b"{}", "README.md": CARD.encode()}
    for name, data in files.items():
        path = tmp_path / "checkpoint" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "checkpoint", files


@pytest.fixture
def push(api, folder):
    """Pushes the folder to ann/model, which is there already."""
    api.create_repo("ann/model")
    return lambda **where: api.upload_folder(repo_id="ann/model", folder_path=folder[0], **where)


def pushed(hub, revision="main"):
    return {name: data for name, data in hub.files("ann/model", revision).items() if name != ".gitattributes"}


def stages(hub):
    return [stage for stage, *_ in hub.requests]


def outcomes(hub, stage):
    return [status for found, *_, status in hub.requests if found == stage]


def test_what_is_uploaded_is_downloaded(hub, api, push, folder, tmp_path):
    push()
    assert pushed(hub) == folder[1]
    snapshot = api.snapshot_download("ann/model", cache_dir=tmp_path / "cache")
    found = {name: Path(snapshot, name).read_bytes() for name in folder[1]}
    assert found == folder[1]


def test_the_same_folder_makes_no_second_commit(hub, push, folder):
    first, second = push(), push()
    assert first.oid == second.oid
    assert hub.commits("ann/model") == ["Upload folder using huggingface_hub", "initial commit"]
    (folder[0] / "config.json").write_text('{"new": 1}')
    push(commit_message="Better")
    assert hub.commits("ann/model")[0] == "Better" and pushed(hub)["config.json"] == b'{"new": 1}'
    assert outcomes(hub, "lfs_upload") == [200, 200]


def test_what_gitignore_names_is_left_out(hub, push, folder):
    (folder[0] / ".gitignore").write_text("plots/\n*.json\n")
    push()
    assert set(pushed(hub)) == {"model.safetensors", "README.md", ".gitignore"}


def test_files_are_deleted(hub, api, push):
    push()
    api.delete_file("config.json", "ann/model")
    api.delete_folder("plots", "ann/model")
    assert set(pushed(hub)) == {"model.safetensors", "README.md"}
    with pytest.raises(RemoteEntryNotFoundError):
        api.delete_file("config.json", "ann/model")


def test_info_tree_and_history_describe_the_commit(hub, api, push, folder):
    made = push(commit_message="Title", commit_description="Why")
    info = api.model_info("ann/model", files_metadata=True)
    assert info.sha == made.oid and not info.private and info.pipeline_tag == "image-classification"
    assert info.card_data.license == "apache-2.0" and info.tags == ["vision"]
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes.items() >= {name: len(data) for name, data in folder[1].items()}.items()
    names = {entry.path: entry for entry in api.list_repo_tree("ann/model", recursive=True)}
    assert names.keys() == folder[1].keys() | {".gitattributes", "plots"}
    assert names["model.safetensors"].lfs and names["plots/loss.png"].lfs and not names["config.json"].lfs
    assert [entry.path for entry in api.list_repo_tree("ann/model", "plots")] == ["plots/loss.png"]
    assert {entry.path for entry in api.get_paths_info("ann/model", ["plots", "README.md", "no"])} == {
        "plots",
        "README.md",
    }
    newest, first = api.list_repo_commits("ann/model")
    assert (newest.commit_id, newest.title, newest.message, newest.authors) == (made.oid, "Title", "Why", ["ann"])
    assert first.title == "initial commit"


def test_a_branch_grows_by_itself_and_a_tag_stays(hub, api, push, folder):
    push()
    api.create_branch("ann/model", branch="last/state", revision="main")
    api.create_tag("ann/model", tag="v1")
    (folder[0] / "config.json").write_text("[]")
    branched = push(revision="last/state")
    assert pushed(hub, "last/state")["config.json"] == b"[]" and pushed(hub)["config.json"] == b"{}"
    assert pushed(hub, "v1") == pushed(hub) and len(hub.commits("ann/model", "last/state")) == 3
    assert api.model_info("ann/model", revision=branched.oid[:7]).sha == branched.oid
    push()
    assert pushed(hub, "v1") != pushed(hub)
    assert hub.branches("ann/model") == ["main", "last/state"] and hub.tags("ann/model") == ["v1"]
    references = api.list_repo_refs("ann/model")
    assert references.branches[1].target_commit == branched.oid and references.tags[0].name == "v1"
    for create in (lambda **ok: api.create_branch("ann/model", branch="last/state", **ok),
                   lambda **ok: api.create_tag("ann/model", tag="v1", **ok)):  # fmt: skip
        create(exist_ok=True)
        with pytest.raises(HfHubHTTPError, match="409"):
            create()
    api.delete_branch("ann/model", branch="last/state")
    api.delete_tag("ann/model", tag="v1")
    assert hub.branches("ann/model") == ["main"] and hub.tags("ann/model") == []
    with pytest.raises(RevisionNotFoundError):
        push(revision="last/state")


def test_a_commit_needs_the_right_parent(hub, api, push):
    parent = push().oid
    add = CommitOperationAdd("a.txt", b"a")
    api.create_commit("ann/model", [add], commit_message="First", parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="412"):
        late = CommitOperationAdd("b.txt", b"b")
        api.create_commit("ann/model", [late], commit_message="Second", parent_commit=parent)
    assert hub.commits("ann/model")[0] == "First"


def test_a_repository_is_created_once(hub, api):
    assert api.create_repo("ann/model", private=True).repo_id == "ann/model"
    assert hub.repos["model", "ann/model"].private and list(hub.files("ann/model")) == [".gitattributes"]
    api.create_repo("ann/model", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("ann/model")
    assert api.create_repo("ann/model", repo_type="dataset").repo_type == "dataset"


def test_a_private_repository_is_hidden(hub, tmp_path):
    hub.add_user("bob")
    hub.add_repo("ann/secret", {"a.txt": "secret"}, private=True)
    for token in (False, "hf_bob"):
        other = HfApi(endpoint=hub.endpoint, token=token)
        for read in (other.model_info, lambda name, a=other: a.hf_hub_download(name, "a.txt", cache_dir=tmp_path)):
            for name in ("ann/secret", "ann/none"):
                with pytest.raises(RepositoryNotFoundError):
                    read(name)
    hub.add_user("ann", "hf_read", write=False)
    assert HfApi(endpoint=hub.endpoint, token="hf_read").model_info("ann/secret").private


@pytest.mark.parametrize("token", ["hf_read", "hf_bob", False])
def test_only_the_owner_writes(hub, token):
    hub.add_user("ann", "hf_read", write=False)
    hub.add_user("bob")
    hub.add_repo("ann/model", {"a.txt": "a"})
    api = HfApi(endpoint=hub.endpoint, token=token)
    changes = [lambda: api.create_repo("ann/new"), lambda: api.create_tag("ann/model", tag="v1")]
    changes += [lambda: api.upload_file(path_or_fileobj=b"b", path_in_repo="a.txt", repo_id="ann/model")]
    changes += [lambda: api.auth_check("ann/model", write=True)]
    for change in changes:
        with pytest.raises(HfHubHTTPError, match="403" if token else "401"):
            change()
    assert hub.files("ann/model")["a.txt"] == b"a" and ("model", "ann/new") not in hub.repos


def test_tokens_say_what_they_may(hub):
    hub.add_user("ann", "hf_read", write=False)
    hub.add_user("ann", "hf_fine", fine_grained=True, organizations=["lab"])

    def ask(token):
        return HfApi(endpoint=hub.endpoint, token=token).whoami()

    roles = [ask(token)["auth"]["accessToken"]["role"] for token in ("hf_ann", "hf_read", "hf_fine")]
    assert roles == ["write", "read", "fineGrained"]
    fine = ask("hf_fine")
    assert fine["orgs"][0]["name"] == "lab"
    assert "repo.write" in fine["auth"]["accessToken"]["fineGrained"]["scoped"][0]["permissions"]
    HfApi(endpoint=hub.endpoint, token="hf_fine").create_repo("lab/model")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        ask("hf_wrong")


@pytest.mark.parametrize("metadata", ["license: my-own", "license: [mit", "- a list"])
def test_a_card_with_wrong_metadata_is_refused(hub, push, folder, metadata):
    (folder[0] / "README.md").write_text(f"---\n{metadata}\n---\n")
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        push()
    assert hub.commits("ann/model") == ["initial commit"]


def test_downloads_by_parts(hub):
    hub.add_repo("ann/model", {"a.bin": b"\x00" + b"123456789"})
    url = f"{hub.endpoint}/ann/model/resolve/main/a.bin"

    def get(wanted):
        return httpx.get(url, headers={"Range": wanted}, trust_env=False)

    assert [get(r).content for r in ("bytes=2-4", "bytes=7-", "bytes=-2", "bytes=6-99")] == [
        b"234",
        b"789",
        b"89",
        b"6789",
    ]
    assert get("bytes=2-4").status_code == 206 and get("bytes=2-4").headers["Content-Range"] == "bytes 2-4/10"
    assert get("bytes=10-").status_code == 416
    head = httpx.head(url, trust_env=False)
    assert head.headers["X-Linked-Size"] == head.headers["Content-Length"] == "10"
    assert head.headers["X-Linked-Etag"] == head.headers["ETag"] and not head.content


def test_what_is_missing_is_told_apart(hub, api, tmp_path):
    hub.add_repo("ann/model", {"a.txt": "a"})
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("ann/model", "b.txt", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("ann/model", "a.txt", revision="v9", cache_dir=tmp_path)
    with pytest.raises(KeyError):
        hub.files("ann/model", "v9")
    with pytest.raises(KeyError):
        hub.files("ann/other")


def test_an_upload_with_other_content_is_refused(hub, api, push):
    lfs = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 3}]}
    with httpx.Client(headers={"Authorization": "Bearer hf_ann"}, trust_env=False) as client:
        batch = client.post(f"{hub.endpoint}/ann/model.git/info/lfs/objects/batch", json=lfs).json()
        assert client.put(batch["objects"][0]["actions"]["upload"]["href"], content=b"abc").status_code == 400
        lines = b'{"key": "header", "value": {"summary": "s"}}\n{"key": "lfsFile", "value": {"path": "a", "oid": "%s"}}'
        answer = client.post(f"{hub.endpoint}/api/models/ann/model/commit/main", content=lines % (b"0" * 64))
    assert answer.status_code == 400 and hub.commits("ann/model") == ["initial commit"]


READER = """
import sys
from datasets import load_dataset
from transformers import ResNetModel
data = load_dataset("ann/data")
print(data["train"]["x"][:], data["test"].num_rows)
print(sum(p.double().sum().item() for p in ResNetModel.from_pretrained("ann/model").parameters()))
"""


def test_other_libraries_read_from_it_with_an_empty_cache(hub, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from transformers import ResNetConfig, ResNetModel

    def table(count):
        file = io.BytesIO()
        parquet.write_table(pa.table({"x": list(range(count))}), file)
        return file.getvalue()

    model = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic"))
    model.save_pretrained(tmp_path / "model")
    hub.add_repo("ann/model", {path.name: path for path in (tmp_path / "model").iterdir()}, private=True)
    parts = {f"data/{split}-00000-of-00001.parquet": table(count) for split, count in {"train": 4, "test": 2}.items()}
    hub.add_repo("ann/data", parts, kind="dataset", private=True)
    environment = hub.environment("hf_ann", tmp_path / "cache")
    result = subprocess.run([sys.executable, "-c", READER], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows, total = result.stdout.splitlines()
    assert rows == "[0, 1, 2, 3] 2"
    assert float(total) == pytest.approx(sum(p.double().sum().item() for p in model.parameters()))


def test_a_status_with_retry_after(hub, push, folder):
    hub.plant(Fault("preupload", status=429, headers={"Retry-After": "0"}))
    push()
    assert outcomes(hub, "preupload") == [429, 200] and pushed(hub) == folder[1]


def test_a_status_that_the_client_does_not_retry(hub, push):
    hub.plant(Fault("commit", status=503, times=None))
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="503") as caught:
            push()
        assert "planted fault" in str(caught.value)
    assert hub.commits("ann/model") == ["initial commit"]
    hub.clear_faults()
    push()
    assert len(hub.commits("ann/model")) == 2


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_cut_during_an_upload(hub, push, folder, reset):
    hub.plant(Fault("lfs_upload", cut=True, reset=reset, path="/models/"))
    push()
    assert sorted(outcomes(hub, "lfs_upload")) == [0, 200, 200] and pushed(hub) == folder[1]


def test_a_connection_cut_during_a_download(hub, api, tmp_path):
    content = os.urandom(1000) * 24_000  # the client keeps what it has by 10 MiB
    hub.add_repo("ann/model", {"a.bin": content})
    hub.plant(Fault("resolve", cut=True))
    found = api.hf_hub_download("ann/model", "a.bin", cache_dir=tmp_path)
    assert Path(found).read_bytes() == content
    assert outcomes(hub, "resolve") == [200, 0, 206]  # HEAD, half of it, the rest


@pytest.mark.parametrize(("reset", "error"), [(False, httpx.RemoteProtocolError), (True, httpx.ReadError)])
def test_a_connection_closes_or_is_reset(hub, api, reset, error):
    hub.plant(Fault("whoami", cut=True, reset=reset))
    with pytest.raises(error):
        api.whoami()
    assert outcomes(hub, "whoami") == [0]


def test_the_answer_to_a_planted_status_is_a_hub_error(hub, api):
    hub.plant(Fault("create", status=409, message="Somebody else: \n does this"))
    with pytest.raises(HfHubHTTPError, match="409") as caught:
        api.create_repo("ann/model")
    assert caught.value.server_message.startswith("Somebody else: does this")


def test_an_answer_lost_after_the_commit(hub, push, folder):
    hub.plant(Fault("commit", cut=True, after=True))
    with pytest.raises(httpx.RemoteProtocolError):
        push()
    assert pushed(hub) == folder[1] and outcomes(hub, "commit") == [0]
    push()
    assert len(hub.commits("ann/model")) == 2


def test_an_error_after_the_commit(hub, push, folder):
    hub.plant(Fault("commit", status=500, after=True))
    with pytest.raises(HfHubHTTPError, match="500"):
        push()
    assert pushed(hub) == folder[1]


def test_a_delay_holds_only_its_own_stage(hub, api):
    hub.plant(Fault("whoami", delay=30))
    waiting = threading.Thread(target=lambda: pytest.raises(httpx.TransportError, api.whoami), daemon=True)
    waiting.start()
    while hub.planted():
        time.sleep(0.005)
    api.create_repo("ann/model")
    assert stages(hub) == ["create"]
    hub.close()
    waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_a_fault_at_no_stage_is_a_mistake():
    with pytest.raises(ValueError, match="lfs_upload"):
        Fault("upload")


def test_a_short_delay_ends_well(hub, api):
    hub.plant(Fault("whoami", delay=0.1))
    assert api.whoami()["name"] == "ann" and not hub.planted()


def test_a_closed_hub_is_one_without_network():
    with LoopbackHub() as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.add_user("ann"))
        assert api.whoami()["name"] == "ann"
    with pytest.raises(httpx.TransportError):
        api.whoami()
    with pytest.raises(httpx.ConnectError):
        api.whoami()
