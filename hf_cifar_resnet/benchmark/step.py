"""Images a second of the Trainer's loop, of a bare PyTorch loop on the same model and data, and without data."""

import copy
import itertools
import time

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from ..data.dataset import EpochSampler, collate
from ..device import memory_format_for
from ..training.trainer import CifarTrainer
from .timing import time_steps, wait_for

EPOCH = 50_000  # images: CIFAR-100's; a small dataset is repeated, so that its epochs do not end every few steps
OURS, BARE, SYNTHETIC = "our Trainer", "bare loop", "synthetic data"


def measure(model, args, dataset, windows, steps, profile=False, precisions=()):
    """
    Train with each loop in turn, in one process: a window of the Trainer's steps, one of a bare loop with the same
    data, optimizer and settings (also in `precisions`), one of the bare loop on a single batch that lies on the device.
    A window has `steps` timed steps; as many untimed ones come before as batches may be prefetched.

    Return the images/s of each window by name, the share of the Trainer's timed steps spent waiting for data, and with
    `profile` a table of the operations in one more window of its steps, else None.
    """
    settle = 2 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
    args.max_steps = 1 + (windows + bool(profile)) * (settle + steps)
    args.eval_strategy = args.save_strategy = args.logging_strategy = "no"
    args.load_best_model_at_end, args.early_stopping_patience, args.dataloader_drop_last = False, None, True
    indices = np.arange(max(EPOCH, len(dataset))) % len(dataset)
    dataset = copy.copy(dataset)
    dataset.images, dataset.labels = dataset.images[indices], dataset.labels[indices]
    # The bare loops copy the model before the Trainer compiles or wraps it.
    others = {
        BARE: BareLoop(copy.deepcopy(model), args, endless_batches(dataset, args)),
        SYNTHETIC: BareLoop(copy.deepcopy(model), args, synthetic_batches(dataset, args)),
    }
    for precision in precisions:
        loop = BareLoop(copy.deepcopy(model), args, endless_batches(dataset, args), precision)
        others[f"{BARE}, {precision}"] = loop
    trainer = CifarTrainer(model=model, args=args, train_dataset=dataset, eval_dataset=dataset)
    turns = TurnsCallback(trainer, others, settle, steps, windows)
    trainer.add_callback(turns)
    trainer.train()
    images = steps * args.per_device_train_batch_size
    rates = {name: [images / seconds for seconds in times] for name, times in turns.seconds.items()}
    return rates, turns.waited / sum(turns.seconds[OURS]), turns.profile


class TurnsCallback(TrainerCallback):
    """Time windows of the Trainer's steps, run the other loops between them, and profile a window at the end."""

    def __init__(self, trainer, others, settle, steps, windows):
        self.trainer, self.others, self.settle, self.steps, self.windows = trainer, others, settle, steps, windows
        self.seconds = {name: [] for name in (OURS, *others)}
        self.waited, self.profile = 0.0, None
        self._done = -1  # the first step of all compiles, and belongs to no window

    def on_step_end(self, args, state, control, **kwargs):
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
                loop.train(self.settle)
                self.seconds[name].append(time_steps(loop.train, self.steps, args.device))
            self._done = 0


class BareLoop:
    """A training loop without a Trainer: forward, backward, clipping, AdamW, schedule."""

    def __init__(self, model, args, batches, precision=None):
        self.args, self.batches, self.precision = args, batches, precision or args.precision
        self.memory_format = memory_format_for(model, args.device)
        self.model = model.to(args.device, memory_format=self.memory_format).train()
        self.parameters = list(model.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": args.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=args.scaled_learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + step / 1000))
        if args.torch_compile:
            options = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}
            self.model = torch.compile(self.model, dynamic=False, **options)

    def train(self, steps):
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


def endless_batches(dataset, args):
    """Yield the training batches, epoch after epoch, in the Trainer's order."""
    sampler = EpochSampler(len(dataset), args.seed)
    workers = args.dataloader_num_workers
    loader = torch.utils.data.DataLoader(
        dataset.at_epoch(sampler.epoch.share_memory_() if workers else sampler.epoch),
        args.per_device_train_batch_size,
        sampler=sampler,
        collate_fn=collate,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=args.dataloader_pin_memory,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
    )
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


def synthetic_batches(dataset, args):
    """Return an endless iterator over one batch of noise that lies on the device already."""
    shape = args.per_device_train_batch_size, 3, *dataset.images.shape[1:3]
    pixels = torch.randn(shape, device=args.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(int(dataset.labels.max()) + 1, shape[:1], device=args.device)
    return itertools.repeat({"pixel_values": pixels, "labels": labels})
