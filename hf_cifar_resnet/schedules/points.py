"""A schedule of straight lines between given points."""

import csv
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..documents import parse_yaml
from ..errors import explained
from .factors import factory_of
from .scheduler import Factor
from .spec import ArgumentKind, ScheduleSpec

Points = list[tuple[float, float]]  # position, factor
# A tenth of the peak, the peak after a fifth of the run, and 0 at the end.
DEFAULT_POINTS = ((0, 0.1), (0.2, 1), (1, 0))
POINTS = ArgumentKind("a list of pairs or the name of a file", lambda value: isinstance(value, (list, tuple, str)))


def points_factor(total_steps: int, warmup_steps: int, points: str | Iterable[Any] = DEFAULT_POINTS) -> Factor:
    """
    Join points (position, factor) by straight lines. `points` is a list of pairs, or a YAML or CSV file of them; the
    positions are shares of all steps if none is above 1, else steps; the factors are shares of the peak.
    """
    positions, factors = zip(*read_points(points), strict=True)
    unit = 1 if positions[-1] > 1 else total_steps

    def factor(step: int) -> float:
        return float(np.interp(step / unit, positions, factors))

    return factor


def read_points(points: str | Iterable[Any]) -> Points:
    """Return the points of a list or a file as pairs of numbers. Raises `ValueError` for others."""
    if not isinstance(points, str):
        return _check_points(points, "points")
    # Spreadsheets begin a CSV file with a byte order mark.
    with (
        explained(f"{points} cannot be read", OSError, ValueError, csv.Error),
        open(os.path.expanduser(points), encoding="utf-8-sig", newline="") as stream,
    ):
        rows = [row for row in csv.reader(stream) if row] if points.endswith(".csv") else parse_yaml(stream)
    if points.endswith(".csv") and rows and not _is_number(rows[0][0]):
        rows = rows[1:]  # without the header
    return _check_points(rows, points)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_points(rows: Any, source: str) -> Points:
    try:
        points = [(float(position), float(factor)) for position, factor in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} must have rows of two numbers, a position and a factor") from error
    positions = [position for position, _ in points]
    if not points or positions != sorted(set(positions)):
        raise ValueError(f"the positions of {source} must rise from row to row")
    if max(factor for _, factor in points) > 1:
        raise ValueError(f"the factors of {source} are shares of the peak learning rate, at most 1")
    return points


def _find_late_point(total_steps: int, warmup_steps: int, arguments: Mapping[str, Any]) -> str | None:
    position = read_points(arguments.get("points", DEFAULT_POINTS))[-1][0]
    return f"the last point is at step {position:g}" if position > max(1, total_steps) else None


SPECS = (
    ScheduleSpec(
        name="points",
        label="straight lines",
        description="straight lines between points that you give: pairs of position and factor, or a file of them",
        source="NumPy, https://numpy.org/doc/stable/reference/generated/numpy.interp.html",
        factory=factory_of(points_factor),
        arguments={"points": POINTS},
        # It would rise twice, since points that begin below the peak are a warmup already.
        takes_warmup=False,
        own_warmup="points",
        falls=False,
        reaches_peak=False,
        find_late_part=_find_late_point,
    ),
)
