import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

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
    limits = "--max_steps 6 --max_train_samples 400 --max_eval_samples 200"
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


@pytest.fixture(scope="session")
def environment():
    """Of a process that is started here."""
    return ENVIRONMENT


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
