"""A study as jobs of a real Slurm: one node on this machine, started here."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from .conftest import ENVIRONMENT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or os.getuid() != 0, reason="needs Slurm (apt install slurm-wlm) and root"
    ),
]
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={folder}
SlurmdSpoolDir={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SchedulerParameters=batch_sched_delay=1,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes={host} PriorityTier=2
"""
ONE_RUN = "--config quickstart --max_train_samples 200 --max_eval_samples 100 --num_train_epochs 12 --use_cpu".split()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of a client of a Slurm with one node."""
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=socket.gethostname().split(".")[0], ports=ports, folder=folder)
    )
    environment = ENVIRONMENT | {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    daemons = [
        subprocess.Popen([name, "-D"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name in ("slurmctld", "slurmd")
    ]
    sinfo = {"args": ["sinfo", "-h"], "env": environment, "capture_output": True, "text": True}
    until(lambda: "idle" in subprocess.run(**sinfo).stdout)
    yield environment
    subprocess.run(["scancel", "--me"], env=environment, timeout=60)
    until(lambda: "idle" in subprocess.run(**sinfo).stdout)
    for daemon in daemons:
        daemon.terminate()
        daemon.wait()


def until(condition, seconds=120):
    """Return the first true value of the condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)
    return value


@pytest.fixture
def start(slurm, tmp_path):
    """Starts the study, or the same one again, and returns its process."""

    def run():
        command = [sys.executable, "-m", "hf_cifar_resnet", "study", "--schedules", "cosine", "--output_dir", "out"]
        engine = ["--engine", "slurm", "--slurm", "cpus_per_task=2"]
        process = subprocess.Popen(
            [*command, *engine, *ONE_RUN], cwd=tmp_path, env=slurm, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        processes.append(process)
        return process

    processes = []
    yield run
    for process in processes:
        process.kill()


@pytest.fixture(scope="module")
def expected(python, tmp_path_factory):
    """The weights of the same run, without a cluster."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    command = ["-m", "hf_cifar_resnet", "train", *ONE_RUN, "--lr_scheduler_type", "cosine", "--output_dir", folder]
    result = python(*command, cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    return (folder / "model.safetensors").read_bytes()


def trains(folder):
    """Whether a run has a checkpoint and is not finished."""
    return any(folder.glob("checkpoint-*/trainer_state.json")) and not (folder / "metrics.json").exists()


def squeue(slurm, form):
    return subprocess.run(
        ["squeue", "--me", "-h", "-o", form], env=slurm, capture_output=True, text=True, check=True
    ).stdout.split()


def kill_training():
    pattern = "-m hf_cifar_resnet train .*--output_dir out/cosine-seed42"
    found = subprocess.run(["pgrep", "--full", "--", pattern], capture_output=True, text=True, check=True)
    for pid in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def preempt(slurm):
    """What Slurm does where a job of another partition goes first."""
    subprocess.run(["srun", "--partition=high", "--cpus-per-task=2", "true"], env=slurm, check=True, timeout=120)


def reach_time_limit(slurm):
    """What Slurm does before the time limit."""
    subprocess.run(["scancel", "--signal=USR2", *squeue(slurm, "%i")], env=slurm, check=True)


def start_now(slurm):
    """Without the two minutes that Slurm lets a job wait that is queued again."""
    [job] = until(lambda: squeue(slurm, "%T") == ["PENDING"] and squeue(slurm, "%i"))
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=slurm, check=True)


@pytest.mark.parametrize("end", [preempt, reach_time_limit])
def test_job_that_slurm_ends_is_queued_again_and_ends_with_the_same_bits(start, slurm, tmp_path, expected, end):
    process, folder = start(), tmp_path / "out" / "cosine-seed42"
    until(lambda: trains(folder))
    end(slurm)
    until(lambda: "Preempted by SIGTERM: saved" in (folder / "train.log").read_text())
    start_now(slurm)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    assert (folder / "model.safetensors").read_bytes() == expected


def test_killed_run_is_reported_and_resumed_by_the_next_start(start, slurm, tmp_path, expected):
    process, folder = start(), tmp_path / "out" / "cosine-seed42"
    until(lambda: trains(folder))
    kill_training()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "FAILED" in output
    process = start()
    # Who stops watching does not stop the job, and whoever starts the study again watches the same job.
    until(lambda: squeue(slurm, "%T") == ["RUNNING"])
    job = squeue(slurm, "%i")
    # Not SIGINT, which a program ignores that a script has started in the background.
    process.send_signal(signal.SIGTERM)
    assert "jobs continue" in process.communicate(timeout=60)[0]
    output = start().communicate(timeout=400)[0]
    assert squeue(slurm, "%i") in ([], job) and "test top-1" in output
    assert len(list((folder / "slurm").glob("*_submitted.pkl"))) == 2
    assert (folder / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize(
    "parameter, message",
    [("partitoin=gpu", "--slurm partitoin is unknown"), ("time=4:00:00", "--slurm time must be a whole number of min")],
)
def test_wrong_parameter_is_one_line(slurm, tmp_path, parameter, message):
    command = [sys.executable, "-m", "hf_cifar_resnet", "study", "--engine", "slurm", "--slurm", parameter]
    result = subprocess.run(command, cwd=tmp_path, env=slurm, capture_output=True, text=True)
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    assert result.stderr.startswith(f"error: {message}") and len(result.stderr.splitlines()) == 1


def test_job_that_slurm_refuses_is_one_line(slurm, tmp_path):
    command = [sys.executable, "-m", "hf_cifar_resnet", "study", "--engine", "slurm", "--slurm", "partition=none"]
    result = subprocess.run([*command, *ONE_RUN], cwd=tmp_path, env=slurm, capture_output=True, text=True)
    assert result.returncode == 2 and "Slurm refused a job" in result.stderr and "Traceback" not in result.stderr
