"""Muon, and checks of `--optim_args`, in which the Trainer ignores unknown names."""

import copy
import inspect

MUON = "muon"
# What `--optim_args` may have of timm's Muon, and how it is read.
MUON_ARGUMENTS = {"momentum": float, "nesterov": lambda text: {"true": True, "false": False}[text.lower()],
                  "ns_steps": int, "conv_mode": str}  # fmt: skip


class Muon:
    """
    A factory, as the Trainer calls it, of timm's Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon):
    momentum whose matrix is orthogonalised, for convolutions; AdamW for the classifier, biases and BatchNorm.

    Its updates are as large as AdamW's (timm's `match_rms_adamw`), so that one learning rate serves both.
    """

    def __call__(self, model, weight_decay, **options):
        try:
            from timm.optim import Muon as TimmMuon
        except ImportError as error:
            raise ImportError('optim muon needs timm: pip install "hf-cifar-resnet[optim]"') from error
        by_shape = {4: [], 2: [], 1: []}
        for parameter in model.parameters():
            by_shape[parameter.ndim].append(parameter)
        convolutions, classifier, others = by_shape.values()
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
        given = dict(part.split("=") for part in (args.optim_args or "").replace(" ", "").split(",") if part)
        try:
            options = {name: MUON_ARGUMENTS[name](value) for name, value in given.items() if name in MUON_ARGUMENTS}
        except (KeyError, ValueError) as error:
            raise ValueError(f"optim_args {args.optim_args}: {error} is no value that Muon takes") from error
        betas = (args.adam_beta1, args.adam_beta2)
        return cls, {"weight_decay": args.weight_decay, "betas": betas, "eps": args.adam_epsilon, **options}


def argument_names(optim_args):
    """Return the names in `optim_args`. Raises `ValueError` for another form than `name=value,name=value`."""
    parts = optim_args.replace(" ", "").split(",") if optim_args else []
    names = [part.partition("=")[0] for part in parts]
    if not all(names) or any(part.count("=") != 1 or part.endswith("=") for part in parts):
        raise ValueError(f"optim_args must be of the form name=value,name=value, got {optim_args}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"optim_args has {twice[0]} twice: {optim_args}")
    return names


def check_optimizer(trainer):
    """
    Create a Trainer's optimizer once, so that wrong arguments are found before training.

    Raises:
        ValueError: for a name in `optim_args` that the optimizer does not take, or a value that it refuses.
        ImportError: if its package is not installed.
    """
    args = trainer.args
    unknown = [name for name in argument_names(args.optim_args) if not _takes(trainer, name)]
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
