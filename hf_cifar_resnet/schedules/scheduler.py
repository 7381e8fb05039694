"""The schedulers that a training steps, saves and resumes."""

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

Factor = Callable[[int], float]  # from a step to the share of the peak learning rate


class ResumableScheduler(LRScheduler):
    """
    A scheduler that saves only its position, so that a resumed run takes its learning rates and optimizer settings from
    its own arguments. Otherwise a finished run that is prolonged would continue with a learning rate of 0, and another
    `learning_rate` or `weight_decay` would have no effect.

    Args:
        optimizer_state (`Collection[str]`): what the optimizer itself counts in its parameter groups, beside its
            settings; it is left as it was loaded.
    """

    SAVED: ClassVar[tuple[str, ...]] = ("last_epoch",)
    warmup_steps: int = 0

    def __init__(self, optimizer: Optimizer, *args: Any, optimizer_state: Collection[str] = (), **kwargs: Any):
        super().__init__(optimizer, *args, **kwargs)
        no_settings = {"params", "lr", *optimizer_state}
        self._settings = [
            {name: value for name, value in group.items() if name not in no_settings}
            for group in optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.SAVED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update({name: state_dict[name] for name in self.SAVED if name in state_dict})
        # The Trainer has loaded the optimizer before, with its old settings.
        for group, settings in zip(self.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
        self._apply_learning_rates()

    def _apply_learning_rates(self) -> None:
        """Give the optimizer the learning rates of the present position."""
        self.last_epoch -= 1
        with warnings.catch_warnings(action="ignore"):  # torch warns if the optimizer has not stepped yet
            self.step()


class Schedule(ResumableScheduler, LambdaLR):
    """
    A schedule `learning_rate * factor(step) * scale`, whose `scale` callbacks may change.

    `scale` and `memory` (a dict of numbers and strings) are saved and restored with the schedule.
    """

    SAVED: ClassVar[tuple[str, ...]] = ("last_epoch", "scale", "memory")

    def __init__(
        self,
        optimizer: Optimizer,
        factor: Factor | Sequence[Factor],
        warmup_steps: int = 0,
        optimizer_state: Collection[str] = (),
    ):
        self.scale: float = 1.0
        self.memory: dict[str, Any] = {}
        self.warmup_steps = warmup_steps
        super().__init__(optimizer, factor, optimizer_state=optimizer_state)

    def get_lr(self) -> list[Any]:
        factors = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [lr * factor(self.last_epoch) * self.scale for lr, factor in factors]

    def rescale(self, scale: float) -> None:
        """Set the scale from the next step on."""
        self.scale = scale
        self._apply_learning_rates()


def with_linear_warmup(factor: Factor, warmup_steps: int) -> Factor:
    """Return a factor that rises from 0 for `warmup_steps` steps before it follows the given one."""

    def warmed_up(step: int) -> float:
        return step / warmup_steps if step < warmup_steps else factor(step)

    return warmed_up
