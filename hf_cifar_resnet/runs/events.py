"""The progress of a run, as events in a file (`events.jsonl`), one JSON object a line, for programs that watch it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ..errors import explained
from .fields import Fields

logger: logging.Logger = logging.getLogger(__name__)

Kind = Literal["begin", "log", "evaluate", "end"]


@dataclass(frozen=True)
class RunEvent:
    """
    What happened in a run.

    Attributes:
        event: the training began or was resumed, logged, evaluated, or ended.
        step, steps: optimizer steps so far, and those of the whole training.
        epoch: epochs so far.
        time: seconds since 1970.
        values: what was logged, or the scores of an evaluation, under the Trainer's names.
    """

    event: Kind
    step: int
    steps: int
    epoch: float
    time: float = field(default_factory=time.time)
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """How much of the training is done, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps > 0 else 0.0


def append_event(event: RunEvent, path: Path) -> None:
    """Append an event to a file, on a line of its own, in one write. Raises `OSError`."""
    line = json.dumps(asdict(event) | {"values": dict(event.values)}) + "\n"
    with open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # of an event that was cut off, as on a full disk
                line = "\n" + line
        file.write(line.encode())


class EventReader:
    """Reads the events that are appended to a file from now on. The file may not exist yet."""

    def __init__(self, path: Path):
        self.path = path
        self._position = path.stat().st_size if path.is_file() else 0

    def read(self) -> list[RunEvent]:
        """Return the complete events since the last call. A damaged line is logged and left out. Raises `OSError`."""
        if not self.path.is_file():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._position)
            content = file.read()
        # The last line may not be complete yet.
        complete = content[: content.rfind(b"\n") + 1]
        self._position += len(complete)
        events = []
        for line in complete.splitlines():
            try:
                events.append(_parse_event(line, self.path))
            except ValueError as error:  # a lost event is not worth a run
                logger.warning("%s", error)
        return events


def _parse_event(line: bytes, path: Path) -> RunEvent:
    with explained(f"{path} is damaged", ValueError):
        content = json.loads(line)
    if not isinstance(content, dict) or content.get("event") not in get_args(Kind):
        raise ValueError(f"{path} is damaged: a line must be an event")
    fields = Fields(content, path)
    values = fields.section("values")
    return RunEvent(
        event=content["event"],
        step=fields.integer("step"),
        steps=fields.integer("steps"),
        epoch=fields.number("epoch"),
        time=fields.number("time"),
        values={name: values.number(name, finite=False) for name in values.content},
    )
