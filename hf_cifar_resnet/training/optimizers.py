"""`--optim_args`: what an optimizer takes of them, since the Trainer ignores all other names."""

import copy
import inspect


def names_given(optim_args):
    """
    The names in `optim_args`, `name=value,name=value`.

    Raises:
        ValueError: for another form, and for a name that is there twice.
    """
    parts = optim_args.replace(" ", "").split(",") if optim_args else []
    names = [part.partition("=")[0] for part in parts]
    if not all(names) or any(part.count("=") != 1 or part.endswith("=") for part in parts):
        raise ValueError(f"optim_args must be of the form name=value,name=value, got {optim_args}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"optim_args has {twice[0]} twice: {optim_args}")
    return names


def check(trainer):
    """
    Creates a Trainer's optimizer, and lets go of it.

    Raises:
        ValueError: for a name in `optim_args` that the optimizer does not take, or a value that it refuses.
        ImportError: if its package is not installed.
    """
    args = trainer.args
    unknown = [name for name in names_given(args.optim_args) if not _takes(trainer, name)]
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
    """Whether a name in `optim_args` changes what the optimizer is given."""
    if name == "weight_decay":  # the Trainer sets it for each group of parameters
        return False
    try:
        return _prepared(trainer, f"{name}=nan") != _prepared(trainer, None)
    except (AttributeError, ValueError):  # it is read: this value is none that it may have
        return True


def _prepared(trainer, optim_args):
    """The class of the optimizer and its arguments, with these `optim_args` instead."""
    args = copy.copy(trainer.args)
    args.optim_args = optim_args
    return trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
