"""What happens to one process of two: both stop, or save, together."""

import json

import pytest

from hf_cifar_resnet.data.dataset import EpochSampler

from .conftest import LIST_THREADS, has_threads_of_gloo

pytestmark = pytest.mark.slow
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
BAD = 3
# One of that step's 16 images, and so in one of the processes.
IMAGE = int(EpochSampler(96, 42).order(0)[16 * (BAD - 1) + 5])
# Every process writes what it was left with, and how it was stopped.
PROGRAM = (
    f"IMAGE = {IMAGE}"
    + LIST_THREADS
    + """
import json, math, os, signal, sys
atexit.register(list_threads, f"{sys.argv[1]}/threads-{os.environ['RANK']}")
import numpy as np, torch
from transformers import TrainerCallback
from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet import ImageDataset
from hf_cifar_resnet.data.dataset import normalize
from hf_cifar_resnet.training.preemption import Preempted, watch_signals

class Poisoned(ImageDataset):
    def __getitems__(self, positions):
        batch = super().__getitems__(positions)
        pixels = normalize(batch["pixel_values"], self.mean, self.std)
        pixels[np.asarray(positions) % len(self) == IMAGE] = math.nan
        return batch | {"pixel_values": pixels}

class Sender(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 3 and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

def make(kind, callbacks):
    args = CifarTrainingArguments(output_dir=sys.argv[1], use_cpu=True, bf16=False, global_batch_size=16,
                                  num_train_epochs=1,
                                  logging_strategy="epoch", eval_strategy="no", save_strategy="no",
                                  load_best_model_at_end=False)
    torch.manual_seed(0)
    shape = dict(block="basic", stage_depths=[1], stage_widths=[16], num_labels=5)
    data = kind(images, labels, [0.5] * 3, [0.25] * 3)
    return CifarTrainer(CifarResNetForImageClassification(CifarResNetConfig(**shape)), args, train_dataset=data,
                        callbacks=callbacks)

images, labels = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 3), dtype=np.uint8), np.arange(96) % 5
found = {}
try:
    make(Poisoned, []).train()
except FloatingPointError as raised:
    found["error"] = str(raised)
try:
    with watch_signals(["train.py"], sys.argv[1]) as preempted:
        trainer = make(ImageDataset, [Sender(), preempted])
        trainer.train()
        preempted.check()
except Preempted as stopped:
    found["preempted"] = {"code": stopped.code, "step": trainer.state.global_step}
with open(f"{sys.argv[1]}/found-{trainer.args.process_index}.json", "w") as file:
    json.dump(found, file)
del trainer
"""
)


@pytest.fixture(scope="module")
def found(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    (folder / "program.py").write_text(PROGRAM)
    result = python(*TORCHRUN, folder / "program.py", folder, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Preempted ") == 1 and (folder / "checkpoint-4" / "trainer_state.json").is_file()
    processes = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    return [process | {"threads": folder / f"threads-{rank}"} for rank, process in enumerate(processes)]


def test_both_stop_where_a_step_is_not_finite_in_one(found):
    for process in found:
        assert process["error"].startswith(f"step {BAD} ") and str(IMAGE) in process["error"].split()


def test_both_save_after_a_signal_to_one(found):
    assert [process["preempted"] for process in found] == [{"code": 75, "step": 4}] * 2


def test_preempted_processes_have_no_threads_of_gloo(found):
    assert not any(has_threads_of_gloo(process["threads"]) for process in found)


# Two epochs of six steps, saved within the second, and resumed from there.
RESUMES = """
import sys
import numpy as np, torch
from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet import ImageDataset
from hf_cifar_resnet.processes import destroy_process_group_at_exit

images, labels = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 3), dtype=np.uint8), np.arange(96) % 5

def train(resume=None):
    args = CifarTrainingArguments(output_dir=sys.argv[1], use_cpu=True, bf16=False, global_batch_size=16, max_steps=12,
                                  eval_strategy="no", save_strategy="steps", save_steps=8, load_best_model_at_end=False)
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(
        CifarResNetConfig(block="basic", stage_depths=[1], stage_widths=[16], num_labels=5)
    )
    data = ImageDataset(images, labels, [0.5] * 3, [0.25] * 3)
    CifarTrainer(model, args, train_dataset=data).train(resume_from_checkpoint=resume)
    return dict(model.named_parameters())  # the statistics of BatchNorm are each process's own

whole, resumed = train(), train(f"{sys.argv[1]}/checkpoint-8")
assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
destroy_process_group_at_exit()
print("equal")
"""


def test_run_resumes_within_an_epoch_to_the_same_bits(python, tmp_path):
    (tmp_path / "program.py").write_text(RESUMES)
    result = python(*TORCHRUN, tmp_path / "program.py", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.count("equal\n") == 2, result.stderr
