"""Training, pushing and loading against a real server that speaks the Hub's protocol."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.utils import validate_repo_id
from loopback_hub import Fault, LoopbackHub
from loopback_hub.store import Blob
from safetensors.torch import load_file, save_file
from transformers.trainer_callback import TrainerState

from hf_cifar_resnet import CifarResNetForImageClassification
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.commands.parser import parse_arguments
from hf_cifar_resnet.hub import client
from hf_cifar_resnet.hub.callback import HubCallback, _repo_name
from hf_cifar_resnet.reporting.card import model_card
from hf_cifar_resnet.runs.folder import RunFolder
from hf_cifar_resnet.runs.record import RunRecord
from hf_cifar_resnet.training.arguments import resolve

from .conftest import PUSHED, run_each, use_elsewhere, write_noise

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
TOKEN = "hf_AnnsOwnSecretToken"
NAMES = ["oak", "pine", "cat", "dog"]
DATASET_CARD = "---\nlicense: cc-by-4.0\n---\n\n# Trees\n\n```bibtex\n@misc{trees,\n  year={2009}\n}\n```\n"
SMALL = "--block basic --stage_depths 1 1 --stage_widths 16 32 --global_batch_size 8 --use_cpu --seed 7".split()
EVERY_3 = "--max_steps 6 --eval_strategy steps --eval_steps 3 --save_strategy steps --save_steps 3".split()
ON_TREES = ["--dataset_name", "ann/trees", *SMALL, *EVERY_3]


def add_ann(hub, folder):
    hub.add_user("ann", token=TOKEN)
    trees = write_noise(folder / "trees", {"label": NAMES}, {"train": 40, "test": 12})
    files = {f"data/{path.name}": path for path in (trees / "data").iterdir()} | {"README.md": DATASET_CARD}
    hub.add_repo("ann/trees", files, kind="dataset")


def environment_of(hub, cwd, token):
    environment = hub.environment(token=token, cache=cwd / "cache") | {"PYTHONPATH": str(REPOSITORY)}
    environment.pop("HF_HUB_DISABLE_PROGRESS_BARS")  # the Trainer warns where it is set
    return environment


def run(hub, cwd, *words, token=TOKEN):
    """`hf-cifar-resnet WORDS` in a process that knows this Hub alone, with a cache of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hf_cifar_resnet", *map(str, words)], cwd=cwd, env=environment_of(hub, cwd, token),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture
def hub(hub):
    hub.add_user("ann", token=TOKEN)
    return hub


@pytest.fixture
def push(monkeypatch, capsys, tmp_path):
    """A function that runs `hf-cifar-resnet push WORDS` in this process, which is faster."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(client, "WAITS", (0.01,) * 4)
    monkeypatch.chdir(tmp_path)

    def call(hub, *words, token=TOKEN):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", token or "")
        capsys.readouterr()
        try:
            cli(["push", *map(str, words)])
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    return call


def check_one_line(result):
    """The only thing said on standard error is one line."""
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def check_complete(files):
    assert set(files) - {".gitattributes"} == PUSHED


def check_redacted(files, *places):
    for name, content in files.items():
        assert TOKEN.encode() not in content, name
        for place in (*places, REPOSITORY, Path.home()):
            assert name.endswith(".safetensors") or str(place).encode() not in content, name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a dataset of the Hub that was pushed while it trained and at its end, state included."""
    folder = tmp_path_factory.mktemp("hub")
    with LoopbackHub() as hub:
        add_ann(hub, folder)
        where = ["--output_dir", folder / "my runs" / "one"]
        push = "--push_to_hub --hub_model_id model --hub_strategy all_checkpoints --hub_token".split()
        result = run(hub, folder, "train", *ON_TREES, *where, *push, TOKEN, token=None)
        assert result.returncode == 0, result.stderr
        yield SimpleNamespace(hub=hub, cwd=folder, folder=where[1], result=result)


# A run that is pushed


@pytest.mark.lowest
def test_repository_is_complete_and_redacted(trained):
    files = trained.hub.files("ann/model")
    check_complete(files)
    check_redacted(files, trained.cwd)
    assert files["model.safetensors"] == (trained.folder / "model.safetensors").read_bytes()
    assert TOKEN not in trained.result.stdout + trained.result.stderr
    assert f"Pushed     {trained.hub.endpoint}/ann/model" in trained.result.stdout


def test_push_during_training_is_complete_too(trained):
    *_, first, _ = trained.hub.repos["model", "ann/model"].branches["main"].history()
    files = trained.hub.files("ann/model", revision=first.sha)
    check_complete(files)
    check_redacted(files, trained.cwd)
    assert b"Training has not finished" in files["README.md"]


def test_state_is_on_a_branch_of_its_own_without_pickle(trained):
    assert trained.hub.branches("ann/model")[:2] == ["main", "checkpoint-3"]
    files = trained.hub.files("ann/model", revision="checkpoint-3")
    assert {Path(name).suffix for name in files} == {"", ".json", ".md", ".png", ".py", ".safetensors"}
    assert {"optimizer.pt.safetensors", "scheduler.pt.json", "rng_state.pth.json", "trainer_state.json"} <= set(files)
    check_redacted(files, trained.cwd)


def test_loads_elsewhere_with_transformers_alone(trained, tmp_path):
    found = use_elsewhere("ann/model", tmp_path, trained.hub.environment(cache=tmp_path / "cache"))
    with torch.no_grad():
        own = CifarResNetForImageClassification.from_pretrained(trained.folder)(torch.from_numpy(found.pixels)).logits
    np.testing.assert_allclose(found.logits, own, rtol=1e-5, atol=1e-6)
    assert found.labels == NAMES and found.top == [NAMES[i] for i in found.logits.argmax(axis=1)]


def test_card(trained, tmp_path):
    files = trained.hub.files("ann/model")
    (tmp_path / "README.md").write_bytes(files["README.md"])
    card = ModelCard.load(tmp_path / "README.md")
    metrics = json.loads(files["metrics.json"])
    revision = trained.hub.repos["dataset", "ann/trees"].branches["main"].sha
    assert (card.data.datasets, card.data.pipeline_tag) == (["ann/trees"], "image-classification")
    scored = {(r.dataset_split, r.metric_name): r for r in card.data.eval_results}
    for name, score in (("loss", "loss"), ("top-1 accuracy", "top1")):
        assert scored["test", name].metric_value == metrics["test"][score]
        assert scored["test", name].dataset_revision == revision
    assert all(isinstance(result, EvalResult) for result in card.data.eval_results)
    for text in (
        f"revision `{revision}`",
        "Licence: cc-by-4.0",
        "@misc{trees,\n  year={2009}\n}",
        'model="ann/model"',
        '.from_pretrained("ann/model")',
        "--dataset_name ann/trees",
        "--output_dir one",
        "--hub_token '<HUB_TOKEN>'",
        "trained from scratch",
    ):
        assert text in card.text, text


def test_pushing_the_same_again_makes_no_commit(push, trained):
    before = trained.hub.commits("ann/model")
    result = push(trained.hub, trained.folder, "ann/model")
    assert result.stdout == f"Nothing new: {trained.hub.endpoint}/ann/model holds it already\n", result.stderr
    assert trained.hub.commits("ann/model") == before


def test_private_repository_branch_and_tag(push, trained):
    hub, where = trained.hub, ("ann/private", "--private", "--revision", "v1-branch", "--tag", "v1.0")
    for _ in range(2):
        result = push(hub, trained.folder, *where)
        assert result.returncode == 0, result.stderr
    assert hub.repos["model", "ann/private"].private
    assert hub.branches("ann/private") == ["main", "v1-branch"] and hub.tags("ann/private") == ["v1.0"]
    check_complete(hub.files("ann/private", revision="v1.0"))
    assert hub.commits("ann/private", revision="v1-branch") == ["Push a trained model", "initial commit"]
    other = push(hub, trained.folder, *where[:-4], "--tag", "v1.0")
    assert "pushed, but not tagged: the tag v1.0 of ann/private marks an older commit" in check_one_line(other)
    assert other.stdout.splitlines()[0] == f"Pushed {hub.endpoint}/ann/private"


@pytest.mark.parametrize("branch", [[], ["--revision", "new"]])
def test_public_repository_that_is_to_be_private_is_refused(push, trained, hub, branch):
    """The Hub makes a new repository private, and leaves one that exists as it is."""
    hub.add_repo("ann/model", {"notes.txt": "Mine."})
    before = hub.files("ann/model")
    line = check_one_line(push(hub, trained.folder, "ann/model", "--private", *branch))
    assert "not pushed: ann/model exists and is public" in line and f"{hub.endpoint}/ann/model/settings" in line
    assert hub.files("ann/model") == before and hub.branches("ann/model") == ["main"]
    hub.repos["model", "ann/model"].private = True
    assert push(hub, trained.folder, "ann/model", "--private", *branch).returncode == 0


# Going on from the Hub


def test_resuming_from_a_branch_ends_with_the_same_weights(trained, tmp_path):
    words = [*ON_TREES, "--resume_from_checkpoint", "ann/model@checkpoint-3", "--output_dir", "resumed"]
    result = run(trained.hub, tmp_path, "train", *words)
    assert result.returncode == 0, result.stderr
    assert "Resumed    resumed/checkpoint-3, from ann/model@checkpoint-3 on the Hub" in result.stdout
    again = tmp_path / "resumed"
    for name in ("checkpoint-6/model.safetensors", "model.safetensors"):
        assert (again / name).read_bytes() == (trained.folder / name).read_bytes()
    untimed = [json.loads((f / "metrics.json").read_text()) | {"timing": None} for f in (again, trained.folder)]
    assert untimed[0] == untimed[1]


def test_fine_tuning_with_the_same_labels_keeps_the_classifier(trained, tmp_path):
    words = "--dataset_name ann/trees --model_name_or_path ann/model --use_cpu --global_batch_size 8".split()
    result = run(trained.hub, tmp_path, "train", *words, "--max_steps", "1", "--learning_rate", "1e-9")
    assert result.returncode == 0 and "New classifier" not in result.stderr, result.stderr
    [folder] = (tmp_path / "runs").iterdir()
    first, second = (load_file(f / "model.safetensors") for f in (trained.folder, folder))
    for name in ("classifier.weight", "resnet.backbone.conv1.weight"):
        np.testing.assert_allclose(first[name], second[name], atol=1e-6)
    assert "fine-tuned from `ann/model`" in (folder / "README.md").read_text()
    assert ModelCard.load(folder / "README.md").data.base_model == "ann/model"
    processors = [json.loads((f / "preprocessor_config.json").read_text()) for f in (trained.folder, folder)]
    assert processors[0]["image_mean"] == processors[1]["image_mean"]


def test_fine_tuning_on_other_labels(trained, tmp_path, caplog):
    words = "--dataset_name shapes100 --max_train_samples 100 --max_eval_samples 100 --max_steps 1 --use_cpu".split()
    where = ["--model_name_or_path", str(trained.folder), "--output_dir", str(tmp_path / "shapes")]
    cli(["train", *words, *where, "--global_batch_size", "8"])
    assert (
        "New classifier, since the classes of the checkpoint and of the dataset differ: 4 classes in the" in caplog.text
    )
    assert load_file(tmp_path / "shapes" / "model.safetensors")["classifier.weight"].shape == (100, 32)
    assert str(tmp_path) not in (tmp_path / "shapes" / "README.md").read_text()


# Faults


@pytest.mark.parametrize(
    "fault",
    [
        Fault("create", status=500),
        Fault("create", status=429, headers={"Retry-After": "1"}),
        Fault("info", cut=True),
        Fault("preupload", status=503),
        Fault("preupload", cut=True),
        Fault("lfs_batch", status=500, times=2),
        Fault("lfs_upload", status=500),
        Fault("lfs_upload", cut=True),
        Fault("lfs_upload", reset=True),
        Fault("commit", status=409),
        Fault("commit", status=429, headers={"Retry-After": "2"}),
        Fault("commit", status=500, after=True),
        Fault("commit", cut=True),
        Fault("commit", cut=True, after=True),
    ],
    ids=lambda fault: f"{fault.stage}-{fault.status or 'cut'}{'-after' * fault.after}",
)
def test_push_recovers_from_a_fault(push, trained, hub, fault):
    hub.plant(fault)
    result = push(hub, trained.folder, "ann/model")
    assert result.returncode == 0, result.stderr
    check_complete(hub.files("ann/model"))
    assert hub.commits("ann/model") == ["Push a trained model", "initial commit"]


@pytest.mark.parametrize(
    "token, fault, reason",
    [
        (None, None, "there is no Hugging Face token: run `hf auth login`"),
        ("hf_unknown", None, "does not accept the token (401)"),
        ("hf_reads", None, "may not write to ann/model (403)"),
        (TOKEN, Fault("commit", status=403, times=None), "may not write to ann/model (403)"),
        (TOKEN, Fault("lfs_upload", status=403, times=None), "(403)"),
        (TOKEN, Fault("commit", status=500, times=None), "the Hub answers 500"),
    ],
)
def test_push_that_fails_says_why_and_is_completed_later(push, trained, hub, token, fault, reason):
    hub.add_user("ann", token="hf_reads", write=False)
    if fault:
        hub.plant(fault)
    result = push(hub, trained.folder, "ann/model", token=token)
    assert check_one_line(result).startswith("error: not pushed: ") and reason in result.stderr
    hub.clear_faults()
    assert push(hub, trained.folder, "ann/model").returncode == 0
    check_complete(hub.files("ann/model"))


def test_no_network(push, trained, hub):
    hub.close()
    assert "the Hub cannot be reached" in check_one_line(push(hub, trained.folder, "ann/model"))


PUSH = [*ON_TREES, "--push_to_hub", "--hub_model_id", "ann/model"]
# What is typed after `train`, without a token in the environment, and a part of the answer.
REFUSED = {
    "model without its state": ([*ON_TREES, "--resume_from_checkpoint", "ann/model@main"], "but not the state"),
    "no such revision": ([*ON_TREES, "--resume_from_checkpoint", "ann/model@nowhere"], "no such revision"),
    "state that was not pushed": (
        [*ON_TREES, "--resume_from_checkpoint", "ann/model@last-checkpoint"],
        "no such revision as last-checkpoint; training pushes it with --hub_strategy checkpoint",
    ),
    "nothing to resume": ([*ON_TREES, "--resume_from_checkpoint", "ann/nothing@main"], "there is no ann/nothing"),
    "nothing to fine-tune": (
        ["--model_name_or_path", "ann/nothing"],
        "from the Hub: there is no ann/nothing on the Hub",
    ),
    "no token": (PUSH, "there is no Hugging Face token"),
    "no right to write": ([*PUSH, "--hub_token", "hf_bobs_token"], "may not write to ann/model"),
}


@pytest.fixture(scope="module")
def refused(trained, tmp_path_factory):
    """The working directory, and what each of [`REFUSED`] ended with."""
    cwd = tmp_path_factory.mktemp("refused")
    trained.hub.add_user("bob", token="hf_bobs_token")
    commands = [["train", *words] for words, _ in REFUSED.values()]
    answers = run_each(commands, cwd, environment_of(trained.hub, cwd, token=None))
    return cwd, dict(zip(REFUSED, answers, strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_training_that_does_not_start(refused, name):
    cwd, answers = refused
    assert REFUSED[name][1] in check_one_line(answers[name])
    assert not (cwd / "runs").exists()


def test_training_comes_first(tmp_path, hub):
    """The Hub does not answer at the start, and refuses every commit; the printed command finishes the push."""
    add_ann(hub, tmp_path)
    hub.plant(Fault("create", status=500))
    hub.plant(Fault("commit", status=403, times=None))
    where = ["--output_dir", "run", "--push_to_hub", "--hub_model_id", "ann/model", "--hub_private_repo", "true"]
    result = run(hub, tmp_path, "train", *ON_TREES, *where, "--hub_strategy", "every_save")
    assert "training starts, and pushes when the Hub answers again" in result.stdout
    assert "warning: not pushed: the token may not write to ann/model (403)" in result.stdout
    said = result.stderr.splitlines()[-1]
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "the run is trained and saved, but not pushed: the token may not write to ann/model" in said
    assert {path.name for path in (tmp_path / "run").iterdir()} >= PUSHED
    hub.clear_faults()
    [_, command] = said.strip().split("This finishes the push: ")
    assert run(hub, tmp_path, *shlex.split(command)[1:]).returncode == 0
    check_complete(hub.files("ann/model"))
    assert hub.repos["model", "ann/model"].private


# What others did


def edit(hub, name, path, change, kind="model"):
    """A commit of somebody else's, as the Hub's website makes it, that changes a file; None deletes it."""
    repo = hub.repos[kind, name]
    files = dict(repo.branches["main"].files)
    content = change(files.pop(path).data if path in files else b"")
    files |= {path: Blob(content, lfs=path.endswith(".safetensors"))} if content is not None else {}
    repo.add_commit("main", f"Update {path}", "", "bob", files)


def changed_run(trained, folder, name="run"):
    """A copy of the run with other weights and figures."""
    folder = shutil.copytree(trained.folder, folder / name)
    weights = load_file(folder / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, folder / "model.safetensors")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test"]["top1"] = 0.123
    (folder / "metrics.json").write_text(json.dumps(metrics))
    record, metrics = RunFolder(folder).read_record(), RunFolder(folder).read_metrics()
    (folder / "README.md").write_text(str(model_card(record, metrics)))
    return folder


def set_license(card):
    return card.replace(b"license: apache-2.0", b"license: cc-by-nc-4.0")


@pytest.mark.parametrize("card", [set_license, lambda card: card + b"\nDo not use it for trees.\n"])
def test_card_that_others_edited_stays(push, trained, tmp_path, hub, card):
    """And a push goes on: the weights are those of the run, and the card is pushed again where it was deleted."""
    assert push(hub, trained.folder, "ann/model").returncode == 0
    edit(hub, "ann/model", "README.md", card)
    edited, run = hub.files("ann/model")["README.md"], changed_run(trained, tmp_path)
    for _ in range(2):
        result = push(hub, run, "ann/model")
        assert result.returncode == 0, result.stderr
        assert f"stays: delete it there and push again to replace it by {run / 'README.md'}" in result.stdout
        files = hub.files("ann/model")
        assert files["README.md"] == edited
        assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    edit(hub, "ann/model", "README.md", lambda card: None)
    assert "stays" not in push(hub, run, "ann/model").stdout
    assert b"12.30%" in hub.files("ann/model")["README.md"]


def test_card_that_is_edited_here_and_not_there_is_pushed(push, trained, tmp_path, hub):
    run = shutil.copytree(trained.folder, tmp_path / "run")
    for text in ("My first words.", "My second words."):
        (run / "README.md").write_text(f"---\nlicense: mit\n---\n{text}\n")
        assert push(hub, run, "ann/model").returncode == 0
        assert text.encode() in hub.files("ann/model")["README.md"]


def test_push_reports_the_run_that_it_replaces(push, trained, tmp_path, hub):
    """Who names a repository means it, and the run before stays in its history."""
    other = changed_run(trained, tmp_path)
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"id": "another"}))
    assert "replaces" not in push(hub, trained.folder, "ann/model").stdout
    before = hub.repos["model", "ann/model"].branches["main"].sha
    printed = push(hub, other, "ann/model").stdout
    assert f"It replaces the model of run {record['id']}, which stays in the history as commit {before[:7]}" in printed
    assert "replaces" not in push(hub, changed_run(trained, tmp_path / "again"), "ann/other").stdout


def test_card_of_a_run_without_an_id_stays_if_others_edited_it(push, trained, tmp_path, hub):
    """A former version recorded no id, and wrote other cards: such a run is known again all the same."""
    run, other = changed_run(trained, tmp_path), changed_run(trained, tmp_path, "other")
    for folder, seed in ((run, 1), (other, 2)):
        record = json.loads((folder / "run.json").read_text())
        del record["id"]
        record["arguments"]["seed"] = seed
        (folder / "run.json").write_text(json.dumps(record))
    assert push(hub, run, "ann/model").returncode == 0
    edit(hub, "ann/model", "README.md", set_license)
    edited = hub.files("ann/model")["README.md"]
    (run / "metrics.json").write_text((run / "metrics.json").read_text().replace("0.123", "0.321"))
    result = push(hub, run, "ann/model")
    assert "stays: delete it there" in result.stdout and hub.files("ann/model")["README.md"] == edited
    assert b"0.321" in hub.files("ann/model")["metrics.json"]
    assert "others have written or changed its README.md" in check_one_line(push(hub, other, "ann/model"))


@pytest.mark.parametrize("name", ["ann/tree", "tree"])
@pytest.mark.parametrize("words", ["", '\nNot for "one".\n'], ids=["as written", "edited or of a former version"])
def test_code_in_the_card_names_the_repository(push, trained, tmp_path, hub, name, words):
    run = changed_run(trained, tmp_path)
    with open(run / "README.md", "a", encoding="utf-8") as card:
        card.write(words)
    assert push(hub, run, name).returncode == 0
    card = hub.files("ann/tree")["README.md"].decode()
    assert 'model="ann/tree", trust' in card and '.from_pretrained("ann/tree")' in card and words in card


def test_card_of_a_repository_that_was_made_by_hand_stays(push, trained, hub):
    hub.add_repo("ann/model", {"README.md": "---\nlicense: mit\n---\nMine."})
    assert "stays" in push(hub, trained.folder, "ann/model").stdout
    assert hub.files("ann/model")["README.md"].endswith(b"Mine.")
    assert set(hub.files("ann/model")) - {".gitattributes"} == PUSHED


@pytest.mark.parametrize(
    "path, change",
    [
        ("config.json", lambda content: content.replace(b"oak", b"Oak")),
        ("model.safetensors", lambda content: content[::-1]),
        ("modeling_cifar_resnet.py", lambda content: content + b"# mended"),
    ],
)
def test_other_file_that_others_changed_stops_a_push(push, trained, tmp_path, hub, path, change):
    assert push(hub, trained.folder, "ann/model").returncode == 0
    edit(hub, "ann/model", path, change)
    before, run = hub.files("ann/model"), changed_run(trained, tmp_path)
    assert f"others have written or changed its {path}" in check_one_line(push(hub, run, "ann/model"))
    assert hub.files("ann/model") == before
    edit(hub, "ann/model", path, lambda content: None)
    assert push(hub, run, "ann/model").returncode == 0


def test_commit_between_the_look_and_the_push_is_not_lost(push, trained, tmp_path, hub, monkeypatch):
    assert push(hub, trained.folder, "ann/model").returncode == 0
    create_commit = client.HfApi.create_commit

    def late(api, *args, **kwargs):
        monkeypatch.setattr(client.HfApi, "create_commit", create_commit)
        edit(hub, "ann/model", "README.md", set_license)
        return create_commit(api, *args, **kwargs)

    monkeypatch.setattr(client.HfApi, "create_commit", late)
    result = push(hub, changed_run(trained, tmp_path), "ann/model")
    assert result.returncode == 0 and "stays" in result.stdout, result.stderr
    assert b"license: cc-by-nc-4.0" in hub.files("ann/model")["README.md"]


def test_card_that_is_edited_while_training_stays(trained, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    folder = shutil.copytree(trained.folder, tmp_path / "model")
    words = ["--output_dir", str(folder), *SMALL, *EVERY_3, "--hub_token", "hf_ann", "--hub_strategy", "every_save"]
    args = resolve(parse_arguments([*words, "--push_to_hub"])).training
    callback = HubCallback(args, "validation", RunRecord.read(folder / "run.json"))
    for step in (3, 6):
        state = TrainerState.load_from_json(folder / f"checkpoint-{step}" / "trainer_state.json")
        callback.on_save(args, state, None)
        callback._thread.join()
        if step == 3:
            edit(hub, "ann/model", "README.md", set_license)
            edited = hub.files("ann/model")["README.md"]
    assert capsys.readouterr().out.count("not pushed: the card, README.md") == 1
    assert f"replace it by {folder / 'README.md'}" in callback.finish()
    files = hub.files("ann/model")
    assert files["README.md"] == edited
    assert files["metrics.json"] == (folder / "metrics.json").read_bytes()


@pytest.fixture
def train_here(monkeypatch, tmp_path, capsys):
    """A function that trains for a step in this process and pushes; it returns the error's line, or None."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    words = "--dataset_name shapes100 --max_train_samples 100 --max_eval_samples 100 --push_to_hub --hub_token hf_ann"

    def train(hub, cwd, *more):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        cwd.mkdir(exist_ok=True)
        monkeypatch.chdir(cwd)
        try:
            cli(["train", *words.split(), *SMALL, *more])
        except SystemExit as stopped:
            assert stopped.code == 2
            return capsys.readouterr().err

    return train


def test_another_run_is_replaced_only_if_its_repository_is_named(train_here, hub, tmp_path, capsys):
    """Folders of the same last name, or the same folder, resumed; `.` has the name of the folder it means."""
    one, two = tmp_path / "one" / "tree", tmp_path / "two" / "tree"
    one.parent.mkdir(), two.parent.mkdir()
    assert train_here(hub, one, "--output_dir", ".", "--max_steps", "1") is None
    first = hub.files("ann/tree")
    assert b'model="ann/tree"' in first["README.md"]
    line = train_here(hub, two.parent, "--output_dir", "tree", "--max_steps", "1")
    refused = "--push_to_hub is not possible: tree: it holds another model or run: name another repository with "
    assert f"{refused}--hub_model_id" in line
    assert hub.files("ann/tree") == first and not two.exists()
    assert train_here(hub, one, "--output_dir", ".", "--max_steps", "2", "--resume_from_checkpoint", "auto") is None
    assert hub.files("ann/tree")["model.safetensors"] == (one / "model.safetensors").read_bytes()
    run = json.loads(first["run.json"])["id"]
    capsys.readouterr()
    assert train_here(hub, two, "--output_dir", ".", "--max_steps", "1", "--hub_model_id", "tree") is None
    assert f"Hub        ann/tree (end), replaces the model of run {run}" in capsys.readouterr().out
    assert hub.files("ann/tree")["model.safetensors"] == (two / "model.safetensors").read_bytes()


def test_run_that_is_to_be_private_does_not_start_on_a_public_repository(train_here, hub, tmp_path):
    hub.add_repo("ann/tree", {"notes.txt": "Mine."})
    words = "--output_dir tree --max_steps 1 --hub_model_id tree --hub_private_repo true"
    line = train_here(hub, tmp_path, *words.split())
    assert "push_to_hub is not possible: ann/tree exists and is public" in line
    assert not (tmp_path / "tree").exists() and "config.json" not in hub.files("ann/tree")


def test_model_of_another_kind_is_not_replaced(train_here, hub, tmp_path):
    hub.add_repo("ann/bert", {"config.json": "{}", "model.safetensors": b"weights"})
    assert "it holds another model or run" in train_here(hub, tmp_path, "--output_dir", "bert", "--max_steps", "1")


@pytest.mark.parametrize(
    "folder, name",
    [("my runs/no. 1 (new)", "no.-1-new"), ("a--b..c", "a-b.c"), (".hidden-", "hidden"), ("x" * 200, "x" * 96)],
)
def test_name_of_a_folder_as_a_repository(folder, name):
    assert _repo_name(folder) == name
    validate_repo_id(name)


def test_folder_without_a_name_for_a_repository():
    with pytest.raises(ValueError, match="give a hub_model_id"):
        _repo_name("лес")


# What is not pushed


def test_unfinished_run(push, trained, hub):
    result = push(hub, trained.folder / "checkpoint-6", "ann/model")
    assert "is not the folder of a finished run: it lacks README.md, metrics.json, run.json" in check_one_line(result)
    assert not hub.repos


def test_what_training_did_not_write_is_left_out(push, trained, tmp_path, hub):
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    for name in ("evil.py", "mykeys.json", "holiday.png", "notes.md", "other.safetensors"):
        (folder / name).write_text("{}")
    (tmp_path / "secret.json").write_text('"mine"')
    (folder / "training_args.json").unlink()
    (folder / "training_args.json").symlink_to(tmp_path / "secret.json")
    result = push(hub, folder, "ann/model")
    assert set(hub.files("ann/model")) - {".gitattributes"} == PUSHED - {"training_args.json"}
    assert result.stdout.splitlines()[-1] == (
        "Left out, since training did not write it: evil.py, holiday.png, mykeys.json, notes.md, other.safetensors, "
        "training_args.json (a link)"
    )
    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    assert "it lacks config.json" in check_one_line(push(hub, folder, "ann/model"))


@pytest.mark.parametrize(
    "text, reason",
    [(f"My token is {TOKEN}", "README.md holds your token"), ("See {cwd}/notes", "README.md names the folder")],
)
def test_edited_card_with_a_secret(push, trained, tmp_path, hub, text, reason):
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    with open(folder / "README.md", "a", encoding="utf-8") as card:
        card.write(text.format(cwd=tmp_path))
    assert reason in check_one_line(push(hub, folder, "ann/model"))
    assert not hub.repos


def test_address_that_contains_the_name_of_a_folder_is_no_secret(push, trained, tmp_path, hub):
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    with open(folder / "README.md", "a", encoding="utf-8") as card:
        card.write(f"See https://example.org{tmp_path} and {tmp_path}s")
    assert push(hub, folder, "ann/model").returncode == 0


@pytest.mark.parametrize("repo_id", ["a/b/c", "an n/model", "--x"])
def test_name_that_is_none(push, trained, hub, repo_id):
    check_one_line(push(hub, trained.folder, repo_id))
