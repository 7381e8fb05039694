"""What a training counts between two logs, and its end where a figure or a weight is not finite."""

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from ..data.dataset import EpochSampler
from ..errors import UserError

# Steps between two looks at the losses. A look waits for a GPU, and a training that has diverged is not in a hurry.
CHECK_EVERY = 50


@dataclass
class TrainingFigures:
    """
    The figures of this process, since the last log and in all.

    Those of a batch stay on the device until they are read, since reading would stall a GPU at every step. They are
    added on the host, batch by batch: the sums have the same bits wherever a training was interrupted.
    """

    loss: float = 0.0  # sums over images
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds of these, for data
    loss_in_all: float = 0.0
    images_in_all: int = 0
    seconds_in_all: float = 0.0

    def __post_init__(self):
        self.last = self.bad = None  # (step, learning rate): the last one, and the first whose loss is not finite
        self._unread, self._since = [], None

    @property
    def started(self):
        """Whether training has begun: all that it resumes from has been read."""
        return self._since is not None

    def start(self):
        self._since = time.perf_counter() - self.seconds

    def saved(self):
        """All of it as JSON can hold it; the keyword arguments of the figures that go on from there."""
        self.read()
        self.seconds = time.perf_counter() - self._since
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def add(self, values, images, step, learning_rate):
        """Takes in a batch: `values`, still on the device, are its mean loss and its number of correct images."""
        self.last = step, learning_rate
        self._unread.append((values, images, self.last))

    def read(self):
        if not self._unread:
            return
        values, counts, steps = zip(*self._unread, strict=True)
        self._unread = []
        for (loss, correct), images, step in zip(torch.stack(values).tolist(), counts, steps, strict=True):
            self.loss += loss * images
            self.correct += correct
            self.images += images
            if not math.isfinite(loss) and self.bad is None:
                self.bad = step

    def summary(self, add_up):
        """
        The figures since the last log, which start again at 0, as they are logged.

        Args:
            add_up: adds a list of numbers up over all processes.
        """
        self.read()
        loss, correct, images = add_up([self.loss, self.correct, self.images])
        seconds, waited = time.perf_counter() - self._since, self.waited
        self.loss_in_all += loss
        self.images_in_all += images
        self.seconds_in_all += seconds
        self.loss = self.correct = self.seconds = self.waited = 0.0
        self.images = 0
        self.start()
        return {
            "loss": loss / images,
            "train_accuracy": correct / images,
            "images_per_second": images / seconds,
            "data_wait": waited / seconds,
            "train_seconds": self.seconds_in_all,
        }

    def mean_loss(self):
        """Over all that was logged."""
        return self.loss_in_all / self.images_in_all if self.images_in_all else math.nan

    @contextmanager
    def paused(self):
        """The clock stands still, as in an evaluation."""
        before = time.perf_counter()
        yield
        if self.started:
            self._since += time.perf_counter() - before

    @contextmanager
    def waiting(self):
        """For data."""
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before


class NonFiniteError(UserError):
    """A loss or a weight is not finite."""


class FiguresCallback(TrainerCallback):
    """
    Starts the clock of [`TrainingFigures`], and ends the training with a [`NonFiniteError`] where a loss is not finite:
    within [`CHECK_EVERY`] steps, and before anything is logged, evaluated or saved. No weight that is not finite is
    evaluated or saved either.

    Args:
        figures ([`TrainingFigures`])
        sampler ([`EpochSampler`]): of the training images, to name those of the step.
    """

    def __init__(self, figures: TrainingFigures, sampler: EpochSampler):
        self.figures, self.sampler = figures, sampler

    def on_train_begin(self, args, state, control, **kwargs):
        self.figures.start()

    def on_step_end(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        used = control.should_evaluate or control.should_save
        if used or control.should_log or state.global_step % CHECK_EVERY == 0:
            self._check(args, state, model if used else None, train_dataloader)

    def on_epoch_end(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        self._check(args, state, model, train_dataloader)

    def _check(self, args, state, model, train_dataloader):
        self.figures.read()
        bad = self.figures.bad
        if bad is None and model is not None and not _is_finite(model):
            bad = self.figures.last
        found = [each for each in gather_object([bad]) if each is not None]
        if found:
            step, learning_rate = min(found)
            updates = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
            images = self._images_of(step, updates, args)
            raise NonFiniteError(
                f"step {step} (LR {learning_rate:.4g}): the loss or a weight is not finite. What {args.output_dir} has "
                "saved before is intact: lower the learning rate or clip (--max_grad_norm), and begin again or resume. "
                f"Its training images: {' '.join(map(str, images))}"
            )

    def _images_of(self, step, updates, args):
        """The images of an optimizer step, from 1; those that fill up an epoch's last batch are not named again."""
        epoch, update = divmod(step - 1, updates)
        size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        return self.sampler.order(epoch)[update * size : (update + 1) * size]


@torch.no_grad()
def _is_finite(model):
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
