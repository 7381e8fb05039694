"""Training metrics between two logs (loss, accuracy, speed), and the check that loss and weights are finite."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.dataset import EpochSampler
from ..data.steps import Steps

# Steps between two checks of the losses, each of which waits for the GPU.
CHECK_EVERY = 50


@dataclass
class TrainMetrics:
    """
    The training metrics of this process, since the last log, in the current epoch and since the start of the run.

    A batch's metrics stay on the device until they are read, because reading would stall a GPU at every step. They are
    added on the host, batch by batch, so that a resumed training has the same sums to the bit.
    """

    loss: float = 0.0  # sums over images
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds of waiting for data
    loss_in_all: float = 0.0
    images_in_all: int = 0
    seconds_in_all: float = 0.0
    loss_in_epoch: float = 0.0
    correct_in_epoch: float = 0.0
    images_in_epoch: int = 0

    def __post_init__(self) -> None:
        self._first = asdict(self)
        self._since: float | None = None
        self._reset()

    def _reset(self) -> None:
        vars(self).update(self._first)
        # (step, learning rate): of the last loss, and of the first that is not finite
        self.last: tuple[int, float] | None = None
        self.bad: tuple[int, float] | None = None
        self._unread: list[tuple[torch.Tensor, int, tuple[int, float]]] = []

    @property
    def started(self) -> bool:
        """Whether training has begun, that is, whether the checkpoint to resume from has been read."""
        return self._since is not None

    def begin(self) -> None:
        """Start the clock, and forget what an aborted attempt of `auto_find_batch_size` has counted."""
        self._reset()
        self._start_clock()

    def _start_clock(self) -> None:
        self._since = time.perf_counter() - self.seconds

    def _count_seconds(self) -> float:
        """Return the seconds since the last log."""
        return 0.0 if self._since is None else time.perf_counter() - self._since

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as keyword arguments of [`TrainMetrics`], to be saved with a checkpoint."""
        self.read()
        self.seconds = self._count_seconds()
        return asdict(self)

    def add(self, values: torch.Tensor, images: int, step: int, learning_rate: float) -> None:
        """Add a batch, whose summed loss and number of correct images are `values`, a tensor on the device."""
        self.last = step, learning_rate
        self._unread.append((values, images, self.last))

    def read(self) -> None:
        """Read what lies on the device still."""
        if not self._unread:
            return
        values, counts, steps = zip(*self._unread, strict=True)
        self._unread = []
        for (loss, correct), images, step in zip(torch.stack(values).tolist(), counts, steps, strict=True):
            self.loss += loss
            self.correct += correct
            self.images += images
            self.loss_in_epoch += loss
            self.correct_in_epoch += correct
            self.images_in_epoch += images
            if not math.isfinite(loss) and self.bad is None:
                self.bad = step

    def summary(self) -> dict[str, float]:
        """
        Return the log entry of all processes since the last log, and reset. Without `accuracy` where the model was not
        seen to give logits.
        """
        self.read()
        loss, correct, images = map(sum, zip(*gather_object([(self.loss, self.correct, self.images)]), strict=True))
        seconds, waited = self._count_seconds(), self.waited
        self.loss_in_all += loss
        self.images_in_all += images
        self.seconds_in_all += seconds
        self.loss = self.correct = self.seconds = self.waited = 0.0
        self.images = 0
        self._start_clock()
        accuracy = {} if math.isnan(correct) else {"accuracy": correct / images}
        return {
            "loss": loss / images,
            **accuracy,
            "images_per_second": images / seconds,
            "data_wait": waited / seconds,
            "seconds": self.seconds_in_all,
        }

    def begin_epoch(self) -> None:
        self.read()
        self.loss_in_epoch = self.correct_in_epoch = 0.0
        self.images_in_epoch = 0

    def record_epoch(self, state: TrainerState) -> None:
        """
        Add to the Trainer's `state.log_history` the means of all processes over the current epoch, or its part so far,
        as `epoch_loss` and `epoch_accuracy`; unless they are there.
        """
        self.read()
        own = self.loss_in_epoch, self.correct_in_epoch, self.images_in_epoch
        loss, correct, images = map(sum, zip(*gather_object([own]), strict=True))
        is_recorded = any("epoch_loss" in each and each["step"] == state.global_step for each in state.log_history)
        if images and not is_recorded:
            means = {"epoch_loss": loss / images, "epoch_accuracy": correct / images}
            state.log_history.append({**means, "epoch": state.epoch, "step": state.global_step})

    def mean_loss(self) -> float:
        """Return the mean training loss of the run up to the last log."""
        return self.loss_in_all / self.images_in_all if self.images_in_all else math.nan

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock, as during an evaluation."""
        before = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - before


class TrainMetricsCallback(TrainerCallback):
    """
    Starts the clock of [`TrainMetrics`], and raises `FloatingPointError` for a loss that is not finite: within
    [`CHECK_EVERY`] steps, and before a log, evaluation or save. Weights are checked before an evaluation or save.

    It also records the means of each epoch, however often the Trainer logs.
    """

    priority: ClassVar[int] = -110  # after EpochBoundary, which defers what is requested

    def __init__(self, metrics: TrainMetrics, sampler: EpochSampler, find_steps: Callable[[], Steps]):
        self.metrics: TrainMetrics = metrics
        self.sampler: EpochSampler = sampler
        self.find_steps: Callable[[], Steps] = find_steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.metrics.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        model: nn.Module = kwargs["model"]
        used = control.should_evaluate or control.should_save
        if used or control.should_log or state.global_step % CHECK_EVERY == 0:
            self._check(args, model if used else None)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if float(state.epoch or 0).is_integer():  # and not where a run is resumed within an epoch
            self.metrics.begin_epoch()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        self._check(args, model)
        self.metrics.record_epoch(state)

    def _check(self, args: TrainingArguments, model: nn.Module | None) -> None:
        self.metrics.read()
        bad = self.metrics.bad
        if bad is None and model is not None and not _is_finite(model):
            bad = self.metrics.last
        found = [each for each in gather_object([bad]) if each is not None]
        if found:
            step, learning_rate = min(found)
            epoch, places = self.find_steps().locate(step - 1)
            images = self.sampler.order(epoch)[places]
            raise FloatingPointError(
                f"step {step} (LR {learning_rate:.4g}): the loss or a weight is not finite. What {args.output_dir} has "
                "saved before is intact: lower the learning rate or clip (max_grad_norm), and begin again or resume. "
                f"Its training images: {' '.join(map(str, images))}"
            )


@torch.no_grad()
def _is_finite(model: nn.Module) -> bool:
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
