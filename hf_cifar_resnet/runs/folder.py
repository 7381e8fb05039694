"""The folder of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import files
from .history import History
from .metrics import RunMetrics
from .record import RunRecord


@dataclass(frozen=True)
class RunFolder:
    """
    The folder of a run and what is in it. The files are read when they are asked for, and `ValueError` names a damaged
    one and what is wrong in it.
    """

    path: Path

    @property
    def name(self) -> str:
        return files.folder_name(self.path)

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished: it writes its metrics last, when its model and all other files are complete."""
        return (self.path / files.METRICS_JSON).is_file()

    @property
    def has_begun(self) -> bool:
        """Whether the run has written its record or a checkpoint."""
        return (self.path / files.RUN_JSON).is_file() or bool(self.checkpoints())

    @property
    def events(self) -> Path:
        return self.path / files.EVENTS

    def read_record(self) -> RunRecord:
        return RunRecord.read(self.path / files.RUN_JSON)

    def read_metrics(self) -> RunMetrics:
        return RunMetrics.read(self.path / files.METRICS_JSON)

    def read_history(self) -> History:
        return History.read(self.path / files.HISTORY_CSV)

    def checkpoints(self) -> list[Path]:
        """Return the folders `checkpoint-N` in the order of N, complete or not."""
        return files.list_checkpoints(self.path)

    def checkpoint(self, step: int) -> Path:
        return files.checkpoint_path(self.path, step)
