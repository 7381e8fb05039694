"""Images a second of the Trainer's loop, of a bare PyTorch loop on the same model and data, and without data."""

import copy
import itertools
import multiprocessing
import time
from contextlib import contextmanager, suppress

import numpy as np
import torch
from transformers import TrainerCallback

from ..data.dataset import EpochSampler, collate
from ..device import memory_format_for
from ..errors import UserError
from ..training.trainer import CifarTrainer
from .timing import time_steps, wait_for

EPOCH = 50_000  # images: CIFAR-100's; a small dataset is repeated, so that its epochs do not end every few steps
OURS, BARE, SYNTHETIC = "our Trainer", "bare loop", "synthetic data"


def measure(model, args, dataset, windows, steps, profile=False, precisions=()):
    """
    Train with each loop in turn: a window of the Trainer's steps, one of a bare loop with the same data, optimizer and
    settings (also in `precisions`), one of the bare loop on a single batch that lies on the device. A window has
    `steps` timed steps; as many untimed ones come before as batches may be prefetched.

    The bare loops have a process of their own, as a script would. What the Trainer changes in its process, such as what
    happens to freed memory, does not reach them.

    Return the images/s of each window by name, the share of the Trainer's timed steps spent waiting for data, and with
    `profile` a table of the operations in one more window of its steps, else None.
    """
    settle = 2 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
    args.max_steps = 1 + (windows + bool(profile)) * (settle + steps)
    args.eval_strategy = args.save_strategy = args.logging_strategy = "no"
    args.load_best_model_at_end, args.early_stopping_patience, args.dataloader_drop_last = False, None, True
    precision_of = {BARE: args.precision} | {f"{BARE}, {precision}": precision for precision in precisions}
    # The model is sent before the Trainer compiles or wraps it.
    with other_process(serve_bare_loops, model, args, dataset, precision_of) as others:
        images = repeated(dataset)
        trainer = CifarTrainer(model=model, args=args, train_dataset=images, eval_dataset=images)
        turns = TurnsCallback(trainer, others, [SYNTHETIC, *precision_of], settle, steps, windows)
        trainer.add_callback(turns)
        trainer.train()
    images = steps * args.per_device_train_batch_size
    rates = {name: [images / seconds for seconds in times] for name, times in turns.seconds.items()}
    return rates, turns.waited / sum(turns.seconds[OURS]), turns.profile


def repeated(dataset):
    """Return the dataset with its images repeated until they fill an epoch."""
    indices = np.arange(max(EPOCH, len(dataset))) % len(dataset)
    dataset = copy.copy(dataset)
    dataset.images, dataset.labels = dataset.images[indices], dataset.labels[indices]
    return dataset


@contextmanager
def other_process(serve, *arguments):
    """Yield a connection to a process that runs `serve(connection, *arguments)` until the context ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *arguments))
    process.start()
    theirs.close()
    try:
        yield ours
    except EOFError as error:
        raise UserError("the process of the bare loops ended early, see its error above") from error
    finally:
        ours.close()
        process.join()


def serve_bare_loops(requests, model, args, dataset, precision_of):
    """Answer requests for (name of a loop, untimed steps, timed steps) with the seconds of the timed ones."""
    torch.backends.cudnn.benchmark = True  # as many scripts have it
    torch.backends.cuda.matmul.allow_tf32 = bool(args.tf32)
    dataset = repeated(dataset)
    loops = {SYNTHETIC: BareLoop(copy.deepcopy(model), args, synthetic_batches(dataset, args))}
    for name, precision in precision_of.items():
        loops[name] = BareLoop(copy.deepcopy(model), args, endless_batches(dataset, args), precision)
    with suppress(EOFError):  # the other end is closed
        while True:
            name, settle, steps = requests.recv()
            loops[name].train(settle)
            requests.send(time_steps(loops[name].train, steps, args.device))


class TurnsCallback(TrainerCallback):
    """Time windows of the Trainer's steps, run the other loops between them, and profile a window at the end."""

    def __init__(self, trainer, others, names, settle, steps, windows):
        self.trainer, self.others, self.names = trainer, others, names
        self.settle, self.steps, self.windows = settle, steps, windows
        self.seconds = {name: [] for name in (OURS, *names)}
        self.waited, self.profile = 0.0, None
        self._done = -1  # the first step of all compiles, and belongs to no window

    def on_step_end(self, args, state, control, **kwargs):
        self._done += 1
        profiles = len(self.seconds[OURS]) == self.windows
        if self._done == self.settle:
            wait_for(args.device)
            self._waited_before, self._started = self.trainer.figures.waited, time.perf_counter()
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
            self.waited += self.trainer.figures.waited - self._waited_before
            for name in self.names:
                self.others.send((name, self.settle, self.steps))
                self.seconds[name].append(self.others.recv())
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
                loss = self.model(**batch, label_smoothing=self.args.label_smoothing_factor).loss
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
        dataset,
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
