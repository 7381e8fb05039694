"""Build the data, the model and the Trainer of a run from its arguments."""

import copy
import logging

from ..checkpoints.load import label_names, load_model, load_processor
from ..errors import UserError, explained
from ..model import CifarResNetConfig, CifarResNetForImageClassification
from .optimizers import check_optimizer

# Arguments without weights, which may differ from the checkpoint's.
_FREE = ("dropout", "drop_path_rate")


def prepare_fine_tuning(model_args, data_args, folder):
    """
    Set the normalisation of the model to fine-tune, in `folder`, for the data if none is given. Raises [`UserError`]
    if the arguments describe another model.
    """
    name = model_args.model_name_or_path
    new = [argument for argument in model_args.given if argument not in _FREE]
    if new:
        raise UserError(f"--{new[0]} describes a new model, but --model_name_or_path {name} has its shape already")
    with explained(f"--model_name_or_path {name} cannot be loaded", ValueError):
        if data_args.image_mean is None:
            processor = load_processor(folder)
            data_args.image_mean, data_args.image_std = list(processor.image_mean), list(processor.image_std)


def build_model(model_args, data, pretrained=None):
    """
    Return a new model for the data's labels, or the one in the folder `pretrained`, with a new classifier if its labels
    differ. Raises [`UserError`] if it cannot be built or loaded.
    """
    if pretrained is None:
        with explained("the model cannot be built", ValueError):
            config = CifarResNetConfig(**model_args.given, id2label=data.id2label, label2id=data.label2id)
        return CifarResNetForImageClassification(config)
    with explained(f"--model_name_or_path {model_args.model_name_or_path} cannot be loaded", ValueError):
        model = load_model(pretrained, **model_args.given)
    known = label_names(model)
    if known != data.label_names:
        print(f"New classifier for {len(data.label_names)} classes, which differ from the checkpoint's {len(known)}")
        config = copy.deepcopy(model.config)
        config.id2label, config.label2id = data.id2label, data.label2id
        fresh = CifarResNetForImageClassification(config)
        fresh.resnet.load_state_dict(model.resnet.state_dict())
        return fresh
    return model


def quieten_libraries(args):
    """Turn off the libraries' progress bars, and warnings that do not apply here."""
    import datasets
    import transformers

    # The Trainer warns of a best checkpoint that was moved, which `checkpoints.resume` finds.
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    if args.disable_tqdm:
        datasets.disable_progress_bars()


def load_data(data_args, args):
    """Return [`ImageSplits`]. Raises [`UserError`] if they lack the split or the metric that epochs are selected by."""
    from ..data.splits import load_splits
    from ..evaluation.scores import score_names

    data = load_splits(**vars(data_args), seed=args.seed)
    if data_args.eval_split == "validation" and data.validation is None:
        raise UserError("there is no validation split to select on: hold some out, or add --eval_split test or none")
    known = score_names(len(data.label_names), data.superclass_of is not None)
    if data_args.eval_split != "none" and args.metric_for_best_model.removeprefix("eval_") not in known:
        raise UserError(f"--metric_for_best_model must be one of {', '.join(known)}, got {args.metric_for_best_model}")
    return data


def build_trainer(model, args, data, eval_split, **kwargs):
    """
    Return a [`CifarTrainer`] that evaluates on `eval_split`, or not at all if it is "none"; `kwargs` are passed on to
    it. Raises [`UserError`] if an argument needs a package that is not installed, or a feature that this model lacks.
    """
    from .trainer import CifarTrainer

    with explained("the Trainer does not take these arguments", ImportError, NotImplementedError, ValueError):
        trainer = CifarTrainer(
            model=model,
            args=args,
            train_dataset=data.train,
            eval_dataset=None if eval_split == "none" else getattr(data, eval_split),
            processing_class=data.image_processor(),
            superclass_of=data.superclass_of,
            **kwargs,
        )
        check_optimizer(trainer)
    return trainer
