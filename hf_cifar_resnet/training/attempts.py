"""The attempts of `auto_find_batch_size`, which begins a training again with a smaller batch where memory ran out."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..runs.files import list_checkpoints


class AttemptsCallback(TrainerCallback):
    """
    Gives every attempt the weights and the random state of the first, so that the training ends with the bits of one
    that had the smaller batch from its start. What an aborted attempt has saved is deleted.
    """

    priority: ClassVar[int] = 80  # before callbacks that read the weights

    def __init__(self, resumed_from: Path | None):
        self.resumed_from = resumed_from
        self._weights: dict[str, torch.Tensor] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        # Modules with the random state of the host and of the device.
        generators = [torch, *([torch.get_device_module(args.device)] if args.device.type != "cpu" else [])]
        if self._weights is None:
            self._weights = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
            self._random = [generator.get_rng_state() for generator in generators]
            self._checkpoints = set(list_checkpoints(str(args.output_dir)))
            return
        if self.resumed_from is not None and not self.resumed_from.is_dir():
            raise FileNotFoundError(
                f"out of memory, and {self.resumed_from}, which the run was resumed from, has made way for a later "
                "checkpoint: resume from that, with a smaller batch"
            )
        model.load_state_dict(self._weights)
        for generator, random in zip(generators, self._random, strict=True):
            generator.set_rng_state(random)
        if state.is_world_process_zero:
            for checkpoint in set(list_checkpoints(str(args.output_dir))) - self._checkpoints:
                shutil.rmtree(checkpoint, ignore_errors=True)
            size = f"{state.train_batch_size} images per device and step"
            tqdm.write(f"{'Memory':<10} is too small for the batch: training begins again with {size}")
