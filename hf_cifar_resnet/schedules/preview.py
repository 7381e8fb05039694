"""The learning rates of a schedule without a training."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from .registry import create, get
from .scheduler import ResumableScheduler, Schedule


def dry_run(
    name: str,
    total_steps: int,
    learning_rate: float,
    warmup_steps: float = 0,
    arguments: Mapping[str, Any] | None = None,
) -> Iterator[ResumableScheduler]:
    """Yield the scheduler before each step of a run without training."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = create(name, optimizer, total_steps, warmup_steps, arguments)
    for _ in range(total_steps):
        yield scheduler
        optimizer.step()
        scheduler.step()


def rates_at(scheduler: ResumableScheduler, steps: Iterable[int]) -> list[float]:
    """Return the learning rates at these steps, computed without the steps between them."""
    rates = []
    with warnings.catch_warnings(action="ignore"):  # torch expects to be stepped
        position = scheduler.last_epoch
        for step in steps:
            scheduler.last_epoch = step
            rates.append(float(scheduler.get_lr()[0]))
        scheduler.last_epoch = position
    return rates


def sample_steps(total_steps: int, count: int) -> list[int]:
    """Return at most `count` different steps at equal distances, from the first to the last one of a run."""
    return np.unique(np.linspace(0, total_steps - 1, count).round().astype(int)).tolist()


def preview_rates(
    name: str,
    total_steps: int,
    learning_rate: float,
    warmup_steps: float = 0,
    arguments: Mapping[str, Any] | None = None,
    *,
    evaluations: int = 50,
    points: int = 2000,
) -> tuple[list[int], list[float]]:
    """
    Return up to `points` steps of a run, and the learning rate at each. A schedule that follows evaluations gets as
    many as `evaluations`, of which none improves on the first.
    """
    rule_type = get(name).rule
    rule = rule_type(**(arguments or {})) if rule_type else None
    scheduler = next(dry_run(name, total_steps, learning_rate, warmup_steps, arguments))
    every = max(1, total_steps // evaluations)
    steps, rates, evaluated = sample_steps(total_steps, points), [], 0
    for step in steps:
        while rule and isinstance(scheduler, Schedule) and evaluated + every <= step:
            evaluated += every
            if evaluated >= scheduler.warmup_steps:
                rule.apply(scheduler, 1.0, greater_is_better=False)
        rates += rates_at(scheduler, [step])
    return steps, rates
