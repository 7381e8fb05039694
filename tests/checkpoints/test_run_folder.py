import subprocess
import sys
from pathlib import Path

import pytest

from hf_cifar_resnet.checkpoints.run_folder import choose_run_folder, find_resume_checkpoint, lock_run_folder
from hf_cifar_resnet.checkpoints.save import write_manifest
from hf_cifar_resnet.documents import write_json
from hf_cifar_resnet.errors import UserError
from hf_cifar_resnet.processes import check_processes
from hf_cifar_resnet.training.arguments import CifarTrainingArguments


@pytest.fixture
def make_args(tmp_path, monkeypatch):
    """Arguments as from a command line that is typed in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda **options: CifarTrainingArguments(use_cpu=True, **options)


def put_checkpoints(folder, *numbers, whole=True):
    for number in numbers:
        checkpoint = Path(folder, f"checkpoint-{number}")
        checkpoint.mkdir(parents=True)
        if whole:
            (checkpoint / "trainer_state.json").write_text("{}")
            write_manifest(checkpoint)


# The output folder


@pytest.mark.parametrize(
    "there, new, last",
    [
        ([], "name", "name"),
        (["name"], "name-2", "name"),
        (["name", "name-9", "name-10"], "name-11", "name-10"),
        (["other", "name-with-warmup", "name-2x", "nam"], "name", "name"),
    ],
)
def test_default_folder_is_numbered_and_a_resumed_run_has_the_last(make_args, there, new, last):
    for folder in there:
        Path("runs", folder).mkdir(parents=True)
    for resume, chosen in ((None, new), ("false", new), ("true", last)):
        assert choose_run_folder(make_args(resume_from_checkpoint=resume), "name") == str(Path("runs", chosen))
    assert {path.name for path in Path("runs").glob("*")} == set(there)


def test_resuming_by_path_continues_that_run(make_args):
    put_checkpoints("runs/mine", 3)
    assert choose_run_folder(make_args(resume_from_checkpoint="runs/mine/checkpoint-3"), "name") == "runs/mine"


def test_given_folder_is_created_and_may_be_there(make_args):
    for _ in range(2):
        assert choose_run_folder(make_args(output_dir="a/b"), "name") == "a/b"
        with lock_run_folder(make_args(output_dir="a/b")):
            assert Path("a/b").is_dir()
    assert [path.name for path in Path("a/b").iterdir()] == [".lock"]


def test_created_folders_are_removed_after_an_early_error(make_args):
    for there in ([], [".lock"]):
        with pytest.raises(ValueError), lock_run_folder(make_args(output_dir="a/b")):
            raise UserError("early")
        assert [path.name for path in Path().glob("a/b/.*")] == there
        Path("a/b").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("finished", [True, False])
def test_given_folder_with_a_run_is_refused_unless_resumed(make_args, finished):
    if finished:
        Path("mine").mkdir()
        Path("mine/metrics.json").write_text("{}")
    else:
        put_checkpoints("mine", 3)
    what_to_do = "choose another" if finished else "add --resume_from_checkpoint auto"
    with pytest.raises(ValueError, match=f"mine holds a run already: {what_to_do}"):
        choose_run_folder(make_args(output_dir="mine"), "name")
    with pytest.raises(ValueError, match="holds a run already"):
        choose_run_folder(make_args(output_dir="mine", resume_from_checkpoint="false"), "name")
    if not finished:
        assert choose_run_folder(make_args(output_dir="mine", resume_from_checkpoint="true"), "name") == "mine"
    else:  # which `auto` would begin anew
        with pytest.raises(ValueError, match="holds a run already"):
            choose_run_folder(make_args(output_dir="mine", resume_from_checkpoint="auto"), "name")


def test_checkpoint_of_another_run_does_not_replace_a_run(make_args):
    for folder in ("one", "other"):
        put_checkpoints(folder, 3)
    with pytest.raises(ValueError, match="one holds a run already"):
        choose_run_folder(make_args(output_dir="one", resume_from_checkpoint="other/checkpoint-3"), "name")
    assert choose_run_folder(make_args(output_dir="./one", resume_from_checkpoint="one/checkpoint-3"), "name") == "one"


@pytest.mark.parametrize("resume", [None, "auto", "true"])
@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "history.csv", "run.json"])
def test_files_that_no_run_has_written_are_not_replaced(make_args, name, resume):
    """Notes, or a model that was downloaded."""
    Path("mine").mkdir()
    Path("mine", name).write_text("mine")
    with pytest.raises(ValueError, match=f"mine holds {name}, which this command did not write and would replace"):
        choose_run_folder(make_args(output_dir="mine", resume_from_checkpoint=resume), "name")
    Path("mine", name).unlink()
    Path("mine/notes.txt").write_text("mine")
    assert choose_run_folder(make_args(output_dir="mine", resume_from_checkpoint=resume), "name") == "mine"


@pytest.mark.parametrize("resume", [None, "auto"])
@pytest.mark.parametrize("name", ["checkpoint-500/model.safetensors", "checkpoint-2", "preempted", ".lock"])
def test_namesakes_of_what_a_run_writes_and_deletes_stay(make_args, name, resume):
    """Such as a checkpoint of transformers' own Trainer, which would count as an incomplete one of ours."""
    place = Path("mine", name)
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(ValueError, match="mine holds"):
        choose_run_folder(make_args(output_dir="mine", resume_from_checkpoint=resume), "name")
    assert place.read_text() == "mine"


def test_run_that_was_preempted_before_its_first_step_is_begun_anew(make_args):
    Path("mine").mkdir()
    for name in (".lock", "preempted"):
        Path("mine", name).touch()
    assert choose_run_folder(make_args(output_dir="mine"), "name") == "mine"


def test_run_that_was_killed_before_its_first_checkpoint_is_begun_anew(make_args):
    Path("mine").mkdir()
    write_json({"command": ["train.py"]}, "mine/run.json")
    Path("mine/README.md").write_text("of the run")
    assert choose_run_folder(make_args(output_dir="mine"), "name") == "mine"


@pytest.mark.parametrize("below", ["", "new", "new/deep"])
def test_run_in_a_checkpoint_of_another(make_args, below):
    put_checkpoints("mine", 14)
    with pytest.raises(ValueError, match="lies in a checkpoint"):
        choose_run_folder(make_args(output_dir=str(Path("mine/checkpoint-14", below))), "name")


@pytest.mark.parametrize("folder", ["file", "file/below", "file/far/below"])
def test_file_in_the_way(make_args, folder):
    Path("file").write_text("mine")
    with pytest.raises(ValueError, match=f"{folder} cannot be written: \\w+") as refused:
        lock_run_folder(make_args(output_dir=choose_run_folder(make_args(output_dir=folder), "name"))).__enter__()
    assert "\n" not in str(refused.value) and Path("file").read_text() == "mine"


# What `lock_folder` does in another process, without the seconds that importing it takes.
LOCK = """
import fcntl, sys, time
with open(sys.argv[1], "a+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("locked", flush=True)
    time.sleep(600)
"""


def test_two_runs_in_one_folder(make_args, tmp_path):
    Path("mine").mkdir()
    command = [sys.executable, "-c", LOCK, tmp_path / "mine" / ".lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(ValueError, match="another run is writing into mine: wait for its end, or choose"):
                lock_run_folder(make_args(output_dir="mine")).__enter__()
        finally:
            other.kill()
    with lock_run_folder(make_args(output_dir="mine")):  # the lock of a killed run is gone
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and "BlockingIOError" in done.stderr


def test_folder_that_cannot_be_written(make_args, mount):
    mount("ro")
    with pytest.raises(ValueError, match="the output folder disk cannot be written: Read-only file system"):
        lock_run_folder(make_args(output_dir="disk")).__enter__()


# The checkpoint to resume from


@pytest.mark.parametrize("value", [None, "false", "False"])
def test_no_resuming(make_args, value):
    put_checkpoints("mine", 3)
    assert find_resume_checkpoint(make_args(output_dir="mine", resume_from_checkpoint=value)) is None


@pytest.mark.parametrize("value", ["true", "True", True])
def test_last_complete_checkpoint_or_one_by_path(make_args, value):
    put_checkpoints("mine", 3, 9, 10)
    put_checkpoints("mine", 200, whole=False)
    put_checkpoints("mine", "999-old")
    for given, number in ((value, 10), ("mine/checkpoint-3", 3)):
        args = make_args(output_dir="mine", resume_from_checkpoint=given)
        assert Path(find_resume_checkpoint(args)) == Path(f"mine/checkpoint-{number}")


def test_auto_resumes_or_begins(make_args):
    args = make_args(output_dir="mine", resume_from_checkpoint="auto")
    assert find_resume_checkpoint(args) is None
    put_checkpoints("mine", 3)
    assert Path(find_resume_checkpoint(args)) == Path("mine/checkpoint-3")
    with pytest.raises(ValueError, match="auto needs --output_dir"):
        choose_run_folder(make_args(resume_from_checkpoint="auto"), "name")


@pytest.mark.parametrize("value", ["true", "auto"])
def test_damaged_checkpoint_is_skipped_and_reported(make_args, capsys, value):
    put_checkpoints("mine", 3, 9)
    Path("mine/checkpoint-9/trainer_state.json").write_text("{ ")
    args = make_args(output_dir="mine", resume_from_checkpoint=value)
    assert Path(find_resume_checkpoint(args)) == Path("mine/checkpoint-3")
    assert capsys.readouterr().out == "mine/checkpoint-9 is skipped: trainer_state.json has been changed\n"


@pytest.mark.parametrize("value", ["true", "mine/checkpoint-4", "mine", "elsewhere", "mine/checkpoint-3"])
def test_nothing_to_resume(make_args, value):
    put_checkpoints("mine", 3, whole=False)
    with pytest.raises(
        ValueError, match="(mine|elsewhere).* cannot be resumed: (it has no manifest|it is not there|there is no)"
    ) as refused:
        find_resume_checkpoint(make_args(output_dir="mine", resume_from_checkpoint=value))
    assert "\n" not in str(refused.value)


# Processes


def test_one_process_alone(make_args, monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    check_processes(make_args(output_dir="mine"))


@pytest.mark.parametrize(
    "environment",
    [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "8"}, {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}],
)
def test_processes_that_do_not_work_together(make_args, monkeypatch, environment):
    args = make_args(output_dir="mine")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match="accelerate launch --multi_gpu --num_processes N train.py --use_cpu"
    ) as refused:
        check_processes(args)
    assert "\n" not in str(refused.value)
