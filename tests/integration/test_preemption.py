"""Signals to real trainings, as a cluster sends them: to the program or to its launcher."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from hf_cifar_resnet.checkpoints.resume import find_last_resumable
from hf_cifar_resnet.commands.train import main
from hf_cifar_resnet.documents import read_json
from hf_cifar_resnet.training.preemption import EXIT_CODE, MARKER

from .conftest import ENVIRONMENT

ACCELERATE = "-m accelerate.commands.launch --main_process_port 0 --multi_gpu --num_processes 2".split()
# As in the README for launchers: Slurm's signal is passed on too.
LAUNCHER = {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGUSR1"}
# 7 or 4 steps an epoch, and so many epochs that it is never done before the signal.
LONG = "--config quickstart --use_cpu --max_train_samples 200 --max_eval_samples 200 --num_train_epochs 400".split()


@pytest.fixture
def interrupted(script, tmp_path):
    """Starts a run, sends `number` when its first epoch is done, and waits: exit code, output and folder."""

    def run(launcher, number):
        folder = tmp_path / "run"
        command = [sys.executable, *launcher, str(script), *LONG, "--output_dir", str(folder)]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT | LAUNCHER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            next(line for line in process.stdout if line.startswith("epoch"))
            os.kill(process.pid, number)
            output = process.communicate(timeout=120)[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, output.splitlines(), folder

    return run


def check(lines, folder):
    """One process reports what was saved, and the run can be resumed."""
    [line] = [line for line in lines if " by SIG" in line]
    saved = find_last_resumable(folder, needs_best=True)
    assert f"saved {saved}. Resume" in line and line.endswith("--resume_from_checkpoint auto")
    assert (folder / MARKER).exists() and not (folder / "metrics.json").exists()
    return int(saved.name[11:])


def test_program_ends_with_75_and_resumes(interrupted, capsys):
    code, lines, folder = interrupted([], signal.SIGTERM)
    step = check(lines, folder)
    assert code == EXIT_CODE and "Traceback" not in "\n".join(lines)
    with pytest.raises(ValueError, match="output_dir"):
        main([*LONG, "--output_dir", str(folder)])
    main([*LONG, "--max_steps", str(step + 3), "--output_dir", str(folder), "--resume_from_checkpoint", "true"])
    assert read_json(folder / "metrics.json")["steps"] == step + 3
    assert not (folder / MARKER).exists()


def test_signal_to_the_launcher_is_one_to_its_processes(interrupted):
    code, lines, folder = interrupted(ACCELERATE, signal.SIGUSR1)
    check(lines, folder)
    # It ends with 1 whatever its processes end with: the marker is what a script can test.
    assert code == 1
