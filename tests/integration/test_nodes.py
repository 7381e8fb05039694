"""Two processes as on two nodes: each works in a folder of its own, so that the same relative path is not the same."""

import json
import shutil

import pytest

from .conftest import write_noise

pytestmark = pytest.mark.slow
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
TRAIN = (
    "--config quickstart --use_cpu --augmentation none --dataset_name data --validation_fraction 0.2 --max_steps 2 "
    "--global_batch_size 16 --num_train_epochs 1 --output_dir"
).split()
# Every command that the test gives, in both processes. What is wrong is raised in both, so that they go on together
# with the next one.
PROGRAM = """
import json, os, sys
import numpy as np
from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet import ImageDataset, processes
from hf_cifar_resnet.commands import evaluate, train

processes.SEEN_WITHIN = 1
folder, rank, found = sys.argv[1], int(os.environ["RANK"]), {}

def script(seed):
    args = CifarTrainingArguments(output_dir=f"{folder}/script", use_cpu=True, global_batch_size=8, max_steps=1)
    images = np.random.default_rng(seed).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    data = ImageDataset(images, np.arange(16) % 5, [0.5] * 3, [0.25] * 3)
    model = CifarResNetForImageClassification(
        CifarResNetConfig(block="basic", stage_depths=[1], stage_widths=[16], num_labels=5))
    CifarTrainer(model, args, train_dataset=data, eval_dataset=data).train()

def run(words):
    kind, place, *words = words
    os.chdir(f"{folder}/{place.format(rank=rank)}")
    if kind == "script":
        script(rank)
    else:
        {"train": train.main, "evaluate": evaluate.main}[kind](words)

for name, words in json.loads(sys.argv[2]).items():
    try:
        run(words)
        found[name] = ""
    except (ValueError, OSError) as error:
        found[name] = f"{type(error).__name__}: {error}"
with open(f"{folder}/found-{rank}.json", "w") as file:
    json.dump(found, file)
processes.destroy_process_group_at_exit()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders `NAME/0` and `NAME/1`, whose data are the same or differ as the name says."""
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "program.py").write_text(PROGRAM)
    counts, names = {"train": 40, "test": 20}, ["cat", "dog"]
    write_noise(folder / "same" / "0" / "data", {"label": names}, counts)
    for difference in ("classes", "pixels", "test"):
        shutil.copytree(folder / "same", folder / difference)
    write_noise(folder / "classes" / "1" / "data", {"label": ["cat", "wolf"]}, counts)
    write_noise(folder / "pixels" / "1" / "data", {"label": names}, counts, seed=1)
    write_noise(folder / "test" / "1" / "data", {"label": names}, counts)
    write_noise(folder / "test" / "1" / "data", {"label": names}, {"test": 20}, seed=1)
    shutil.copytree(folder / "same" / "0", folder / "same" / "1")
    return folder


COMMANDS = {
    "shared": ["train", "same/0", *TRAIN, "run"],
    "not shared": ["train", "same/{rank}", *TRAIN, "own"],
    "not shared, by its name": ["train", "same/{rank}", *TRAIN[:-1]],
    "holds a run": ["train", "same/{rank}", *TRAIN, "run"],
    "resumed by rank 0 alone": ["train", "same/{rank}", *TRAIN, "run", "--resume_from_checkpoint", "auto"],
    "resumed": ["train", "same/0", *TRAIN, "run", "--resume_from_checkpoint", "auto", "--max_steps", "4"],
    "nothing to resume": ["train", "same/{rank}", *TRAIN, "other", "--resume_from_checkpoint", "true"],
    "classes": ["train", "classes/{rank}", *TRAIN, "run"],
    "pixels": ["train", "pixels/{rank}", *TRAIN, "run"],
    "test": ["train", "test/{rank}", *TRAIN, "run"],
    "evaluated": ["evaluate", "same/0", "{folder}/same/0/run", "--use_cpu"],
    "script": ["script", "same/0"],
    "divided otherwise": ["train", "same/0", *TRAIN, "run", "--accelerator_config", '{"even_batches": false}'],
}


@pytest.fixture(scope="module")
def found(python, folder):
    """What every process raised, by the case."""
    commands = {name: [word.replace("{folder}", str(folder)) for word in words] for name, words in COMMANDS.items()}
    result = python(*TORCHRUN, folder / "program.py", folder, json.dumps(commands), cwd=folder)
    assert result.returncode == 0, result.stderr
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("name", ["not shared", "not shared, by its name", "resumed by rank 0 alone"])
def test_output_folder_that_is_not_shared(found, name):
    assert found[name].startswith("ValueError: the output folder ") and " is not shared: rank 1 (on " in found[name]


def test_nothing_is_left_of_it(found, folder):
    for rank, names in (("0", {"data", "run"}), ("1", {"data"})):
        assert {path.name for path in (folder / "same" / rank).iterdir()} == names
    assert not list((folder / "same" / "0" / "run").glob(".shared*"))


@pytest.mark.parametrize(
    "name, what",
    [
        ("classes", "class names"),
        ("pixels", "training images"),
        ("test", "test images"),
        ("script", "training images"),
    ],
)
def test_data_that_differ(found, name, what):
    assert found[name].startswith(f"ValueError: the {what} of rank 1 (on ")
    assert found[name].endswith(" differ: give all nodes the same copy of the data")


def test_rank_0_decides(found):
    """In a folder of which it alone has the run."""
    assert found["shared"] == found["resumed"] == ""
    assert "run holds a run already" in found["holds a run"]
    assert "cannot be resumed: it has no complete checkpoint" in found["nothing to resume"]


def test_images_are_divided_in_one_way(found):
    assert found["divided otherwise"].startswith("ValueError: accelerator_config must not change split_batches")


def test_evaluate_is_for_one_process(found):
    assert "evaluate scores in one process, and WORLD_SIZE=2 means" in found["evaluated"]
