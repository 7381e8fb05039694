"""
Optimizers that need more than the Trainer does for them: Muon and the schedule-free ones; and checks of `--optim_args`.

Schedule-free optimizers (Defazio et al. 2024, https://arxiv.org/abs/2405.15682), from the package `schedulefree`, train
at one point and are evaluated at another, the average of the weights, for which the BatchNorm statistics of training do
not hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.training_args import OptimizerNames

from ..errors import require

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

MUON = "muon"
SCHEDULE_FREE = ("schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam")
# What these optimizers count and sum up in their parameter groups, beside the settings.
SCHEDULE_FREE_STATE = ("k", "train_mode", "weight_sum", "lr_max", "scheduled_lr")
# Training images from which the BatchNorm statistics of the averaged weights are computed.
BATCHNORM_IMAGES = 5_000
# What `optim_args` may have, as transformers reads it; all others it leaves out without a word. `weight_decay` is an
# argument of its own. Optimizers that are not here are not checked.
OPTIM_ARGS: dict[str, tuple[str, ...]] = {
    "adamw_torch": (),
    "adamw_torch_fused": (),
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
    MUON: ("momentum", "nesterov", "ns_steps", "conv_mode"),
    **dict.fromkeys(SCHEDULE_FREE, ("weight_lr_power", "r")),
}


class Muon:
    """
    A factory, as the Trainer calls it, of timm's Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon):
    momentum whose matrix is orthogonalised, for convolutions; AdamW for the classifier, biases and BatchNorm.

    Its updates are as large as AdamW's (timm's `match_rms_adamw`), so that one learning rate serves both.
    """

    def __call__(self, model: nn.Module, weight_decay: float, **options: Any) -> torch.optim.Optimizer:
        require("timm", "optim")
        from timm.optim.muon import Muon as TimmMuon

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        convolutions = [parameter for parameter in trained if parameter.ndim == 4]
        others = [parameter for parameter in trained if parameter.ndim not in (1, 4)]  # the classifier
        vectors = [parameter for parameter in trained if parameter.ndim == 1]
        adamw = {"use_fallback": True, "nesterov": False}
        groups = [
            {"params": convolutions, "weight_decay": weight_decay},
            {"params": others, "weight_decay": weight_decay, **adamw},
            {"params": vectors, "weight_decay": 0.0, **adamw},
        ]
        return TimmMuon(groups, nesterov=options.pop("nesterov", True), **options)

    @classmethod
    def with_arguments(cls, args: TrainingArguments) -> tuple[type[Muon], dict[str, Any]]:
        """Return what `get_optimizer_cls_and_kwargs` does. Raises `ValueError` for wrong `optim_args`."""
        options: dict[str, Any] = {
            "weight_decay": args.weight_decay,
            "betas": (args.adam_beta1, args.adam_beta2),
            "eps": args.adam_epsilon,
        }
        for name, text in parse_optim_args(args.optim_args).items():
            options[name] = _read_muon_argument(name, text)
        return cls, options


def _read_muon_argument(name: str, text: str) -> float | int | bool | str:
    try:
        if name == "momentum":
            return float(text)
        if name == "ns_steps":
            return int(text)
    except ValueError:
        raise ValueError(f"optim_args {name}={text}: {text!r} is no number") from None
    if name == "nesterov":
        if text.lower() not in ("true", "false"):
            raise ValueError(f"optim_args nesterov must be true or false, got {text}")
        return text.lower() == "true"
    return text


def check_name(optim: str) -> None:
    """Raise `ValueError` for the name of no optimizer, with those that are most in use."""
    if optim != MUON and optim not in {name.value for name in OptimizerNames}:
        raise ValueError(
            f"optim {optim} is no optimizer: choose one of {', '.join(OPTIM_ARGS)}, or another one that transformers "
            "lists as OptimizerNames"
        )


def parse_optim_args(optim_args: str | None) -> dict[str, str]:
    """Return `optim_args` as a dict of texts. Raises `ValueError` for another form than `name=value,name=value`."""
    parts = [part.partition("=") for part in optim_args.replace(" ", "").split(",")] if optim_args else []
    values = {name: value for name, _, value in parts}
    if len(values) < len(parts) or not all(name and value and "=" not in value for name, value in values.items()):
        raise ValueError(f"optim_args must be of the form name=value,name=value, each name once, got {optim_args}")
    return values


def check_optimizer(trainer: Trainer) -> None:
    """
    Create a Trainer's optimizer once, so that wrong arguments are found before training. Raises `ValueError` for a name
    in `optim_args` that the optimizer does not take, or a value that it refuses; `ImportError` without its package.
    """
    optim = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    known = OPTIM_ARGS.get(optim)
    unknown = [name for name in parse_optim_args(trainer.args.optim_args) if known is not None and name not in known]
    if unknown:
        taken = ", ".join(known or ()) or "none"
        raise ValueError(f"{optim} does not take {', '.join(unknown)} in optim_args; it takes: {taken}")
    trainer.create_optimizer()
    trainer.optimizer = None
