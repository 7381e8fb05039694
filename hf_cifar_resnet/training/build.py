"""Build the data, the model and the Trainer of a run from its arguments."""

import copy
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from .. import processes
from ..checkpoints.load import find_class_difference, label_names, load_model, load_processor
from ..checkpoints.run_folder import choose_run_folder
from ..documents import read_json
from ..errors import explained
from ..model import CifarResNetConfig, CifarResNetForImageClassification
from ..runs.files import folder_name
from .arguments import CifarTrainingArguments, ModelArguments, ResolvedArguments
from .optimizers import check_optimizer
from .record import run_name

if TYPE_CHECKING:
    from ..data.arguments import DataArguments
    from ..data.splits import ImageSplits
    from .trainer import CifarTrainer

logger: logging.Logger = logging.getLogger(__name__)
# Arguments of a model that have no weights, and which may differ from those of the checkpoint to fine-tune.
REGULARIZATION = ("dropout", "drop_path_rate")


def prepare_fine_tuning(arguments: ResolvedArguments, pretrained: Path) -> "DataArguments":
    """
    Return the data arguments to fine-tune the model in the folder `pretrained`: with the size, mean and deviation of
    its images, unless others are given. Raises `ValueError` if the arguments describe another model.
    """
    name = arguments.model.model_name_or_path
    if shape := [argument for argument in arguments.model.config if argument not in REGULARIZATION]:
        raise ValueError(f"{shape[0]} describes a new model, but model_name_or_path {name} has its shape already")
    with explained(f"model_name_or_path {name} cannot be loaded", ValueError):
        processor = load_processor(pretrained)
    known = {
        "image_size": processor.size["height"],
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
    }
    return dataclasses.replace(
        arguments.data, **{field: value for field, value in known.items() if field not in arguments.given}
    )


def choose_folder(arguments: ResolvedArguments, pretrained: Path | None) -> ResolvedArguments:
    """
    Return the arguments with the folder of the run, which is `output_dir` or has a name that says what is trained, and
    with a name for trackers. All processes call this. Raises `ValueError` if the folder holds another run.
    """
    args = arguments.training
    name = run_name(arguments.data, make_config(arguments.model, pretrained), args)
    given = args.output_dir if args.output_dir_given else None
    folder = choose_run_folder(given, args.resume_from_checkpoint, name)
    # Without a name a tracker would make up one for the training and another for the test.
    training = args.copy_with(output_dir=folder, run_name=args.run_name or folder_name(folder))
    return dataclasses.replace(arguments, training=training)


def make_config(model_args: ModelArguments, pretrained: Path | None = None) -> CifarResNetConfig:
    """Return the configuration of the model that the arguments describe, or of the one to fine-tune."""
    if pretrained is None:
        with explained("the model cannot be built", ValueError):
            return CifarResNetConfig(**model_args.config)
    with explained(
        f"model_name_or_path {model_args.model_name_or_path} cannot be loaded", OSError, TypeError, ValueError
    ):
        return CifarResNetConfig(**read_json(pretrained / "config.json") | model_args.config)


def load_data_and_model(
    arguments: ResolvedArguments, pretrained: Path | None = None
) -> "tuple[ImageSplits, CifarResNetForImageClassification, ResolvedArguments]":
    """
    Load the data, and build the model for its classes, with weights that the seed draws, or load the one to fine-tune,
    which is in the folder `pretrained`. All processes of a run call this, and rank 0 decodes the images first.

    Returns:
        The data, the model, and the arguments with what follows from these two: the mean and deviation of a model to
        fine-tune, and the precision that suits the model.
    """
    args = arguments.training
    set_seed(args.seed)
    data_args = arguments.data
    if pretrained is not None:
        data_args = prepare_fine_tuning(arguments, pretrained)
    with args.main_process_first(desc="decoding the images"):
        data = load_data(data_args, args)
    if args.world_size > 1:
        processes.check_same(data.digests(), processes.SAME_DATA)
    model = build_model(arguments.model, data, pretrained)
    return data, model, dataclasses.replace(arguments, data=data_args, training=args.with_precision_for(model))


def build_model(
    model_args: ModelArguments, data: "ImageSplits", pretrained: Path | None = None
) -> CifarResNetForImageClassification:
    """
    Return a new model for the data's labels, or the one in the folder `pretrained`, with a new classifier if its labels
    differ. Raises `ValueError` if it cannot be built or loaded.
    """
    if pretrained is None:
        with explained("the model cannot be built", ValueError):
            config = CifarResNetConfig(**model_args.config, id2label=data.id2label, label2id=data.label2id)
        return CifarResNetForImageClassification(config)
    with explained(f"model_name_or_path {model_args.model_name_or_path} cannot be loaded", ValueError):
        model = load_model(pretrained, **model_args.config)
    known = label_names(model)
    if known == data.label_names:
        return model
    difference = find_class_difference(known, data.label_names)
    logger.warning("New classifier, since the classes of the checkpoint and of the dataset differ: %s", difference)
    config = copy.deepcopy(model.config)
    config.id2label, config.label2id = data.id2label, data.label2id
    new = CifarResNetForImageClassification(config)
    new.resnet.load_state_dict(model.resnet.state_dict())
    return new


def load_data(data_args: "DataArguments", args: CifarTrainingArguments) -> "ImageSplits":
    """Return the splits. Raises `ValueError` if they lack the split or the metric that epochs are selected by."""
    from ..data.splits import load_splits
    from ..evaluation.scores import score_names

    data = load_splits(**vars(data_args), seed=args.seed)
    if data_args.eval_split == "validation" and data.validation is None:
        raise ValueError("there is no validation split to select on: hold some out, or set eval_split to test or none")
    known = score_names(len(data.label_names), data.superclass_of is not None)
    metric = args.metric_for_best_model or "loss"
    if data_args.eval_split != "none" and metric.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model must be one of {', '.join(known)}, got {metric}")
    return data


def build_trainer(
    model: CifarResNetForImageClassification | None,
    args: CifarTrainingArguments,
    data: "ImageSplits",
    eval_split: str,
    **kwargs: Any,
) -> "CifarTrainer":
    """
    Return a [`CifarTrainer`] that evaluates on `eval_split`, or not at all if it is "none"; `kwargs` are passed on to
    it. Raises `ImportError` for an optimizer whose package is not installed, and `ValueError` for what it refuses.
    """
    from .trainer import CifarTrainer

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
