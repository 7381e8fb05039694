"""Two processes of one run: one is lost, the run resumes from its last checkpoint, and one of them alone writes."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from .conftest import ENVIRONMENT, LIST_THREADS, has_threads_of_gloo

pytestmark = pytest.mark.slow
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LIMIT = 240  # seconds for a launch to end
ARGUMENTS = (
    "--config quickstart --use_cpu --max_train_samples 203 --max_eval_samples 101 --num_train_epochs 3 "
    "--dropout 0.2 --drop_path_rate 0.2 --cutmix_alpha 1 --ema_decay 0.9 --save_strategy steps --save_steps 2 "
    "--eval_strategy steps --eval_steps 2 --resume_from_checkpoint auto"
).split()
# Python runs it in every process before anything else: the files that each opens for writing, or makes or renames, and
# the threads that it ends with.
WATCH = (
    LIST_THREADS
    + """
import os, sys

def note(event, values):
    writes = event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in ("os.mkdir", "os.rename", "os.remove")) and "RANK" in os.environ:
        path = values[0]
        if isinstance(path, (str, bytes, os.PathLike)) and not note.busy:
            note.busy = True
            with open(f"{os.environ['NOTES']}/{os.environ['RANK']}", "a") as file:
                print(os.path.abspath(os.fsdecode(path)), file=file)
            note.busy = False

note.busy = False
sys.addaudithook(note)
if "RANK" in os.environ:
    atexit.register(list_threads, f"{os.environ['NOTES']}/{os.environ['RANK']}-threads")
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    return folder


@pytest.fixture(scope="module")
def launch(start, script, folder):
    """Starts two processes of a run, and returns their launcher; their output goes into a file."""

    def begin(run):
        (folder / f"{run}-notes").mkdir(exist_ok=True)
        watched = {"PYTHONPATH": os.pathsep.join([str(folder / "watch"), ENVIRONMENT["PYTHONPATH"]]),
                   "NOTES": str(folder / f"{run}-notes")}  # fmt: skip
        command = [*TORCHRUN, script, *ARGUMENTS, "--output_dir", folder / run]
        return start(*command, log=folder / f"{run}.log", environment=ENVIRONMENT | watched)

    return begin


@pytest.fixture(scope="module")
def uninterrupted(launch, folder):
    assert launch("uninterrupted").wait(LIMIT) == 0, (folder / "uninterrupted.log").read_text()
    return folder / "uninterrupted"


def test_one_process_alone_writes_what_all_share(uninterrupted, folder):
    noted = {rank: (folder / "uninterrupted-notes" / rank).read_text().splitlines() for rank in "01"}
    inside = {rank: [path for path in paths if path.startswith(f"{uninterrupted}/")] for rank, paths in noted.items()}
    assert any(path.endswith("model.safetensors") for path in inside["0"]) and len(inside["0"]) > 50
    # Each writes its part of a checkpoint: what it has counted and, by torch and unnoticed, its random numbers' state.
    folders = {f"checkpoint-{step}" for step in range(99)}
    assert {Path(path).name for path in inside["1"]} - folders == {"train_metrics_1.json"}


def test_finished_processes_have_no_threads_of_gloo(uninterrupted, folder):
    assert not any(has_threads_of_gloo(folder / "uninterrupted-notes" / f"{rank}-threads") for rank in "01")


@pytest.mark.lowest
def test_lost_process_ends_the_others_and_the_run_resumes(uninterrupted, launch, folder, untimed):
    launcher = launch("lost")
    deadline = time.monotonic() + LIMIT
    while not list((folder / "lost").glob("checkpoint-*")):
        assert launcher.poll() is None and time.monotonic() < deadline, (folder / "lost.log").read_text()
        time.sleep(0.01)
    processes = psutil.Process(launcher.pid).children(recursive=True)
    [second] = [process for process in processes if process.environ().get("RANK") == "1"]
    second.send_signal(signal.SIGKILL)
    assert launcher.wait(LIMIT) != 0
    assert not psutil.wait_procs(processes, 10)[1]
    printed = (folder / "lost.log").read_text()
    assert printed.count("another process of this run has been lost") == printed.count("error: ") == 1, printed
    assert not (folder / "lost" / "metrics.json").exists()

    assert launch("lost").wait(LIMIT) == 0, (folder / "lost.log").read_text()
    assert (folder / "lost" / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()
    found = [json.loads((run / "metrics.json").read_text()) for run in (uninterrupted, folder / "lost")]
    assert untimed(found[0]) == untimed(found[1])


PROGRAM = """
import os, sys, time
from hf_cifar_resnet.commands.errors import reports_errors

@reports_errors()
def main():
    if os.environ["RANK"] in sys.argv[1:]:
        raise ValueError("it cannot be read")
    time.sleep(60)

main()
"""


@pytest.mark.parametrize("failing", [["1"], ["0", "1"]])
def test_error_of_any_process_is_printed_once(python, tmp_path, failing):
    (tmp_path / "program.py").write_text(PROGRAM)
    result = python(*TORCHRUN, tmp_path / "program.py", *failing, cwd=tmp_path)
    assert result.returncode != 0 and result.stderr.count("error: it cannot be read\n") == 1
