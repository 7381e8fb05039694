"""A batch of NaN in one process of two: both leave the step out, or stop, together."""

import json

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
# Image 13 is NaN. Every process writes what it was left with, and how it was stopped.
PROGRAM = """
import hashlib, json, math, sys
import numpy as np, torch
from transformers import TrainerCallback
from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet import ImageDataset
from hf_cifar_resnet.data.dataset import normalize
from hf_cifar_resnet.errors import UserError

class Poisoned(ImageDataset):
    def __getitems__(self, positions):
        batch = super().__getitems__(positions)
        pixels = normalize(batch["pixel_values"], self.mean, self.std)
        pixels[np.asarray(positions) % len(self) == 13] = math.nan
        return batch | {"pixel_values": pixels}

def hashed(tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()

class Seen(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.weights.append(hashed(model.parameters()))
        self.statistics.append(hashed(model.buffers()))

images, labels = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 3), dtype=np.uint8), np.arange(96) % 5
found = {}
for nonfinite in ("skip", "stop"):
    seen = Seen()
    seen.weights, seen.statistics = [], []
    args = CifarTrainingArguments(output_dir=sys.argv[1], use_cpu=True, global_batch_size=16, num_train_epochs=1,
                                  nonfinite=nonfinite, logging_strategy="epoch", eval_strategy="no",
                                  save_strategy="no", load_best_model_at_end=False)
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(block="basic", stage_depths=[1], stage_widths=[8],
                                                                num_labels=5))
    trainer = CifarTrainer(model, args, train_dataset=Poisoned(images, labels, [0.5] * 3, [0.25] * 3), callbacks=[seen])
    try:
        trainer.train()
        error = None
    except UserError as raised:
        error = str(raised)
    found[nonfinite] = {"weights": seen.weights, "statistics": seen.statistics, "error": error,
                        "skipped": [e["skipped_steps"] for e in trainer.state.log_history if "skipped_steps" in e],
                        "finite": all(bool(t.isfinite().all()) for t in model.state_dict().values())}
with open(f"{sys.argv[1]}/found-{args.process_index}.json", "w") as file:
    json.dump(found, file)
"""


def test_both_processes_agree(python, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    result = python(*TORCHRUN, tmp_path / "program.py", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    left, right = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1))
    assert left["skip"]["skipped"] == right["skip"]["skipped"] == [1]
    assert left["skip"]["weights"] == right["skip"]["weights"] and len(left["skip"]["weights"]) == 6
    for process in (left, right):
        weights, statistics = process["skip"]["weights"], process["skip"]["statistics"]
        [bad] = [step for step in range(1, 6) if weights[step] == weights[step - 1]]
        assert statistics[bad] == statistics[bad - 1] and process["skip"]["finite"] and process["stop"]["finite"]
        assert process["stop"]["error"].startswith(f"step {bad} ") and "13" in process["stop"]["error"].split()
