"""What other machines and other users ask of a run, from training to prediction."""

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_cifar_resnet.cli import main as cli


class NoFloat64(TorchDispatchMode):
    """A device without float64, as Apple's GPUs are: no operation of torch may give any."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        wide = [t for t in tree_leaves(result) if torch.is_tensor(t) and t.dtype in (torch.float64, torch.complex128)]
        if wide:
            raise TypeError(f"{function} gives float64 {tuple(wide[0].shape)}, which MPS does not have")
        return result


@pytest.fixture
def arguments(write_image_folder, make_images, tmp_path):
    """The command line that trains a tiny model on 48 images of noise, with more options."""
    images = iter(make_images(68))
    write_image_folder({"train": {"ant": 24, "bee": 24}, "test": {"ant": 10, "bee": 10}}, lambda: next(images))
    shape = "--block basic --stage_depths 1 1 --stage_widths 16 16 --global_batch_size 8 --max_steps 4 --use_cpu"
    data = ["--dataset_name", str(tmp_path)]
    return lambda run, options: ["train", *data, *shape.split(), *options.split(), "--output_dir", run]


@pytest.fixture
def train(arguments):
    """Trains that model."""
    return lambda run, options: cli(arguments(run, options))


@pytest.fixture
def image(train, tmp_path):
    return str(tmp_path / "test" / "ant" / "0.png")


def test_no_tensor_is_float64(train, image, tmp_path):
    run = str(tmp_path / "run")
    with NoFloat64():
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(2, dtype=torch.float64)
        train(run, "--cutmix_alpha 1 --mixup_alpha 1 --ema_decay 0.9 --gradient_accumulation_steps 2 "
              "--lr_scheduler_type reduce_lr_on_plateau --random_erasing 0.5")  # fmt: skip
        cli(["evaluate", run, "--use_cpu", "--flip", "--calibrate"])
        cli(["predict", run, image, "--use_cpu"])


def test_files_follow_the_umask(train, image, tmp_path):
    """One that is neither the usual one nor what temporary files have."""
    study = tmp_path / "study"
    run = str(study / "constant-seed42")
    before = os.umask(0o002)
    try:
        train(run, "--ema_decay 0.9")
        cli(["evaluate", run, "--use_cpu", "--calibrate", "--output_dir", str(study / "analysis")])
        cli(["predict", run, image, "--use_cpu", "--output", str(study / "labels.txt")])
        cli(["export", run, "--format", "torch"])
        cli(["study", "--report", str(study)])
    finally:
        os.umask(before)
    files = [path for path in study.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"model.safetensors", "ema.safetensors", "optimizer.pt", "model.pt2", "results.csv", "labels.txt"} <= names
    assert {path: oct(path.stat().st_mode & 0o777) for path in files} == dict.fromkeys(files, oct(0o664))
    folders = {path.stat().st_mode & 0o777 for path in study.rglob("*") if path.is_dir()}
    assert folders == {0o775}


# As Python 3.14 starts workers.
FORKSERVER = """
import multiprocessing, sys
from hf_cifar_resnet.cli import main

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    main(sys.argv[1:])
"""


@pytest.mark.slow
def test_workers_that_are_not_forked(train, arguments, python, tmp_path):
    """They augment the same images to the same bits."""
    train(str(tmp_path / "without"), "--cutmix_alpha 1")
    (tmp_path / "program.py").write_text(FORKSERVER)
    result = python("program.py", *arguments("with", "--cutmix_alpha 1 --dataloader_num_workers 1"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 loader workers" in result.stdout
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("without", "with")]
    assert weights[0] == weights[1]
