import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
# Taken before any test runs the Trainer here, which leaves marks of its own in the environment.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}
ENVIRONMENT.pop("HF_DATASETS_DISABLE_PROGRESS_BARS", None)

# The README's command for several processes on a CPU: test_launch.py runs it.
TWO_PROCESSES = "accelerate launch --multi_gpu --num_processes 2 train.py --use_cpu --config quickstart"

# For programs of several processes: at the very end, each lists its threads in a file. At times Python aborts where one
# of gloo's is left, still at work.
LIST_THREADS = """
import atexit, glob

def list_threads(path):
    with open(path, "w") as file:
        file.writelines(open(name).read() for name in glob.glob("/proc/self/task/*/comm"))
"""

# Of a finished run's folder.
PUSHED = {
    "README.md", "config.json", "configuration_cifar_resnet.py", "curves.png", "metrics.json",
    "model.safetensors", "modeling_cifar_resnet.py", "preprocessor_config.json", "run.json", "training_args.json",
}  # fmt: skip

# Several commands in one process, whose start takes longer than they do.
RUN_EACH = """
import contextlib, io, json, sys
from hf_cifar_resnet.cli import main

answers = []
for words in json.loads(sys.argv[1]):
    code, stdout, stderr = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            main(words)
        except SystemExit as stopped:
            code = stopped.code
    answers.append({"returncode": code, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()})
print(json.dumps(answers))
"""


def run_each(commands, cwd, environment):
    """What each of the commands of `hf-cifar-resnet` ended with, run one after another in one process."""
    command = [sys.executable, "-c", RUN_EACH, json.dumps(commands)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return [SimpleNamespace(**answer) for answer in json.loads(result.stdout.splitlines()[-1])]


# A model of a folder or the Hub, used where this package cannot be imported, nor what it alone needs.
ELSEWHERE = """
import json, sys
sys.modules |= dict.fromkeys(("hf_cifar_resnet", "datasets", "albumentations"))
import numpy as np, torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

name, out = sys.argv[1:]
images = [Image.fromarray(array) for array in np.load(f"{out}/images.npy")]
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(name, **trust)
pixels = AutoImageProcessor.from_pretrained(name)(images, return_tensors="pt")["pixel_values"]
model = AutoModelForImageClassification.from_pretrained(name, **trust).eval()
with torch.no_grad():
    logits = model(pixels).logits
    features = AutoModel.from_pretrained(name, **trust).eval()(pixels).pooler_output
model.save_pretrained(f"{out}/again")
classify = pipeline("image-classification", model=name, **trust)
odd = [images[0].convert(mode).resize(size) for mode in ("RGB", "L", "RGBA", "P") for size in ((32, 32), (50, 17))]
answers = {"top": [answer[0]["label"] for answer in classify(images)], "odd": [a[0]["label"] for a in classify(odd)],
           "labels": list(config.id2label.values()), "features": list(features.shape)}
np.savez(f"{out}/found.npz", pixels=pixels, logits=logits)
json.dump(answers, open(f"{out}/answers.json", "w"))
"""


def use_elsewhere(name, out, environment=ENVIRONMENT):
    """The eight images of noise that [`ELSEWHERE`] was given, and what it found; it saves the model as `out/again`."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    np.save(out / "images.npy", images)
    (out / "program.py").write_text(ELSEWHERE)
    command = [sys.executable, "-I", out / "program.py", name, out]
    result = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    answers, arrays = json.loads((out / "answers.json").read_text()), np.load(out / "found.npz")
    return SimpleNamespace(images=images, pixels=arrays["pixels"], logits=arrays["logits"], **answers)


def write_noise(folder, labels, counts, size=32, seed=0, image="image"):
    """
    `counts` images of noise a split as Parquet files below `folder`, laid out as on the Hub, in the first column of
    `labels` of each class in turn. Returns the folder.
    """
    features = {image: ImageFeature()} | {column: ClassLabel(names=names) for column, names in labels.items()}
    classes = len(next(iter(labels.values())))
    generator = np.random.default_rng(seed)
    for split, count in counts.items():
        arrays = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        columns = {image: list(map(Image.fromarray, arrays))}
        columns |= {column: [i % classes * len(names) // classes for i in range(count)]
                    for column, names in labels.items()}  # fmt: skip
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table = Dataset.from_dict(columns, features=Features(features))
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def has_threads_of_gloo(path):
    """Whether a list of [`LIST_THREADS`] has any; skips the test where there is no /proc."""
    if sys.platform != "linux":
        pytest.skip("not tested: threads that a program ends with, which Linux alone lists")
    threads = path.read_text().split()
    assert threads
    return any("gloo" in name for name in threads)


@pytest.fixture(scope="session")
def quick():
    """Arguments of a training run of seconds, the same on every machine."""
    limits = "--max_steps 6 --max_train_samples 400 --max_eval_samples 200 --bf16 false"
    return ["--config", "quickstart", "--use_cpu", *limits.split()]


@pytest.fixture(scope="session")
def python():
    """Runs `python ARGUMENTS` in a process of its own that has no terminal, as a job on a server."""

    def run(*arguments, cwd):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(scope="module")
def start():
    """Starts `python ARGUMENTS`, whose output is added to `log`, and kills it after the tests at the latest."""
    running = []

    def begin(*arguments, log, environment=ENVIRONMENT):
        command = [sys.executable, *map(str, arguments)]
        with open(log, "a", encoding="utf-8") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()


@pytest.fixture(scope="session")
def script():
    return REPOSITORY / "train.py"


@pytest.fixture(scope="session")
def finished(python, script, quick, tmp_path_factory):
    """One real `python train.py` from the repository's root: its `folder` and what it printed, as `lines`."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    result = python(script.name, *quick, "--output_dir", folder, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    return SimpleNamespace(folder=folder, lines=result.stdout.splitlines(), stderr=result.stderr)


@pytest.fixture(scope="session")
def untimed():
    """The part of a `metrics.json` that two equal runs share."""
    return lambda metrics: {name: value for name, value in metrics.items() if name != "timing"}
