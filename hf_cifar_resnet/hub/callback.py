"""Push a run to the Hub while it trains and when it has finished. A failed push never stops the training."""

import re
import shlex
import tempfile
import threading
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoints.pickle_free import write_pickle_free
from ..checkpoints.save import EMA_FILE
from ..processes import is_rank_0
from ..runs.files import CARD, WEIGHTS, checkpoint_path, folder_name
from ..runs.folder import RunFolder
from ..runs.history import History
from ..runs.metrics import Selection
from ..runs.record import RunRecord, enum_value
from ..training.arguments import CifarTrainingArguments
from ..training.record import make_metrics
from . import client
from .staging import kept_card_note, stage_checkpoint, stage_run


class HubCallback(TrainerCallback):
    """
    Pushes a run as the `hub_*` arguments say: at the end by [`finish`] and, where `hub_strategy` asks for it, after
    each save, in a thread. Only rank 0 does.

    Args:
        args: those of the training; `output_dir` is the run's folder.
        eval_split: the split on which the best epoch is chosen.
        record: the run's.

    Raises:
        HubError: if the token is missing or may not write, or the repository is public or holds another run and must
            not. If the Hub does not answer, training starts anyway.
    """

    pushes_to_hub: ClassVar[bool] = True

    def __init__(self, args: CifarTrainingArguments, eval_split: Selection, record: RunRecord) -> None:
        self.args = args
        self.run_id: str | None = record.id
        self.eval_split: Selection = eval_split
        self.folder: Path = Path(args.output_dir or ".")
        self.repo_id: str = args.hub_model_id or _repo_name(self.folder)
        self._replaced: str | None = None
        self._thread: threading.Thread | None = None
        self._warned: set[str] = set()
        if not is_rank_0():
            return
        try:
            access = client.check_access(self._target(args.hub_revision))
            self.repo_id, self._replaced = access.repo_id, access.replaced
        except client.HubError as error:
            if not error.temporary:
                raise client.HubError(f"push_to_hub is not possible: {error}") from error
            tqdm.write(f"warning: {error}; training starts, and pushes when the Hub answers again")

    def __str__(self) -> str:
        branch = f", branch {self.args.hub_revision}" if self.args.hub_revision else ""
        replaced = f", replaces {self._replaced}" if self._replaced else ""
        return f"{self.repo_id}{branch} ({enum_value(self.args.hub_strategy)}){replaced}"

    def _target(self, revision: str | None) -> client.Target:
        return client.Target(
            self.repo_id,
            run=self.run_id,
            # Two runs may have folders of the same name: only who names the repository means to replace what it holds.
            replace=bool(self.args.hub_model_id),
            private=self.args.hub_private_repo,
            revision=revision,
            token=self.args.hub_token,
        )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or args.hub_strategy == "end":
            return
        if self._thread is not None:
            if self._thread.is_alive() and not args.hub_always_push:
                return  # the next save pushes a newer state anyway
            self._thread.join()
        try:
            staging = tempfile.TemporaryDirectory(prefix="hf-cifar-resnet-")
            pushes = self._stage_all(state, Path(staging.name))
        # Such as a full disk for temporary files, or a state of the user's that is more than plain values.
        except (OSError, SafetensorError, TypeError, UnpicklingError, ValueError) as error:
            self._warn(error)
            return
        self._thread = threading.Thread(target=self._push_all, args=(staging, pushes), daemon=True)
        self._thread.start()

    def _stage_all(self, state: TrainerState, staging: Path) -> list[tuple[Path, str | None]]:
        """Copy what is pushed before training changes it. Return pairs of a folder and its branch."""
        checkpoint = checkpoint_path(self.folder, state.global_step)
        best = Path(state.best_model_checkpoint or checkpoint) if self.args.load_best_model_at_end else checkpoint
        pushes: list[tuple[Path, str | None]] = [(self._stage(best, state, staging / "model"), self.args.hub_revision)]
        if self.args.hub_strategy in ("checkpoint", "all_checkpoints"):
            folder = self._stage(checkpoint, state, staging / "state")
            write_pickle_free(checkpoint, folder, best if best != checkpoint else None)
            pushes.append((folder, client.LAST if self.args.hub_strategy == "checkpoint" else checkpoint.name))
        return pushes

    def _stage(self, checkpoint: Path, state: TrainerState, folder: Path) -> Path:
        folder.mkdir()
        metrics = make_metrics(state, self.args, self.eval_split)
        weights = EMA_FILE if self.args.ema_decay and self.args.saved_weights == "ema" else WEIGHTS
        # The record in the folder has what was only known when training began, such as the batch that fits.
        record = RunFolder(self.folder).read_record()
        history = History.from_log(state.log_history)
        stage_checkpoint(checkpoint, self.repo_id, folder, record, metrics, history, weights)
        return folder

    def _push_all(self, staging: tempfile.TemporaryDirectory, pushes: list[tuple[Path, str | None]]) -> None:
        with staging:
            for folder, branch in pushes:
                try:
                    if self._push(folder, branch, "Training in progress").kept_card:
                        self._warn(f"the card, {CARD}, which others have changed on the Hub and which stays")
                except (OSError, ValueError) as error:  # training continues
                    self._warn(error)

    def _warn(self, error: object) -> None:
        line = f"warning: not pushed: {error}; training continues"
        if line not in self._warned:  # the next push may fail likewise
            tqdm.write(line)
        self._warned.add(line)

    def _push(self, folder: str | Path, branch: str | None, message: str) -> client.Pushed:
        return client.push_folder(folder, self._target(branch), message=message)

    def finish(self) -> str:
        """
        Push the finished run and return its address, and what was left out. Raises [`HubError`] with the command to do
        it later.
        """
        if self._thread is not None:
            self._thread.join()
        try:
            self.repo_id = client.full_name(self.repo_id, self.args.hub_token)  # the Hub may not have answered before
            with tempfile.TemporaryDirectory(prefix="hf-cifar-resnet-") as folder:
                stage_run(self.folder, self.repo_id, folder)
                pushed = self._push(folder, self.args.hub_revision, "Push a trained model")
        except client.HubError as error:
            argv = ["hf-cifar-resnet", "push", str(self.folder), self.repo_id]
            if self.args.hub_private_repo:
                argv.append("--private")
            if self.args.hub_revision:
                argv += ["--revision", self.args.hub_revision]
            raise client.HubError(
                f"the run is trained and saved, but not pushed: {error}. This finishes the push: {shlex.join(argv)}"
            ) from error
        return f"{pushed.url}\n{kept_card_note(self.folder)}" if pushed.kept_card else pushed.url


def _repo_name(folder: str | Path) -> str:
    """Return a repository's name for a run's folder. Raises `ValueError` if there is none that the Hub allows."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder_name(folder))
    name = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", name)).strip("-.")[:96].rstrip("-.")
    if not name:
        raise ValueError(f"the name of the folder {folder} is none that a repository can have: give a hub_model_id")
    return name
