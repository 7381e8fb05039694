"""Push a run to the Hub while it trains and when it has finished. A failed push never stops the training."""

import shlex
import tempfile
import threading
from pathlib import Path

from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..checkpoints.portable import write_portable
from ..checkpoints.save import EMA_FILE
from ..errors import UserError
from ..reporting import run_record
from ..reporting.run_files import WEIGHTS
from ..reporting.run_record import make_metrics
from . import client
from .staging import stage_checkpoint, stage_run

LAST = "last-checkpoint"


class HubCallback(TrainerCallback):
    """
    Pushes a run as `--push_to_hub` and the `--hub_*` arguments say: after each save, in a thread of its own, where
    `--hub_strategy` asks for it, and at the end by [`finish`].

    Args:
        args ([`CifarTrainingArguments`]): with the folder in which the run ends.
        eval_split (`str`): what the best epoch is chosen on.
        run (`dict`): the record of the run, see [`~hf_cifar_resnet.reporting.run_record.make_record`].

    Raises:
        UserError: where the token is missing or may not write. A Hub that does not answer is no reason not to train.
    """

    def __init__(self, args, eval_split, run):
        self.args, self.eval_split, self.run = args, eval_split, run
        self.repo_id = args.hub_model_id or Path(args.output_dir).name
        self._thread = None
        if args.process_index == 0:
            self._check_access()

    def _check_access(self):
        try:
            self.repo_id = client.check_access(
                self.repo_id,
                private=self.args.hub_private_repo,
                revision=self.args.hub_revision,
                token=self.args.hub_token,
            )
        except client.HubError as error:
            if not error.temporary:
                raise UserError(f"--push_to_hub: {error}") from error
            tqdm.write(f"warning: {error}; training starts, and pushes when the Hub answers again")

    def __str__(self):
        branch = f", branch {self.args.hub_revision}" if self.args.hub_revision else ""
        return f"{self.repo_id}{branch} ({self.args.hub_strategy.value})"

    # While it trains

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero or args.hub_strategy == "end":
            return
        if self._is_busy() and not args.hub_always_push:
            # The next save brings what this one would have brought.
            return
        self._wait()
        try:
            place = tempfile.TemporaryDirectory(prefix="hf-cifar-resnet-")
            pushes = self._prepare(state, Path(place.name))
        except (OSError, TypeError, ValueError) as error:  # such as a full disk for temporary files
            self._warn(error)
            return
        self._thread = threading.Thread(target=self._push_aside, args=(place, pushes), daemon=True)
        self._thread.start()

    def _prepare(self, state, place):
        """Copies of what is pushed, made before training goes on: (folder, branch) each."""
        checkpoint = Path(self.args.output_dir, f"checkpoint-{state.global_step}")
        best = Path(state.best_model_checkpoint or checkpoint) if self.args.load_best_model_at_end else checkpoint
        pushes = [(self._stage(best, state, place / "model"), self.args.hub_revision)]
        if self.args.hub_strategy in ("checkpoint", "all_checkpoints"):
            folder = self._stage(checkpoint, state, place / "state")
            write_portable(checkpoint, folder, best if best != checkpoint else None)
            pushes.append((folder, LAST if self.args.hub_strategy == "checkpoint" else checkpoint.name))
        return pushes

    def _stage(self, checkpoint, state, folder):
        folder.mkdir()
        metrics = make_metrics(state, self.args, self.eval_split)
        weights = EMA_FILE if self.args.ema_decay and self.args.saved_weights == "ema" else WEIGHTS
        rows = run_record.history(state.log_history)
        stage_checkpoint(checkpoint, self.repo_id, folder, self.run, metrics, rows, weights)
        return folder

    def _push_aside(self, place, pushes):
        with place:
            for folder, branch in pushes:
                try:
                    self._push(folder, branch, "Training in progress")
                except Exception as error:  # whatever it is, training goes on
                    self._warn(error)

    def _warn(self, error):
        tqdm.write(f"warning: not pushed: {error}; training goes on")

    def _is_busy(self):
        return self._thread is not None and self._thread.is_alive()

    def _wait(self):
        if self._thread is not None:
            self._thread.join()

    def _push(self, folder, branch, message):
        return client.push_folder(
            folder,
            self.repo_id,
            message=message,
            private=self.args.hub_private_repo,
            revision=branch,
            token=self.args.hub_token,
        )

    # At the end

    def finish(self):
        """
        Pushes the finished run, when all of it has been written.

        Returns:
            The address of the repository.

        Raises:
            UserError: with the command that finishes the push.
        """
        self._wait()
        try:
            with tempfile.TemporaryDirectory(prefix="hf-cifar-resnet-") as folder:
                stage_run(self.args.output_dir, self.repo_id, folder)
                return self._push(folder, self.args.hub_revision, "Push a trained model").url
        except client.HubError as error:
            raise UserError(
                f"all is trained and saved, but not pushed: {error}. This finishes the push: {self._command()}"
            ) from error

    def _command(self):
        words = ["hf-cifar-resnet", "push", self.args.output_dir, self.repo_id]
        words += ["--private"] * bool(self.args.hub_private_repo)
        words += ["--revision", self.args.hub_revision] if self.args.hub_revision else []
        return shlex.join(words)
