"""Build the data, the model and the Trainer of a run from its arguments."""

import logging
from pathlib import Path

from torch import nn

from ..checkpoints.load import load_model, load_processor
from ..errors import UserError
from ..hub import client
from ..model import CifarResNetConfig, CifarResNetForImageClassification

# What may differ from the checkpoint's: these have no weights.
_FREE = ("dropout", "drop_path_rate")


def load_start(model_args, data_args):
    """
    The folder of the model to fine-tune, or None; its normalisation becomes the data's unless one is given.

    Raises:
        UserError: if there is no such model, or the arguments describe another one.
    """
    name = model_args.model_name_or_path
    if name is None:
        return None
    new = [argument for argument in model_args.given if argument not in _FREE]
    if new:
        raise UserError(f"--{new[0]} describes a new model, but --model_name_or_path {name} has its shape already")
    folder = _find(name)
    if data_args.image_mean is None:
        try:
            processor = load_processor(folder)
        except UserError as error:
            raise _unusable(name, error) from error
        data_args.image_mean, data_args.image_std = list(processor.image_mean), list(processor.image_std)
    return folder


def _find(name):
    if Path(name).is_dir():
        return Path(name)
    if not client.is_reference(name):
        raise UserError(f"--model_name_or_path {name}: there is no such folder, and it is no user/repo either")
    try:
        return client.download(name)
    except client.HubError as error:
        raise UserError(f"--model_name_or_path {name}: {error}") from error


def build_model(model_args, data, start=None):
    """
    A model for the data's labels: a freshly initialised one, or the one in the folder `start`, with a new classifier
    where it knows other labels.

    Raises:
        UserError: if the arguments or the folder describe none.
    """
    if start is not None:
        return _for_labels(_trained(model_args, start), data)
    try:
        config = CifarResNetConfig(**model_args.given, id2label=data.id2label, label2id=data.label2id)
    except ValueError as error:
        raise UserError(f"the model cannot be built: {error}") from error
    return CifarResNetForImageClassification(config)


def _trained(model_args, folder):
    try:
        return load_model(folder, **model_args.given)
    except UserError as error:
        raise _unusable(model_args.model_name_or_path, error) from error


def _for_labels(model, data):
    known = [model.config.id2label[number] for number in range(model.config.num_labels)]
    if known == data.label_names:
        return model
    print(f"New classifier for {len(data.label_names)} classes: the checkpoint knows {len(known)} of other names")
    model.config.id2label, model.config.label2id = data.id2label, data.label2id
    model.num_labels = len(data.label_names)
    model.classifier = nn.Linear(model.classifier.in_features, model.num_labels)
    model._init_weights(model.classifier)
    return model


def _unusable(name, error):
    return UserError(f"--model_name_or_path {name} cannot be loaded: {error}")


def quieten_libraries(args):
    """No progress bar for writing one small file, and none at all where nobody watches."""
    import datasets
    import transformers

    # It warns of a best checkpoint that has moved, which is found all the same.
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    if args.disable_tqdm:
        datasets.disable_progress_bars()


def load_data(data_args, seed):
    """[`ImageSplits`] for [`DataArguments`]."""
    from ..data.sources import load_splits

    options = {name: value for name, value in vars(data_args).items() if name != "eval_split"}
    data = load_splits(**options, seed=seed)
    if data_args.eval_split == "validation" and data.validation is None:
        raise UserError("there is no validation split to select on: hold some out, or add --eval_split test")
    return data


def check_metric(args, data):
    """Raises [`UserError`] for a metric to select by that there will not be."""
    from ..evaluation.scoring import score_names

    known = score_names(len(data.label_names), data.superclass_of is not None)
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise UserError(f"--metric_for_best_model must be one of {', '.join(known)}, got {args.metric_for_best_model}")


def build_trainer(model, args, data, eval_split, **kwargs):
    """
    The Trainer, which selects on `eval_split`; `kwargs` go to it as they are.

    Raises:
        UserError: where an argument asks for a package that is not installed, or for what this model cannot do.
    """
    from . import optimizers
    from .trainer import CifarTrainer

    try:
        trainer = CifarTrainer(
            model=model,
            args=args,
            train_dataset=data.train,
            eval_dataset=getattr(data, eval_split),
            processing_class=data.image_processor(),
            superclass_of=data.superclass_of,
            **kwargs,
        )
        # Not only when training starts.
        optimizers.check(trainer)
    except (ImportError, NotImplementedError, ValueError) as error:
        raise UserError(f"the Trainer does not take these arguments: {' '.join(str(error).split())}") from error
    return trainer
