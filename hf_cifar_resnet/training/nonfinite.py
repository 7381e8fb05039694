"""A step whose loss or gradient is not finite changes nothing, and is told of a few steps later."""

import math
from collections import deque
from itertools import zip_longest

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..errors import UserError

# Steps after which a step's outcome is read: it has reached the host by then, so that no device is waited for.
LATE = 4


class NonFiniteGuard(TrainerCallback):
    """
    Undoes, on the device, every step of a [`CifarTrainer`] whose loss, gradient or BatchNorm statistics are not finite.

    What a step changes (weights, BatchNorm statistics, moments, averages, figures to log) is copied before it and put
    back after it, selected by a flag that stays on the device. It works for whatever optimizer. Fused optimizers could
    be told to skip (`found_inf`, which `GradScaler` uses), but torch 2.15's SGD then leaves a first momentum
    uninitialised, and that would leave BatchNorm to do.

    All processes agree without asking each other: a bad loss makes all gradients of its process NaN, and the mean of
    the gradients, and with it their norm, is then NaN in all. In float16, where gradients overflow in good health and
    the scaler skips by itself, the flag is that of the losses alone.

    A step that was undone is a step of the schedule all the same. A step counter that an unfused optimizer keeps on the
    host, beside weights on a GPU, counts it too.

    Args:
        trainer ([`CifarTrainer`]).
        skip (`bool`): go on after it. Otherwise training ends by a [`UserError`] that names step, LR and images.
    """

    def __init__(self, trainer, skip=False):
        self.trainer, self.skip = trainer, skip
        self._bad = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        average = self.trainer.averages()
        self._lasting = [*model.parameters(), *model.buffers(), *average, *self.trainer.running_figures()]
        self._statistics = [b.view(-1) for b in model.buffers() if b.is_floating_point()]
        self._before, self._waiting = [], deque()
        self.steps = self.skipped = 0

    def _changing(self):
        moments = (value for state in self.trainer.optimizer.state.values() for value in state.values())
        return [*self._lasting, *(m for m in moments if torch.is_tensor(m) and m.device == self._bad.device)]

    @torch.no_grad()
    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self._bad = torch.zeros((), dtype=torch.bool, device=args.device)
        now = self._changing()
        self._before += [torch.empty_like(tensor) for tensor in now[len(self._before) :]]
        torch._foreach_copy_(self._before, now)
        self._lr = optimizer.param_groups[0]["lr"]

    def vet(self, loss):
        """The training loss of a batch; where it or what came of it is not finite, with gradients that are all NaN."""
        if self._bad is None:
            return loss
        good = loss.detach().isfinite()
        if self._statistics:
            good = good & torch.cat(self._statistics).isfinite().all()
        self._bad |= ~good
        return loss * torch.where(good, 1.0, math.nan)

    @torch.no_grad()
    def on_step_end(self, args, state, control, train_dataloader=None, **kwargs):
        bad = self._verdict()
        if not bad.is_cpu or bad:  # on a CPU it is known already
            # Moments that the first step made are zero before it.
            for now, before in zip_longest(self._changing(), self._before):
                torch.where(bad, torch.zeros_like(now) if before is None else before, now, out=now)
        self._bad = None
        self.steps += 1
        self._loader_length = len(train_dataloader)
        self._waiting.append((state.global_step, self._lr, _Flag(bad)))
        # Whatever is logged, saved or ended waits for the device anyway.
        waits = control.should_log or control.should_evaluate or control.should_save or control.should_training_stop
        self._read(0 if waits else LATE)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._read(0)

    def on_train_end(self, args, state, control, **kwargs):
        self._before = self._lasting = None

    def _verdict(self):
        if not self.trainer.args.fp16:
            return ~torch.as_tensor(self.trainer.grad_norm, device=self._bad.device).isfinite()
        if self.trainer.args.world_size > 1:
            torch.distributed.all_reduce(self._bad, torch.distributed.ReduceOp.MAX)
        return self._bad

    def _read(self, late):
        while len(self._waiting) > late:
            step, lr, flag = self._waiting.popleft()
            if flag.read():
                self._report(step, lr)

    def _report(self, step, lr):
        args = self.trainer.args
        images = " ".join(map(str, self.images_of(step)))
        found = f"step {step} (LR {lr:.4g}): the loss or a gradient is not finite"
        if not self.skip:
            raise UserError(
                f"{found}; it changed nothing, and what {args.output_dir} holds is intact. Lower the learning rate, "
                f"clip (--max_grad_norm), or leave out such batches (--nonfinite skip). Its training images: {images}"
            )
        self.skipped += 1
        if self.trainer.is_world_process_zero():
            tqdm.write(f"warning: {found}; the step is skipped. Its training images: {images}")

    def images_of(self, step):
        """Which images of the training dataset an optimizer step had, counted from 1; those that fill up the last
        batch of an epoch are not told again."""
        args = self.trainer.args
        epoch, update = divmod(step - 1, math.ceil(self._loader_length / args.gradient_accumulation_steps))
        size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        return self.trainer._get_train_sampler().order(epoch)[update * size : (update + 1) * size]

    def correct(self, logs):
        """Takes the steps that were skipped since the last log out of the mean loss, and counts them."""
        if self.skipped:
            left = self.steps - self.skipped
            logs["loss"] = logs["loss"] * self.steps / left if left else math.nan
            logs["skipped_steps"] = self.skipped
        self.steps = self.skipped = 0


class _Flag:
    """A truth on the device, on its way to the host."""

    def __init__(self, value):
        # Into pinned memory. Nothing here would know when another device is done.
        self._value = value.to("cpu", non_blocking=value.is_cuda)
        self._event = torch.cuda.Event() if value.is_cuda else None
        if self._event:
            self._event.record()

    def read(self):
        if self._event:
            self._event.synchronize()
        return bool(self._value)
