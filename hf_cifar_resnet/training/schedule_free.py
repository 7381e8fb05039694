"""
Schedule-free optimizers (Defazio et al. 2024, https://arxiv.org/abs/2405.15682), from the package `schedulefree`.

They train at one point and are evaluated at another, the average of the weights, for which the BatchNorm statistics of
training do not hold.
"""

import torch
from torch.optim.swa_utils import update_bn
from transformers import TrainerCallback

# Training images from which the BatchNorm statistics of the averaged weights are computed.
CALIBRATION_IMAGES = 5_000
SCHEDULE_FREE = ("schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam")
SCHEDULES = ("constant", "constant_with_warmup")
# What these optimizers count and sum up in their parameter groups, beside the settings.
STATE = ("k", "train_mode", "weight_sum", "lr_max", "scheduled_lr")


def check_schedule_free(args):
    """Raise `ValueError` for arguments that average or lower what a schedule-free optimizer averages already."""
    if args.optim not in SCHEDULE_FREE:
        return
    if args.lr_scheduler_type not in SCHEDULES:
        raise ValueError(f"{args.optim} needs no schedule, got {args.lr_scheduler_type}: use {' or '.join(SCHEDULES)}")
    if args.ema_decay:
        raise ValueError(f"{args.optim} averages the weights already: leave ema_decay out")


def average_weights(optimizer, model, batches):
    """
    Put the averaged weights into the model, and the BatchNorm statistics that belong to them, unless they are there.

    The next training step takes the averages out again. `batches` are `pixel_values` (batch, 3, height, width) of
    training images.
    """
    if optimizer.param_groups[0]["train_mode"]:
        optimizer.eval()
        with torch.random.fork_rng():  # dropout draws from it
            update_bn(batches, model)


class AverageCallback(TrainerCallback):
    """Calls `average_weights()` at the end of every epoch, before the Trainer loads the best model into a training."""

    def __init__(self, average_weights):
        self.average_weights = average_weights

    def on_epoch_end(self, args, state, control, **kwargs):
        self.average_weights()
