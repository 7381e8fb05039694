import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

# Tests find the same environment on every machine, whatever its user set for a Hub, a launcher, a tracker or a proxy.
# CUDA_VISIBLE_DEVICES stays: it says which devices the tests may use. The libraries read most of this at their import.
FOREIGN = re.compile(
    r"(ACCELERATE|FSDP|GRADIO|HF|HUGGINGFACE|PET|TORCHELASTIC|TRACKIO|TRANSFORMERS|WANDB)_.*"
    r"|((LOCAL|GROUP|ROLE)_)?RANK|((LOCAL|GROUP|ROLE)_)?WORLD_SIZE|MASTER_(ADDR|PORT)|MPLBACKEND|(.*_)?PROXY",
    re.IGNORECASE,
)
for name in filter(FOREIGN.fullmatch, list(os.environ)):
    del os.environ[name]
CACHE = tempfile.mkdtemp(prefix="hf-cifar-resnet-tests-")
os.environ |= {
    "HF_HOME": CACHE,
    "HF_HUB_DISABLE_XET": "1",  # the Hub of the tests speaks plain LFS
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # Several processes test at once, and threads that wait for each other would make all of them slow.
    "OMP_NUM_THREADS": "1",
}

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

sys.path.append(str(Path(__file__).parent))  # for `loopback_hub`

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_unconfigure():
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture
def shared_dataset():
    """The folder of a real dataset beside the checkout, by name; skips the test where it is not there."""

    def find(name):
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"not tested: a real dataset, since {folder} is not there")
        return str(folder)

    return find


@pytest.fixture
def mount(tmp_path):
    """Mounts an empty filesystem with given options as `tmp_path/disk`; skips the test where this user may not."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("not tested: full and read-only disks, since this user may not mount any (root may)")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def limit_file_size():
    """Sets how many bytes a file may have; a write beyond them fails as on a full disk. Without a number, as before."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size=before):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))

    yield limit
    limit()


@pytest.fixture
def limit_memory():
    """Sets how many bytes this process may still allocate; skips the test where /proc does not say what it has."""
    before, most = resource.getrlimit(resource.RLIMIT_AS)

    def limit(more):
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
        except OSError:
            pytest.skip("not tested: a full memory, since /proc does not say what this process has")
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, most))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, (before, most))


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def trap(tmp_path):
    """An object that makes a file when it is unpickled, which the test must not do."""
    trap = Trap(tmp_path / "trapped")
    pickle.loads(pickle.dumps(trap)).close()
    (tmp_path / "trapped").unlink()
    yield trap
    assert not (tmp_path / "trapped").exists()


@pytest.fixture
def hub():
    """An empty Hub of its own for every test, with one user: ann, who may write with the token hf_ann."""
    from loopback_hub import LoopbackHub

    with LoopbackHub() as hub:
        hub.add_user("ann", token="hf_ann")
        yield hub


@pytest.fixture
def make_images():
    """`count` different 32x32 RGB images of noise."""

    def make(count, seed=0):
        arrays = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return [Image.fromarray(array) for array in arrays]

    return make


@pytest.fixture
def png_that_claims():
    """The bytes of a PNG file of 100 bytes or so that claims any width and height."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def make(width, height):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        rows = zlib.compress(bytes((width + 7) // 8 + 1))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    return make


@pytest.fixture
def write_parquet(tmp_path):
    """Writes one split of a dataset laid out as on the Hub into `tmp_path`."""

    def write(split, columns, features):
        from datasets import Dataset, Features

        (tmp_path / "data").mkdir(exist_ok=True)
        dataset = Dataset.from_dict(columns, features=Features(features))
        dataset.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")

    return write


@pytest.fixture
def write_image_folder(tmp_path):
    """Writes images of noise as `tmp_path/split/class/number.png`."""

    def write(counts, make_image):
        for split, per_class in counts.items():
            for class_name, count in per_class.items():
                (tmp_path / split / class_name).mkdir(parents=True)
                for number in range(count):
                    make_image().save(tmp_path / split / class_name / f"{number}.png")

    return write


@pytest.fixture
def refused(capsys):
    """Runs `hf-cifar-resnet ARGUMENTS`, which prints nothing but one line and exits with 2; returns the line."""

    def run(*arguments):
        from hf_cifar_resnet.cli import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, arguments)))
        captured = capsys.readouterr()
        assert stopped.value.code == 2 and captured.out == ""
        [line] = captured.err.splitlines()
        assert line.startswith("error: ") and line.isprintable()
        return line

    return run


@pytest.fixture
def cpu_with(monkeypatch):
    """Makes torch's query say that the CPU has these instructions alone."""

    def pretend(*instructions):
        import torch

        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))

    return pretend


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=2, help="how often tests/integration/test_kill.py kills the training")
    parser.addoption("--kill-seed", type=int, default=0, help="of the instants at which it does")
