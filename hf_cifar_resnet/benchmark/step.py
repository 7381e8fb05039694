"""Images a second of our Trainer, of transformers' own, and of a bare PyTorch loop, on the same model and batches."""

import copy
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..data.dataset import EpochSampler, ImageDataset, collate
from ..device import memory_format_for
from ..runs.record import enum_value
from ..training.arguments import CifarTrainingArguments
from ..training.trainer import CifarTrainer
from .timing import time_steps, wait_for

EPOCH = 50_000  # images: CIFAR-100's; a small dataset is repeated, so that its epochs do not end every few steps
MAX_STEPS = 100_000  # in a window; more would only take long
# Arguments that act on our Trainer alone, and the values with which all loops do the same.
_SAME_FOR_ALL: dict[str, tuple[Any, ...]] = {
    "optim": ("adamw_torch_fused", "adamw_torch"),
    "mixup_alpha": (0.0,),
    "cutmix_alpha": (0.0,),
    "ema_decay": (0.0,),
    "gradient_accumulation_steps": (1,),
    "auto_find_batch_size": (False,),
}
OURS, STOCK, BARE, SYNTHETIC = "our Trainer", "transformers' Trainer", "bare loop", "synthetic data"


@dataclass(frozen=True)
class StepTimes:
    """What [`measure`] has found: images a second in each window by loop, and more about our Trainer."""

    rates: dict[str, list[float]]
    data_wait: float  # the share of the timed steps that our Trainer waited for data
    profile: str | None  # a table of the operations in one more window of our Trainer


def check_arguments(args: CifarTrainingArguments) -> None:
    """Raise `ValueError` for an argument with which the loops would not do the same work."""
    for name, values in _SAME_FOR_ALL.items():
        value = enum_value(getattr(args, name))
        if value not in values:
            raise ValueError(
                f"{name} {value} acts on our Trainer alone, which the other loops are compared with: use {values[0]}"
            )


def measure(
    model: nn.Module,
    args: CifarTrainingArguments,
    dataset: ImageDataset,
    windows: int,
    steps: int,
    profile: bool = False,
    precisions: Sequence[str] = (),
) -> StepTimes:
    """
    Train with each loop in turn, in one process: a window of our Trainer's steps, then one each of transformers' own
    and of a bare loop with the same data, optimizer and settings (also in `precisions`), and one of the bare loop on a
    single batch that lies on the device.

    A window has `steps` timed steps; as many untimed ones come before as batches may be prefetched. Raises `ValueError`
    as [`check_arguments`] does.
    """
    check_arguments(args)
    settle = 2 + (args.dataloader_num_workers or 0) * (args.dataloader_prefetch_factor or 2)
    args = args.copy_with(
        max_steps=1 + (windows + profile) * (settle + steps),
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        load_best_model_at_end=False,
        early_stopping_patience=None,
        dataloader_drop_last=True,
    )
    indices = np.arange(max(EPOCH, len(dataset))) % len(dataset)
    dataset = copy.copy(dataset)
    dataset.images, dataset.labels = dataset.images[indices], dataset.labels[indices]
    # The other loops copy the model before our Trainer compiles or wraps it.
    others: dict[str, BareLoop | StockLoop] = {
        STOCK: StockLoop(copy.deepcopy(model), args, dataset, settle),
        BARE: BareLoop(copy.deepcopy(model), args, endless_batches(dataset, args), settle),
        SYNTHETIC: BareLoop(copy.deepcopy(model), args, synthetic_batches(dataset, args), settle),
    }
    for precision in precisions:
        loop = BareLoop(copy.deepcopy(model), args, endless_batches(dataset, args), settle, precision)
        others[f"{BARE}, {precision}"] = loop
    trainer = CifarTrainer(model=model, args=args, train_dataset=dataset)
    turns = TurnsCallback(trainer, others, settle, steps, windows)
    trainer.add_callback(turns)
    trainer.train()
    images = steps * args.train_batch_size
    rates = {name: [images / seconds for seconds in times] for name, times in turns.seconds.items()}
    return StepTimes(rates, turns.waited / sum(turns.seconds[OURS]), turns.profile)


class TurnsCallback(TrainerCallback):
    """Time windows of a Trainer's steps, run the other loops between them, and profile a window at the end."""

    def __init__(
        self,
        trainer: CifarTrainer,
        others: "dict[str, BareLoop | StockLoop]",
        settle: int,
        steps: int,
        windows: int,
    ):
        self.trainer = trainer
        self.others: dict[str, BareLoop | StockLoop] = others
        self.settle: int = settle
        self.steps: int = steps
        self.windows: int = windows
        self.seconds: dict[str, list[float]] = {name: [] for name in (OURS, *others)}
        self.waited: float = 0.0
        self.profile: str | None = None
        self._done = -1  # the first step of all compiles, and belongs to no window

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._done += 1
        profiles = len(self.seconds[OURS]) == self.windows
        if self._done == self.settle:
            wait_for(args.device)
            self._waited_before, self._started = self.trainer.train_metrics.waited, time.perf_counter()
            if profiles:
                self._profiler = torch.profiler.profile()
                self._profiler.start()
        elif self._done == self.settle + self.steps and profiles:
            self._profiler.stop()
            by = "self_device_time_total" if args.device.type == "cuda" else "self_cpu_time_total"
            self.profile = self._profiler.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=60)
        elif self._done == self.settle + self.steps:
            wait_for(args.device)
            self.seconds[OURS].append(time.perf_counter() - self._started)
            self.waited += self.trainer.train_metrics.waited - self._waited_before
            for name, loop in self.others.items():
                self.seconds[name].append(loop.time(self.steps))
            self._done = 0


class StockLoop:
    """transformers' own Trainer, with none of our methods: each window is a short training with the same optimizer."""

    def __init__(self, model: nn.Module, args: CifarTrainingArguments, dataset: ImageDataset, settle: int):
        self.settle: int = settle
        self.seconds: float = 0.0
        same = ("per_device_train_batch_size", "label_smoothing_factor", "max_grad_norm", "bf16", "seed", "use_cpu",
                "logging_nan_inf_filter", "tf32", "torch_compile", "torch_compile_backend", "torch_compile_mode",
                "dataloader_pin_memory")  # fmt: skip
        memory_format = memory_format_for(model, args.device)
        model = model.to(args.device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        self.trainer: Trainer = _StockTrainer(
            model,
            TrainingArguments(
                output_dir=str(args.output_dir),
                lr_scheduler_type="constant",
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                accelerator_config={"non_blocking": args.dataloader_pin_memory},
                **{name: getattr(args, name) for name in same},
            ),
            train_dataset=dataset,
            optimizers=(make_optimizer(model, args), None),
            callbacks=[_WindowCallback(self)],
        )
        self.trainer.loader = self.trainer.accelerator.prepare(make_loader(dataset, args)[0])
        self.trainer.remove_callback(PrinterCallback)

    def time(self, steps: int) -> float:
        """Return the seconds of a window's steps."""
        trainer = self.trainer
        trainer.args.max_steps = 1 + self.settle + steps
        trainer.train()
        if trainer.model_wrapped is trainer.model:
            # Accelerate would wrap it in autocast once more in the next window.
            trainer.model = trainer.model_wrapped = extract_model_from_parallel(trainer.model, keep_fp32_wrapper=False)
        return self.seconds


class _StockTrainer(Trainer):
    """transformers' own, on a given loader."""

    loader: DataLoader

    def get_train_dataloader(self) -> DataLoader:
        return self.loader


class _WindowCallback(TrainerCallback):
    """Times the last steps of a short training."""

    def __init__(self, loop: StockLoop):
        self.loop = loop

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == 1 + self.loop.settle:
            wait_for(args.device)
            self._started = time.perf_counter()
        elif state.global_step == args.max_steps:
            wait_for(args.device)
            self.loop.seconds = time.perf_counter() - self._started


class BareLoop:
    """A training loop without a Trainer: forward, backward, clipping, AdamW, schedule."""

    def __init__(
        self,
        model: nn.Module,
        args: CifarTrainingArguments,
        batches: Iterator[dict[str, torch.Tensor]],
        settle: int = 0,
        precision: str | None = None,
    ):
        self.args = args
        self.batches: Iterator[dict[str, torch.Tensor]] = batches
        self.settle: int = settle
        self.precision: str = precision or args.precision
        self.memory_format: torch.memory_format = memory_format_for(model, args.device)
        model = model.to(args.device, memory_format=self.memory_format).train()  # pyright: ignore[reportCallIssue]
        self.parameters: list[torch.nn.Parameter] = list(model.parameters())
        self.optimizer: torch.optim.Optimizer = make_optimizer(model, args)
        self.schedule: LambdaLR = LambdaLR(self.optimizer, lambda step: 1 / (1 + step / 1000))
        self.model: Any = model
        if args.torch_compile:
            backend = args.torch_compile_backend or "inductor"
            self.model = torch.compile(model, dynamic=False, backend=backend, mode=args.torch_compile_mode)

    def time(self, steps: int) -> float:
        """Return the seconds of a window's steps."""
        self.train(self.settle)
        return time_steps(self.train, steps, self.args.device)

    def train(self, steps: int) -> None:
        for batch in itertools.islice(self.batches, steps):
            batch = {name: tensor.to(self.args.device, non_blocking=True) for name, tensor in batch.items()}
            batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=self.memory_format)
            with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self.model(pixel_values=batch["pixel_values"]).logits.float()
                loss = cross_entropy(logits, batch["labels"], label_smoothing=self.args.label_smoothing_factor)
            loss.backward()
            if self.args.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.args.max_grad_norm)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)


def make_optimizer(model: nn.Module, args: CifarTrainingArguments) -> torch.optim.AdamW:
    """Return the optimizer that our Trainer makes by default."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.scaled_learning_rate, fused=True)


def make_loader(dataset: ImageDataset, args: CifarTrainingArguments) -> tuple[DataLoader[Any], EpochSampler]:
    """Return a loader of the training batches in our Trainer's order, and its sampler, which has the epoch."""
    sampler = EpochSampler(len(dataset), args.seed)
    workers = args.dataloader_num_workers or 0
    loader = DataLoader(
        dataset.at_epoch(sampler.epoch.share_memory_() if workers else sampler.epoch),
        args.train_batch_size,
        sampler=sampler,
        collate_fn=collate,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=args.dataloader_pin_memory,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
    )
    return loader, sampler


def endless_batches(dataset: ImageDataset, args: CifarTrainingArguments) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the training batches, epoch after epoch, in our Trainer's order."""
    loader, sampler = make_loader(dataset, args)
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


def synthetic_batches(dataset: ImageDataset, args: CifarTrainingArguments) -> Iterator[dict[str, torch.Tensor]]:
    """Return an endless iterator over one batch of noise that lies on the device already."""
    shape = args.train_batch_size, 3, *dataset.images.shape[1:3]
    pixels = torch.randn(shape, device=args.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(int(dataset.labels.max()) + 1, shape[:1], device=args.device)
    return itertools.repeat({"pixel_values": pixels, "labels": labels})
