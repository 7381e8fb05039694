"""
Optimizers that need more than the Trainer does for them: Muon and the schedule-free ones; and checks of `--optim_args`.

Schedule-free optimizers (Defazio et al. 2024, https://arxiv.org/abs/2405.15682), from the package `schedulefree`, train
at one point and are evaluated at another, the average of the weights, for which the BatchNorm statistics of training do
not hold.
"""

import copy
import inspect

from ..errors import require

MUON = "muon"
# What `--optim_args` may have of timm's Muon, and how it is read.
MUON_ARGUMENTS = {"momentum": float, "nesterov": lambda text: {"true": True, "false": False}[text.lower()],
                  "ns_steps": int, "conv_mode": str}  # fmt: skip
# Training images from which the BatchNorm statistics of the averaged weights are computed.
BATCHNORM_IMAGES = 5_000
SCHEDULE_FREE = ("schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam")
# What these optimizers count and sum up in their parameter groups, beside the settings.
SCHEDULE_FREE_STATE = ("k", "train_mode", "weight_sum", "lr_max", "scheduled_lr")


class Muon:
    """
    A factory, as the Trainer calls it, of timm's Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon):
    momentum whose matrix is orthogonalised, for convolutions; AdamW for the classifier, biases and BatchNorm.

    Its updates are as large as AdamW's (timm's `match_rms_adamw`), so that one learning rate serves both.
    """

    def __call__(self, model, weight_decay, **options):
        require("timm", "optim")
        from timm.optim import Muon as TimmMuon

        # Weights of convolutions, of the classifier, and all others.
        convolutions, classifier, others = ([p for p in model.parameters() if p.ndim == n] for n in (4, 2, 1))
        adamw = {"use_fallback": True, "nesterov": False}
        groups = [
            {"params": convolutions, "weight_decay": weight_decay},
            {"params": classifier, "weight_decay": weight_decay, **adamw},
            {"params": others, "weight_decay": 0.0, **adamw},
        ]
        return TimmMuon(groups, nesterov=options.pop("nesterov", True), **options)

    @classmethod
    def with_arguments(cls, args):
        """Return what `get_optimizer_cls_and_kwargs` does."""
        given = parse_optim_args(args.optim_args)
        try:
            options = {name: read(given[name]) for name, read in MUON_ARGUMENTS.items() if name in given}
        except (KeyError, ValueError) as error:
            raise ValueError(f"optim_args {args.optim_args}: {error} is no value that Muon takes") from error
        betas = (args.adam_beta1, args.adam_beta2)
        return cls, {"weight_decay": args.weight_decay, "betas": betas, "eps": args.adam_epsilon, **options}


# Arguments


def parse_optim_args(optim_args):
    """Return `optim_args` as a dict of texts. Raises `ValueError` for another form than `name=value,name=value`."""
    pairs = [part.split("=") for part in optim_args.replace(" ", "").split(",")] if optim_args else []
    if not all(len(pair) == 2 and all(pair) for pair in pairs) or len(dict(pairs)) < len(pairs):
        raise ValueError(f"optim_args must be of the form name=value,name=value, each name once, got {optim_args}")
    return dict(pairs)


def check_optimizer(trainer):
    """
    Create a Trainer's optimizer once, so that wrong arguments are found before training. Raises `ValueError` for a name
    in `optim_args` that the optimizer does not take, or a value that it refuses; `ImportError` without its package.
    """
    args = trainer.args
    unknown = [name for name in parse_optim_args(args.optim_args) if not _takes(trainer, name)]
    if unknown:
        optimizer, _ = _prepared(trainer, None)
        known = MUON_ARGUMENTS if optimizer is Muon else inspect.signature(optimizer).parameters
        taken = [name for name in known if _takes(trainer, name)]
        raise ValueError(
            f"{getattr(args.optim, 'value', args.optim)} does not take {', '.join(unknown)} in optim_args; "
            f"it takes: {', '.join(taken) or 'none'}"
        )
    trainer.create_optimizer()
    trainer.optimizer = None


def _takes(trainer, name):
    """Return whether a name in `optim_args` changes the optimizer's arguments."""
    if name == "weight_decay":  # the Trainer sets it for each group of parameters
        return False
    try:
        return _prepared(trainer, f"{name}=nan") != _prepared(trainer, None)
    except (AttributeError, ValueError):  # the name is read, and the value nan refused
        return True


def _prepared(trainer, optim_args):
    """Return the class of the optimizer and its arguments for other `optim_args`."""
    args = copy.copy(trainer.args)
    args.optim_args = optim_args
    return trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
