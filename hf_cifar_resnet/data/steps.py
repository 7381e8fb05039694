"""How the optimizer steps divide the images of an epoch."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True)
class Steps:
    """
    An optimizer step takes the next `accumulation` batches of every process from the order of an epoch.

    Accelerate fills up the last batches of an epoch with images that the epoch has had already, so that all processes
    have as many batches of one size. These images do not count.

    Args:
        num_images: images of an epoch.
        batch_size: images in a batch of one process.
        processes: how many there are.
        accumulation: batches of a process in an optimizer step; the last step of an epoch may have fewer.
        drop_last: whether images that do not fill up a batch in every process are left out.
    """

    num_images: int
    batch_size: int
    processes: int = 1
    accumulation: int = 1
    drop_last: bool = False

    @classmethod
    def of(cls, args: "TrainingArguments", num_images: int, batch_size: int) -> "Steps":
        """Return those of `TrainingArguments`. Raises `ValueError` if no batch is left."""
        accumulation, drop_last = args.gradient_accumulation_steps, args.dataloader_drop_last
        steps = cls(num_images, batch_size, args.world_size, accumulation, drop_last)
        if steps.batches < 1:
            raise ValueError(
                f"the {num_images:,} training images do not fill up a batch of {batch_size:,} in each of "
                f"{args.world_size} processes, so that dataloader_drop_last leaves out all: choose a smaller batch"
            )
        return steps

    @property
    def batches(self) -> int:
        """The batches of each process in an epoch."""
        exact = self.num_images / (self.batch_size * self.processes)
        return math.floor(exact) if self.drop_last else math.ceil(exact)

    @property
    def in_epoch(self) -> int:
        return math.ceil(self.batches / self.accumulation)

    @property
    def repeated(self) -> int:
        """The images that fill up the last batches of an epoch; a single process has a smaller batch instead."""
        missing = self.batches * self.batch_size * self.processes - self.num_images
        return max(0, missing) if self.processes > 1 else 0

    def locate(self, step: int) -> tuple[int, range]:
        """Return the epoch of an optimizer step, counted from 0, and the places of its images in the epoch's order."""
        epoch, number = divmod(step, self.in_epoch)
        together = self.batch_size * self.processes
        end = min((number + 1) * self.accumulation, self.batches) * together
        return epoch, range(number * self.accumulation * together, min(end, self.num_images))

    def count(self, step: int, part: int, process: int) -> int:
        """Return how many images of a batch count, the first ones: of a step's batch number `part` in a process."""
        start = (part * self.processes + process) * self.batch_size
        return len(self.locate(step)[1][start : start + self.batch_size])

    def share(self, step: int) -> float:
        """
        Return the mean number of images that count in a batch of a step. A batch's summed loss, divided by it, averages
        over the processes and accumulated batches to the mean over the step's images.
        """
        images = len(self.locate(step)[1])
        return images / (math.ceil(images / (self.batch_size * self.processes)) * self.processes)
