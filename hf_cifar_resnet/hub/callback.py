"""Push a run to the Hub while it trains and when it has finished. A failed push never stops the training."""

import re
import shlex
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..checkpoints.pickle_free import write_pickle_free
from ..checkpoints.save import EMA_FILE
from ..errors import UserError
from ..processes import is_rank_0
from ..runs.files import CARD, WEIGHTS, folder_name
from ..runs.folder import RunFolder
from ..runs.history import History
from ..runs.metrics import Selection
from ..runs.record import RunRecord
from ..training.record import make_metrics
from . import client
from .staging import kept_card_note, stage_checkpoint, stage_run

LAST = "last-checkpoint"


class HubCallback(TrainerCallback):
    """
    Push a run as the `--hub_*` arguments say: at the end by [`finish`] and, where `--hub_strategy` asks for it, after
    each save, in a thread. `record` is that of the run, and `eval_split` the split on which the best epoch is chosen.
    Raises [`UserError`] if the token is missing or may not write; if the Hub does not answer, training starts anyway.
    """

    pushes_to_hub: ClassVar[bool] = True

    def __init__(self, args, eval_split: Selection, record: RunRecord):
        self.args, self.eval_split, self.run_id = args, eval_split, record.id
        self.repo_id = args.hub_model_id or _repo_name(args.output_dir)
        self._thread, self._warned = None, set()
        if not is_rank_0():
            return
        try:
            self.repo_id = client.check_access(self.repo_id, **self._where(args.hub_revision))
        except client.HubError as error:
            if not error.temporary:
                raise UserError(f"--push_to_hub: {error}") from error
            tqdm.write(f"warning: {error}; training starts, and pushes when the Hub answers again")

    def __str__(self):
        branch = f", branch {self.args.hub_revision}" if self.args.hub_revision else ""
        return f"{self.repo_id}{branch} ({self.args.hub_strategy.value})"

    def _where(self, revision):
        args = self.args
        # Two runs may have folders of the same name: only who names the repository means to replace what it holds.
        return {"run": self.run_id, "replace": bool(args.hub_model_id), "private": args.hub_private_repo,
                "revision": revision, "token": args.hub_token}  # fmt: skip

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero or args.hub_strategy == "end":
            return
        if self._thread is not None:
            if self._thread.is_alive() and not args.hub_always_push:
                return  # the next save pushes a newer state anyway
            self._thread.join()
        try:
            staging = tempfile.TemporaryDirectory(prefix="hf-cifar-resnet-")
            pushes = self._stage_all(state, Path(staging.name))
        except (OSError, TypeError, ValueError) as error:  # such as a full disk for temporary files
            self._warn(error)
            return
        self._thread = threading.Thread(target=self._push_all, args=(staging, pushes), daemon=True)
        self._thread.start()

    def _stage_all(self, state, staging):
        """Copy what is pushed before training changes it. Return pairs of a folder and its branch."""
        checkpoint = Path(self.args.output_dir, f"checkpoint-{state.global_step}")
        best = Path(state.best_model_checkpoint or checkpoint) if self.args.load_best_model_at_end else checkpoint
        pushes = [(self._stage(best, state, staging / "model"), self.args.hub_revision)]
        if self.args.hub_strategy in ("checkpoint", "all_checkpoints"):
            folder = self._stage(checkpoint, state, staging / "state")
            write_pickle_free(checkpoint, folder, best if best != checkpoint else None)
            pushes.append((folder, LAST if self.args.hub_strategy == "checkpoint" else checkpoint.name))
        return pushes

    def _stage(self, checkpoint, state, folder):
        folder.mkdir()
        metrics = make_metrics(state, self.args, self.eval_split)
        weights = EMA_FILE if self.args.ema_decay and self.args.saved_weights == "ema" else WEIGHTS
        # The record in the folder has what was only known when training began, such as the batch that fits.
        record = RunFolder(Path(self.args.output_dir)).read_record()
        history = History.from_log(state.log_history)
        stage_checkpoint(checkpoint, self.repo_id, folder, record, metrics, history, weights)
        return folder

    def _push_all(self, staging, pushes):
        with staging:
            for folder, branch in pushes:
                try:
                    if self._push(folder, branch, "Training in progress").kept_card:
                        self._warn(f"the card, {CARD}, which others have changed on the Hub and which stays")
                except Exception as error:  # training continues, whatever it is
                    self._warn(error)

    def _warn(self, error):
        line = f"warning: not pushed: {error}; training continues"
        if line not in self._warned:  # the next push may fail likewise
            tqdm.write(line)
        self._warned.add(line)

    def _push(self, folder, branch, message):
        return client.push_folder(folder, self.repo_id, message=message, **self._where(branch))

    def finish(self):
        """
        Push the finished run and return its address, and what was left out. Raises [`UserError`] with the command to do
        it later.
        """
        if self._thread is not None:
            self._thread.join()
        try:
            self.repo_id = client.full_name(self.repo_id, self.args.hub_token)  # the Hub may not have answered before
            with tempfile.TemporaryDirectory(prefix="hf-cifar-resnet-") as folder:
                stage_run(self.args.output_dir, self.repo_id, folder)
                pushed = self._push(folder, self.args.hub_revision, "Push a trained model")
            return "\n".join([pushed.url, *[kept_card_note(self.args.output_dir)] * pushed.kept_card])
        except client.HubError as error:
            words = ["hf-cifar-resnet", "push", self.args.output_dir, self.repo_id]
            words += ["--private"] * bool(self.args.hub_private_repo)
            words += ["--revision", self.args.hub_revision] if self.args.hub_revision else []
            raise UserError(
                f"the run is trained and saved, but not pushed: {error}. This finishes the push: {shlex.join(words)}"
            ) from error


def _repo_name(folder):
    """Return a repository's name for a run's folder. Raises [`UserError`] if there is none that the Hub allows."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder_name(folder))
    name = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", name)).strip("-.")[:96].rstrip("-.")
    if not name:
        raise UserError(f"--push_to_hub: {folder} is no name for a repository: give --hub_model_id")
    return name
