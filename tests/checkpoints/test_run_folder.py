import subprocess
import sys
from pathlib import Path

import pytest

from hf_cifar_resnet.checkpoints.run_folder import choose_run_folder, find_resume_checkpoint, lock_run_folder
from hf_cifar_resnet.checkpoints.save import write_manifest
from hf_cifar_resnet.documents import write_json
from hf_cifar_resnet.processes import check_processes
from hf_cifar_resnet.training.arguments import CifarTrainingArguments


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def choose(output_dir=None, resume=None):
    return choose_run_folder(output_dir, resume, "name")


def find(resume, needs_best=True):
    return find_resume_checkpoint(resume, "mine", needs_best)


def put_checkpoints(folder, *numbers, complete=True):
    for number in numbers:
        checkpoint = Path(folder, f"checkpoint-{number}")
        checkpoint.mkdir(parents=True)
        if complete:
            (checkpoint / "trainer_state.json").write_text('{"global_step": 1, "max_steps": 9}')
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
def test_default_folder_is_numbered_and_a_resumed_run_has_the_last(there, new, last):
    for folder in there:
        Path("runs", folder).mkdir(parents=True)
    for resume, chosen in ((None, new), ("false", new), ("true", last)):
        assert choose(resume=resume) == str(Path("runs", chosen))
    assert {path.name for path in Path("runs").glob("*")} == set(there)


def test_resuming_by_path_continues_that_run():
    put_checkpoints("runs/mine", 3)
    assert choose(resume="runs/mine/checkpoint-3") == "runs/mine"


def test_given_folder_is_created_and_may_be_there():
    for _ in range(2):
        assert choose("a/b") == "a/b"
        with lock_run_folder(Path("a/b")):
            assert Path("a/b").is_dir()
    assert [path.name for path in Path("a/b").iterdir()] == [".lock"]


def test_created_folders_are_removed_after_an_early_error():
    for there in ([], [".lock"]):
        with pytest.raises(ValueError), lock_run_folder(Path("a/b")):
            raise ValueError("early")
        assert [path.name for path in Path().glob("a/b/.*")] == there
        Path("a/b").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("finished", [True, False])
def test_given_folder_with_a_run_is_refused_unless_resumed(finished):
    if finished:
        Path("mine").mkdir()
        Path("mine/metrics.json").write_text("{}")
    else:
        put_checkpoints("mine", 3)
    advice = "choose another" if finished else "add --resume_from_checkpoint auto"
    with pytest.raises(ValueError, match=f"mine holds a run already: {advice}"):
        choose("mine")
    with pytest.raises(ValueError, match="holds a run already"):
        choose("mine", "false")
    if not finished:
        assert choose("mine", "true") == "mine"


@pytest.mark.parametrize("left", ["metrics.json", "damaged", "damaged and metrics.json", "without its best"])
def test_auto_never_begins_anew_over_a_run_that_had_results(left):
    """Its checkpoints were deleted to save space, or are damaged."""
    put_checkpoints("mine", *[3] * ("metrics" not in left or "damaged" in left))
    Path("mine").mkdir(exist_ok=True)
    write_json({"command": ["train.py"]}, "mine/run.json")
    if "metrics.json" in left:
        write_json({}, "mine/metrics.json")
    if "damaged" in left:
        Path("mine/checkpoint-3/trainer_state.json").write_text("{")
    if "best" in left:
        write_json({"global_step": 3, "max_steps": 9, "best_model_checkpoint": "mine/checkpoint-1"},
                   "mine/checkpoint-3/trainer_state.json")  # fmt: skip
        write_manifest(Path("mine/checkpoint-3"))
    before = sorted(Path("mine").rglob("*"))
    assert choose("mine", "auto") == "mine"
    with pytest.raises(ValueError, match="mine holds a .*not begun anew.*: choose another folder"):
        find("auto")
    assert sorted(Path("mine").rglob("*")) == before


def test_auto_begins_anew_after_a_kill_during_the_first_save():
    put_checkpoints("mine", 3, complete=False)
    write_json({"command": ["train.py"]}, "mine/run.json")
    assert choose("mine", "auto") == "mine" and find("auto") is None


def test_checkpoint_of_another_run_does_not_replace_a_run():
    for folder in ("one", "other"):
        put_checkpoints(folder, 3)
    with pytest.raises(ValueError, match="one holds a run already"):
        choose("one", "other/checkpoint-3")
    assert choose("./one", "one/checkpoint-3") == "one"


@pytest.mark.parametrize("resume", [None, "auto", "true"])
@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "history.csv", "run.json"])
def test_files_that_no_run_has_written_are_not_replaced(name, resume):
    """Notes, or a model that was downloaded."""
    Path("mine").mkdir()
    Path("mine", name).write_text("mine")
    with pytest.raises(ValueError, match=f"mine holds {name}, which this command did not write and would replace"):
        choose("mine", resume)
    Path("mine", name).unlink()
    Path("mine/notes.txt").write_text("mine")
    assert choose("mine", resume) == "mine"


@pytest.mark.parametrize("resume", [None, "auto"])
@pytest.mark.parametrize("name", ["checkpoint-500/model.safetensors", "checkpoint-2", "preempted", ".lock"])
def test_namesakes_of_what_a_run_writes_and_deletes_stay(name, resume):
    """Such as a checkpoint of transformers' own Trainer, which would count as an incomplete one of ours."""
    place = Path("mine", name)
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(ValueError, match="mine holds"):
        choose("mine", resume)
    assert place.read_text() == "mine"


def test_run_that_was_preempted_before_its_first_step_is_begun_anew():
    Path("mine").mkdir()
    for name in (".lock", "preempted"):
        Path("mine", name).touch()
    assert choose("mine") == "mine"


def test_run_that_was_killed_before_its_first_checkpoint_is_begun_anew():
    Path("mine").mkdir()
    write_json({"command": ["train.py"]}, "mine/run.json")
    Path("mine/README.md").write_text("of the run")
    assert choose("mine") == "mine"


@pytest.mark.parametrize("below", ["", "new", "new/deep"])
def test_run_in_a_checkpoint_of_another(below):
    put_checkpoints("mine", 14)
    with pytest.raises(ValueError, match="lies in a checkpoint"):
        choose(str(Path("mine/checkpoint-14", below)))


@pytest.mark.parametrize("folder", ["file", "file/below", "file/far/below"])
def test_file_in_the_way(folder):
    Path("file").write_text("mine")
    with pytest.raises((ValueError, OSError), match=f"{folder} cannot be written: \\w+") as refused:
        lock_run_folder(Path(choose(folder))).__enter__()
    assert "\n" not in str(refused.value) and Path("file").read_text() == "mine"


# What `lock_folder` does in another process, without the seconds that importing it takes.
LOCK = """
import fcntl, sys, time
with open(sys.argv[1], "a+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("locked", flush=True)
    time.sleep(600)
"""


def test_two_runs_in_one_folder(tmp_path):
    Path("mine").mkdir()
    command = [sys.executable, "-c", LOCK, tmp_path / "mine" / ".lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(OSError, match="another run is writing into mine: wait for its end, or choose"):
                lock_run_folder(Path("mine")).__enter__()
        finally:
            other.kill()
    with lock_run_folder(Path("mine")):  # the lock of a killed run is gone
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and "BlockingIOError" in done.stderr


def test_folder_that_cannot_be_written(mount):
    mount("ro")
    with pytest.raises(OSError, match="the output folder disk cannot be written: Read-only file system"):
        lock_run_folder(Path("disk")).__enter__()


# The checkpoint to resume from


@pytest.mark.parametrize("value", [None, "false", "False"])
def test_no_resuming(value):
    put_checkpoints("mine", 3)
    assert find(value) is None


@pytest.mark.parametrize("value", ["true", "True", True])
def test_last_complete_checkpoint_or_one_by_path(value):
    put_checkpoints("mine", 3, 9, 10)
    put_checkpoints("mine", 200, complete=False)
    put_checkpoints("mine", "999-old")
    for given, number in ((value, 10), ("mine/checkpoint-3", 3)):
        assert find(given) == Path(f"mine/checkpoint-{number}")


def test_auto_resumes_or_begins():
    assert find("auto") is None
    put_checkpoints("mine", 3)
    assert find("auto") == Path("mine/checkpoint-3")
    with pytest.raises(ValueError, match="auto needs an output_dir"):
        choose(resume="auto")


@pytest.mark.parametrize("value", ["true", "auto"])
def test_damaged_checkpoint_is_skipped_with_a_warning(caplog, value):
    put_checkpoints("mine", 3, 9)
    Path("mine/checkpoint-9/trainer_state.json").write_text("{ ")
    assert find(value) == Path("mine/checkpoint-3")
    assert caplog.messages == [
        "skipped: the checkpoint mine/checkpoint-9 is damaged: trainer_state.json has been changed"
    ]


@pytest.mark.parametrize("value", ["true", "mine/checkpoint-4", "mine", "elsewhere", "mine/checkpoint-3"])
def test_nothing_to_resume(value):
    put_checkpoints("mine", 3, complete=False)
    with pytest.raises(
        ValueError,
        match="(is not complete: it has no manifest|there is no checkpoint|cannot be resumed: it has no complete)",
    ) as refused:
        find(value)
    assert "\n" not in str(refused.value)


# Processes


def test_one_process_alone(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    check_processes(CifarTrainingArguments(use_cpu=True, output_dir="mine"))


@pytest.mark.parametrize(
    "environment",
    [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "8"}, {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}],
)
def test_processes_that_do_not_work_together(monkeypatch, environment):
    args = CifarTrainingArguments(use_cpu=True, output_dir="mine")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match="accelerate launch --multi_gpu --num_processes N train.py --use_cpu"
    ) as refused:
        check_processes(args)
    assert "\n" not in str(refused.value)
