"""Checks of `--optim_args`, in which the Trainer ignores unknown names."""

import copy
import inspect


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
        taken = [name for name in inspect.signature(optimizer).parameters if _takes(trainer, name)]
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
