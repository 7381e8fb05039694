"""Real signals to this process, at chosen moments of real trainings."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from trainer_fixtures import at
from transformers import TrainerCallback

from hf_cifar_resnet.commands.session import command_line
from hf_cifar_resnet.training.preemption import (
    EXIT_CODE,
    MARKER,
    SAME_REQUEST,
    Preempted,
    watch_signals,
)
from hf_cifar_resnet.training.workers import SIGNALS

# The Trainer's own train_loss is that of the steps since it was resumed.
TIMINGS = ("images_per_second", "data_wait", "seconds", "train_loss")
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
EPOCHS = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
# A full run is 10 steps in two epochs; an evaluation has 5 batches.
RUN = {"num_train_epochs": 2, "learning_rate": 0.01, "per_device_eval_batch_size": 8}


class Sender(TrainerCallback):
    """Sends a signal to this process in the middle of a step, or of the n-th batch of the evaluation after it."""

    def __init__(self, step, batch=None, number=signal.SIGTERM):
        self.step, self.batch, self.number = step, batch, number
        self.batches = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self.batch is None and state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)

    def on_prediction_step(self, args, state, control, **kwargs):
        self.batches[state.global_step] = self.batches.get(state.global_step, 0) + 1
        if state.global_step == self.step and self.batches[self.step] == self.batch:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def train(make_trainer, tmp_path):
    """Trains as `train.py` does; returns the trainer, and what it exited with."""

    def run(*callbacks, resume=None, command=("train.py",), **options):
        code = 0
        handlers = [signal.getsignal(number) for number in SIGNALS]
        try:
            with watch_signals(list(command), tmp_path / options.get("folder", "run")) as preempted:
                trainer = make_trainer(callbacks=[*callbacks, preempted], **(RUN | options))
                trainer.train(resume_from_checkpoint=resume)
                preempted.check()
        except Preempted as stopped:
            code = stopped.code
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        return trainer, code

    return run


def send_from_outside(number, *processes):
    subprocess.run(["kill", f"-{int(number)}", *(str(process.pid) for process in processes)], check=True)


def outcome(trainer):
    """What a training ended with, but for the timings."""
    timed = (*TIMINGS, "_runtime", "_time", "_per_second")
    history = [{k: v for k, v in e.items() if not k.endswith(timed)} for e in trainer.state.log_history]
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    return history, weights, trainer.state.best_global_step, trainer.state.best_metric


def assert_same(left, right):
    assert left[0] == right[0] and left[2:] == right[2:]
    torch.testing.assert_close(left[1], right[1], rtol=0, atol=0)


def checkpoints(trainer):
    return sorted(int(path.name[11:]) for path in Path(trainer.args.output_dir).glob("checkpoint-*"))


def check_resumed(train, sender, saved, **options):
    """A run that `sender` stops after step `saved` ends, when it is resumed, as one that was never stopped."""
    whole, _ = train(folder="whole", **options)
    stopped, code = train(sender, **options)
    assert code == EXIT_CODE and checkpoints(stopped)[-1] == saved
    resumed, code = train(resume=f"{stopped.args.output_dir}/checkpoint-{saved}", **options)
    assert code == 0
    assert_same(outcome(resumed), outcome(whole))


# While training


@pytest.mark.parametrize("number", SIGNALS)
def test_step_is_saved_and_the_program_ends_with_75(train, number, capsys):
    trainer, code = train(Sender(3, number=number))
    assert code == EXIT_CODE == 75 and checkpoints(trainer) == [3]
    assert (Path(trainer.args.output_dir) / MARKER).exists()
    [line] = [line for line in capsys.readouterr().out.splitlines() if " by SIG" in line]
    folder, ended = trainer.args.output_dir, "Interrupted" if number == signal.SIGINT else "Preempted"
    assert line == (
        f"{ended} by {signal.Signals(number).name}: saved {folder}/checkpoint-3. "
        f"Resume with train.py --output_dir {folder} --resume_from_checkpoint auto"
    )


@pytest.mark.parametrize(
    "step, options",
    [(1, EVALUATED), (5, EPOCHS | {"ema_decay": 0.9}), (7, EPOCHS | {"ema_decay": 0.9}), (10, {})],
)
def test_resumed_run_is_the_uninterrupted_one(train, step, options):
    check_resumed(train, Sender(step), step, **options)


def test_what_is_saved_already_is_not_written_again(train):
    def note_and_send(args, state):
        written.append(Path(args.output_dir, "checkpoint-5", "trainer_state.json").stat().st_mtime_ns)
        os.kill(os.getpid(), signal.SIGTERM)

    written = []
    trainer, code = train(at("on_save", note_and_send), **EPOCHS)
    assert code == EXIT_CODE and checkpoints(trainer) == [5]
    assert written == [Path(trainer.args.output_dir, "checkpoint-5", "trainer_state.json").stat().st_mtime_ns]


@pytest.mark.parametrize("start_method, numbers", [("fork", SIGNALS), ("spawn", SIGNALS[:1]), ("forkserver", SIGNALS)])
def test_signal_to_all_processes_of_a_run_saves_its_step(train, make_dataset, start_method, numbers):
    """To the workers first, as Slurm or `timeout` may: the training goes on with the batches that they make."""

    def send(args, state):
        workers = multiprocessing.active_children()
        if state.global_step == 2:
            assert workers
            for number in numbers:
                send_from_outside(number, *workers)
        if state.global_step == 17:
            os.kill(os.getpid(), numbers[0])

    options = {"num_train_epochs": 1, "dataloader_num_workers": 1, "dataloader_multiprocessing_context": start_method}
    trainer, code = train(at("on_step_begin", send), train=make_dataset(160), **options)
    assert code == EXIT_CODE and checkpoints(trainer) == [18]


# Left by a loader that is not done when Python exits.
LEFT_WORKERS = """
import sys, torch
from hf_cifar_resnet.training.workers import worker_context

loader = torch.utils.data.DataLoader(range(9), num_workers=1, multiprocessing_context=worker_context(sys.argv[1]))
if __name__ == "__main__":
    batches = iter(loader)
    next(batches)
    print("ends")
"""


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_workers_that_are_left_end_with_python(tmp_path, start_method):
    (tmp_path / "program.py").write_text(LEFT_WORKERS)
    command = [sys.executable, tmp_path / "program.py", start_method]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)  # waits for all that hold the output
    assert (result.returncode, result.stdout, result.stderr) == (0, "ends\n", "")


# During an evaluation


@pytest.mark.parametrize(
    "step, options",
    [
        (4, EVALUATED | {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}}),
        (4, EVALUATED | {"eval_steps": 1, "ema_decay": 0.9}),
        (5, EPOCHS | {"ema_decay": 0.9}),
        (10, EPOCHS | {"early_stopping_patience": 1}),
        (7, EPOCHS | {"max_steps": 7}),
        (5, EPOCHS | {"early_stopping_patience": 1, "metric_for_best_model": "top5", "learning_rate": 1e-9}),
    ],
)
def test_evaluation_comes_to_its_end_before_the_save(train, step, options):
    sender = Sender(step, batch=2)
    check_resumed(train, sender, step, **options)
    assert sender.batches[step] == 5


def test_evaluation_without_a_save_is_followed_by_one_more_step(train):
    check_resumed(train, Sender(2, batch=2), 3, **EVALUATED | {"save_steps": 4})


# Before and after


def test_signal_before_training_ends_at_once(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped, watch_signals(["python", "train.py"], tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")
    assert stopped.value.code == EXIT_CODE and (tmp_path / MARKER).exists()
    assert capsys.readouterr().out == (
        "Preempted by SIGTERM: nothing was saved yet. Start again with python train.py\n"
    )


def test_signal_after_training_ends_at_once_and_keeps_what_was_saved(make_trainer, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped, watch_signals(["python", "train.py"], tmp_path / "run") as preempted:
        trainer = make_trainer(callbacks=[preempted], save_strategy="epoch")
        trainer.train()
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("it went on")
    assert stopped.value.code == EXIT_CODE and checkpoints(trainer) == [5]
    assert "checkpoint-5. Resume with python train.py --output_dir" in capsys.readouterr().out


def exit_code_of(function):
    """What a fork of this process exits with after `function`, which is given a watch in the middle of a training."""
    child = os.fork()
    if child == 0:
        with watch_signals(["train.py"]) as watch:
            watch.training = True
            function(watch)
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("number", SIGNALS)
def test_second_signal_ends_at_once(number):
    def send_twice(watch):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.1 * SAME_REQUEST)
        os.kill(os.getpid(), number)

    assert exit_code_of(send_twice) == 128 + number


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("launched", [True, False])
def test_signal_that_arrives_twice_is_one_request(monkeypatch, number, launched):
    """`timeout` signals the process and then its group, a launcher passes on what it and its processes were sent."""
    if launched:
        monkeypatch.setenv("LOCAL_RANK", "0")

    def send_twice(watch):
        for _ in range(2):
            os.kill(os.getpid(), number)
        os._exit(watch.signum)

    assert exit_code_of(send_twice) == number


@pytest.mark.parametrize("number", SIGNALS)
def test_ignored_signal_stays_ignored(number):
    """As behind `nohup`, which ignores SIGHUP, or in the background of a script, where SIGINT is ignored."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with watch_signals(["train.py"]) as watch:
            os.kill(os.getpid(), number)
        assert watch.signum is None and signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("make_output, ignored", [(os.pipe, False), (os.openpty, False), (os.pipe, True)])
def test_run_whose_output_nobody_reads_any_more_saves_and_ends(make_trainer, tmp_path, make_output, ignored):
    """Such as that of a study that was killed, or in a terminal that was closed: a SIGHUP need not arrive."""
    reader, writer = make_output()
    child = os.fork()
    if child == 0:
        if ignored:  # as behind `nohup`
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for stream in (1, 2):
            os.dup2(writer, stream)
        os.close(writer)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)

        def stop_reading(args, state):
            if state.global_step == 2:
                os.close(reader)
                for _ in range(500):
                    if watch.signum is None:
                        time.sleep(0.01)
                print("still there")

        try:
            with watch_signals(["train.py"]) as watch:
                make_trainer(callbacks=[at("on_step_begin", stop_reading), watch]).train()
                watch.check()
        except SystemExit as stopped:
            os._exit(stopped.code)
        finally:
            os._exit(1)
    os.close(writer)
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT_CODE
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]


CLOSED = "from hf_cifar_resnet.training.preemption import watch_signals\nwith watch_signals(['train.py']): print('on')"


def test_output_that_is_closed_from_the_start():
    """The next file that is opened, such as a pipe, gets its number."""
    command = [sys.executable, "-c", CLOSED]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("value", ["false", "run/checkpoint-3"])
def test_what_was_resumed_from_is_replaced(train, capsys, value):
    trainer, _ = train(Sender(2), command=["train.py", "--resume_from_checkpoint", value, "--seed", "42"])
    shown = f"train.py --resume_from_checkpoint auto --seed 42 --output_dir {trainer.args.output_dir}\n"
    assert capsys.readouterr().out.endswith(f"Resume with {shown}")


def test_token_is_not_printed():
    assert "hf_secret" not in " ".join(command_line(["--hub_token", "hf_secret", "--hub_token=hf_secret"], None))


def test_checkpointing_of_transformers_own_is_refused(make_args):
    with pytest.raises(ValueError, match="enable_jit_checkpoint is not supported"):
        make_args(enable_jit_checkpoint=True)
