"""The Trainer's checkpoints made whole, and its resumption exact."""

import json
import logging
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from transformers import Trainer

from ..documents import read_json
from ..errors import UserError
from ..reporting.repository import TRAINING_ARGS_JSON
from . import checkpoints


class ResumableTrainer(Trainer):
    """
    transformers' Trainer with checkpoints that are whole or not there, and that are checked before they are read.
    Training that goes on from one ends, on a CPU, with the same bits as if it had never stopped, wherever it stopped.

    - The first process alone writes. Best and last checkpoint are both kept, whatever `save_total_limit` says.
    - What is due at the last step of an epoch is done after the epoch's end, so that no checkpoint lies between the two
      and a resumed run would leave out what is due at the end.
    - What was counted since the last log is saved too, for each process.
    """

    def __init__(self, *args, **kwargs):
        self._is_saving = self._has_ended = False
        self._resumed_from = None
        super().__init__(*args, **kwargs)

    def train(self, resume_from_checkpoint=None, **kwargs):
        """
        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint, or True for the last whole one.

        Raises:
            UserError: if it is damaged, or the disk has no room for the checkpoints.
        """
        self._resumed_from = self._to_resume(resume_from_checkpoint)
        self._started = time.perf_counter()
        if self.args.should_save and self.args.save_strategy != "no":
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            # One more than are kept, since the oldest goes when the newest is there, and the model at the end.
            count = (self.args.save_total_limit or 1) + 1
            needed = count * self._checkpoint_bytes() + self._model_bytes()
            checkpoints.check_room(self.args.output_dir, needed, "training")
        return super().train(resume_from_checkpoint=self._resumed_from, **kwargs)

    def _to_resume(self, given):
        if not given:
            return None
        needs_best = self.args.load_best_model_at_end
        if given is True:
            found = checkpoints.newest(self.args.output_dir, needs_best)
            reason = "there is no whole checkpoint" if found is None else None
        else:
            found = Path(given)
            reason = checkpoints.unusable(found, needs_best)
        if found is not None and not reason:
            with _reading(found):
                reason = self._misfit(found)
        if reason:
            raise UserError(f"the checkpoint {found or self.args.output_dir} cannot be resumed: {reason}")
        return str(found)

    def _misfit(self, checkpoint):
        """What shows that a checkpoint is not one of this training, or None."""
        optim = read_json(checkpoint / TRAINING_ARGS_JSON)["optim"]
        if optim != self.args.optim:
            return f"it was trained with --optim {optim}, not {self.args.optim.value}, and holds the state of that"
        return checkpoints.other_classes(checkpoint, self.model.config.id2label)

    # Sizes

    def _model_bytes(self):
        return sum(tensor.nbytes for tensor in self.model.state_dict().values())

    def _checkpoint_bytes(self):
        """At most: with the two moments of Adam, and small files."""
        return 3 * self._model_bytes() + 2**20

    # Progress since the last log

    def progress(self):
        """What this process has counted and not logged yet, as JSON can hold it."""
        return {
            "loss": self._tr_loss.item(),
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "seconds": time.perf_counter() - self._started,
        }

    def restore_progress(self, progress):
        """Goes on counting where [`progress`] was."""
        self._tr_loss.fill_(progress["loss"])
        self._total_loss_scalar = progress["total_loss"]
        self._globalstep_last_logged = progress["last_logged"]
        self._started = time.perf_counter() - progress["seconds"]
        self._initial_global_step = 0

    # The loop

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        with _without_warnings("transformers.trainer"):  # that the best checkpoint is gone, where all was moved
            position = super()._init_training_state(
                max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
            )
        self._step_at_epoch_end, self._has_ended = None, False
        if checkpoint is not None:
            best = checkpoints.best_of(Path(checkpoint))
            self.state.best_model_checkpoint = str(best) if best is not None and best.is_dir() else None
            if self.state.epoch.is_integer():
                self._step_at_epoch_end = self.state.global_step
            planned = checkpoints.state_of(checkpoint)["max_steps"]
            stopped_early = self.control.should_training_stop and self.state.global_step < planned
            self._has_ended = stopped_early or self.state.global_step >= max_steps
        return position

    def _run_epoch(self, *, trial, **kwargs):
        self._catch_up(trial)
        # The Trainer would take one step more where a run has ended within an epoch.
        self.control.should_training_stop |= self._has_ended
        if not self.control.should_training_stop:
            super()._run_epoch(trial=trial, **kwargs)

    def _catch_up(self, trial):
        """The evaluation, and the save after it, that was due when the run was preempted."""
        if self.control.should_evaluate:
            self._load_rng_state(self._resumed_from)
            self._maybe_log_save_evaluate(self._tr_loss, None, self.model_wrapped, trial, None, None, time.time())

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        over = self.control.should_training_stop or self.control.should_epoch_stop or self.state.epoch.is_integer()
        if over and self._step_at_epoch_end != self.state.global_step:
            # The Trainer comes here again when the epoch has ended, with all that is due.
            self._step_at_epoch_end = self.state.global_step
            return
        self._save_is_due = False
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.control.should_training_stop and self._step_at_epoch_end != self.state.global_step:
            # Decided by this evaluation: the end of the epoch follows.
            self._step_at_epoch_end = self.state.global_step
            self.control.should_save = self._save_is_due

    def _evaluate(self, *args, **kwargs):
        metrics = super()._evaluate(*args, **kwargs)
        at_end = self._step_at_epoch_end == self.state.global_step
        self._save_is_due = self.control.should_save
        self.control.should_save &= at_end or not self.control.should_training_stop
        return metrics

    def _finalize_training(self, trial, num_train_samples, start_time):
        if self._has_ended:
            self._load_rng_state(self._resumed_from)
        # The Trainer would delete the last checkpoint under a limit of 1.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            started = time.time() - (time.perf_counter() - self._started)
            return super()._finalize_training(trial, num_train_samples, started)
        finally:
            self.args.save_total_limit = limit

    # Saving

    def _get_output_dir(self, trial):
        folder = Path(super()._get_output_dir(trial))
        return str(folder / checkpoints.ASIDE if self._is_saving else folder)

    def _save_checkpoint(self, model, trial):
        run, step = Path(self._get_output_dir(trial)), self.state.global_step
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # ours, after it has its place
        try:
            if self.args.should_save:
                checkpoints.check_room(run, self._checkpoint_bytes(), f"the checkpoint of step {step}")
                written = checkpoints.begin(run, step)
            self._is_saving = True
            super()._save_checkpoint(model, trial)
            self._is_saving = False
            self.accelerator.wait_for_everyone()
            best = self._best_in(run)
            if self.args.should_save:
                self.state.save_to_json(written / checkpoints.TRAINER_STATE)
                place = checkpoints.commit(written)
                checkpoints.rotate(run, limit, {place, best})
        except (OSError, RuntimeError, SafetensorError) as error:
            if not checkpoints.is_write_error(error):
                raise
            reason = checkpoints.why_not_written(error, run)
            raise self._not_saved(run, step, reason) from error
        finally:
            self._is_saving = False
            self.args.save_total_limit = limit

    def _best_in(self, run):
        """The best checkpoint where it is, or will be in a moment; the best evaluation may have had none."""
        step = self.state.best_global_step
        saved = checkpoints.numbered(run).get(step)
        # One that was saved before its evaluation, by a signal, is none that an uninterrupted run would have.
        if step and (
            step == self.state.global_step or saved and checkpoints.state_of(saved)["best_global_step"] == step
        ):
            self.state.best_model_checkpoint = str(run / f"checkpoint-{step}")
        return Path(self.state.best_model_checkpoint or run)

    def _not_saved(self, run, step, reason):
        checkpoints.discard(run)
        last = max(checkpoints.numbered(run).items(), default=(None, None))[1]
        left = f"{last} is the last one" if last else "there is none before it"
        return UserError(f"the checkpoint of step {step} could not be written into {run}: {reason}; {left}")

    def _save_rng_state(self, output_dir):
        """Those of all processes, and what each has counted, written by the one that writes."""
        with tempfile.TemporaryDirectory() as place:
            super()._save_rng_state(place)
            Path(place, _progress_file(self.args.process_index)).write_text(json.dumps(self.progress()) + "\n")
            files = [(path.name, path.read_bytes()) for path in Path(place).iterdir()]
        if self.args.world_size > 1:
            files = gather_object(files)
        if self.args.should_save:
            for name, content in files:
                Path(output_dir, name).write_bytes(content)

    def _save(self, output_dir=None, state_dict=None):
        if not self.args.should_save:  # the Trainer calls it in every process
            return
        folder = Path(output_dir or self.args.output_dir)
        if self._is_saving:
            self.write_model(folder, state_dict)
        else:
            with checkpoints.replacing(folder) as aside:
                self.write_model(aside, state_dict)

    def write_model(self, folder, state_dict=None):
        """Writes the model and what belongs to it into a folder that is there."""
        super()._save(str(folder), state_dict)

    # Reading

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with _reading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result):
        names = [*load_result.missing_keys, *load_result.unexpected_keys]
        if names:
            raise ValueError(f"it is one of another model, as {names[0]} shows")

    def _load_optimizer_and_scheduler(self, checkpoint):
        with _reading(checkpoint):
            if not Path(checkpoint, "scheduler.pt").is_file():
                # The Trainer would begin with new moments and the first learning rate.
                raise ValueError("it was saved with --save_only_model, without optimizer and schedule")
            super()._load_optimizer_and_scheduler(checkpoint)
            self._lay_out_moments()

    def _lay_out_moments(self):
        """
        In the memory format of the weights, which is another one where the checkpoint comes from another machine: fused
        optimizers pair what lies at the same place.
        """
        for weights, state in self.optimizer.state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.shape == weights.shape and value.stride() != weights.stride():
                    state[name] = torch.empty_like(weights, dtype=value.dtype).copy_(value)

    def _load_rng_state(self, checkpoint):
        with _reading(checkpoint):
            super()._load_rng_state(checkpoint)
            files = [Path(checkpoint, _progress_file(number)) for number in range(self.args.world_size + 1)]
            # Of another number of processes, it would be neither all nor this one's.
            if [path.is_file() for path in files] == [True] * self.args.world_size + [False]:
                self.restore_progress(read_json(files[self.args.process_index]))
            elif self.is_world_process_zero():
                print("Resumed with another number of processes: not to the same bits")

    def _load_best_model(self):
        best = Path(self.state.best_model_checkpoint)
        reason = checkpoints.damage(best)
        if reason:
            raise UserError(f"training has ended, but its best model, {best}, cannot be loaded: {reason}")
        super()._load_best_model()


def _progress_file(process):
    return f"progress_{process}.json"


@contextmanager
def _without_warnings(name):
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _reading(checkpoint):
    """Tells in one line that a checkpoint holds what is no state; the Trainer unpickles plain values alone."""
    try:
        yield
    except UnpicklingError as error:
        raise UserError(
            f"the checkpoint {checkpoint} cannot be resumed: a file of it holds something else than tensors and "
            "numbers, which might run code and was not read"
        ) from error
    except (OSError, EOFError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        _, other, shapes = reason.partition("size mismatch for ")
        if other:  # PyTorch lists them all
            reason = f"it is one of another model, as {shapes.partition(':')[0]} shows"
        raise UserError(f"the checkpoint {checkpoint} cannot be resumed: {reason}") from error
