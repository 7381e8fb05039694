"""Scoring a checkpoint, or an ensemble of several, on a split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import EvalPrediction

from ..checkpoints.load import (
    NOT_FINITE,
    describe_class_difference,
    find_checkpoint,
    find_split,
    label_names,
    load_checkpoint,
    load_data_for,
)
from ..data.dataset import ImageDataset
from ..errors import UserError
from ..evaluation import analysis
from ..reporting import run_record
from .arguments import CifarTrainingArguments, DataArguments
from .build import quieten_libraries
from .parser import CifarArgumentParser, parse_with_run_record
from .processes import check_processes
from .trainer import CifarTrainer


def scoring_arguments(checkpoint, use_cpu=False, precision="fp32", batch_size=256):
    """Return the [`CifarTrainingArguments`] of a Trainer that only predicts."""
    args = CifarTrainingArguments(
        # The Trainer requires a folder; nothing is written there.
        output_dir=str(find_checkpoint(checkpoint)),
        use_cpu=use_cpu,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        per_device_eval_batch_size=batch_size,
        # Unused, but the default would have to be divisible by the number of processes.
        per_device_train_batch_size=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    check_processes(args)
    quieten_libraries(args)
    return args


def score_ensemble(names, use_cpu=False):
    """
    Return the scores (`loss`, `top1`, ...) of an ensemble on the test split of the data of its first checkpoint.

    Args:
        names (`list[str]`): folders that training wrote, or Hub ids.
        use_cpu (`bool`): even if there is a GPU.

    Raises:
        UserError: if one cannot be loaded, or their classes differ.
    """
    _, data_args, run = parse_with_run_record(CifarArgumentParser(DataArguments), names[:1])
    args = scoring_arguments(names[0], use_cpu, run.get("precision", "fp32"))
    _, scores = EnsembleScorer.load(names, args, data_args, {"test"}).predict("test")
    return {name: scores[name] for name in run_record.SCORES if name in scores}


@dataclass
class CheckpointScorer:
    """A checkpoint with its Trainer, and the data as its image processor normalises them."""

    name: str
    folder: Path
    model: object
    data: object
    trainer: CifarTrainer

    @classmethod
    def load(cls, names, args, data_args, needed):
        [name] = names
        return cls.of(name, load_checkpoint(name), args, data_args, needed)

    @classmethod
    def of(cls, name, checkpoint, args, data_args, needed):
        model, processor = checkpoint
        with args.main_process_first(desc="decoding the images"):
            data = load_data_for(name, data_args, model, processor, needed)
        trainer = CifarTrainer(model=model, args=args, superclass_of=data.superclass_of)
        return cls(name, find_checkpoint(name), model, data, trainer)

    @property
    def temperature(self):
        return self.model.config.calibration_temperature

    def predict(self, split, mirrored=False):
        """Return logits (n, num_labels) and scores of a split, or of its mirror images. Raises [`UserError`]."""
        images = find_split(self.data, split)
        if mirrored:
            images = ImageDataset(images.images, images.labels, images.mean, images.std, _mirror)
        with np.errstate(invalid="ignore"):
            output = self.trainer.predict(images, metric_key_prefix="of")
        if not np.isfinite(output.predictions).all():
            raise UserError(f"{self.name}: {NOT_FINITE}")
        return output.predictions, run_record.scores(output.metrics, "of")

    def score(self, logits, images):
        """Return the scores of logits (n, num_labels) of these images."""
        return self.trainer.compute_metrics(EvalPrediction(logits, images.labels.numpy()))


def _mirror(image, epoch, index):
    """Mirror an image; has the signature of an [`Augmenter`]."""
    return image[:, ::-1]


@dataclass
class EnsembleScorer:
    """Checkpoints that predict together, with the interface of [`CheckpointScorer`]."""

    members: list
    temperature = 1.0  # that of a single checkpoint does not fit the ensemble

    @classmethod
    def load(cls, names, args, data_args, needed):
        checkpoints = {name: load_checkpoint(name) for name in names}
        # Before loading the data, where other classes would be reported as a wrong dataset.
        _check_same_classes({name: label_names(model) for name, (model, _) in checkpoints.items()})
        return cls(
            [CheckpointScorer.of(name, checkpoint, args, data_args, needed) for name, checkpoint in checkpoints.items()]
        )

    @property
    def name(self):
        return f"ensemble of {len(self.members)} checkpoints"

    @property
    def data(self):
        return self.members[0].data

    @property
    def trainer(self):
        return self.members[0].trainer

    def predict(self, split, mirrored=False):
        """Return the log of the mean probabilities, and scores, with those of each member as `members`."""
        logits, scores = zip(*(member.predict(split, mirrored) for member in self.members), strict=True)
        together = analysis.log_mean_probabilities(logits)
        members = [{"checkpoint": member.name, **own} for member, own in zip(self.members, scores, strict=True)]
        return together, self.score(together, find_split(self.data, split)) | {"members": members}

    def score(self, logits, images):
        return self.members[0].score(logits, images)


def _check_same_classes(names_of):
    """Raise [`UserError`] unless all checkpoints give the same name to each class number."""
    (first, known), *others = names_of.items()
    for other, names in others:
        if difference := describe_class_difference(known, names):
            raise UserError(
                "--ensemble needs checkpoints that know the same classes in the same order; "
                f"those of {first} and {other} differ: {difference}"
            )
