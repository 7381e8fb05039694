"""Scoring a checkpoint, or an ensemble of several, on a split."""

from dataclasses import dataclass

import numpy as np
from transformers import EvalPrediction

from ..checkpoints import load
from ..data.arguments import DataArguments
from ..data.dataset import ImageDataset
from ..data.splits import ImageSplits
from ..device import device_for
from ..errors import UserError, explained
from ..evaluation import analysis
from ..hub.resolve import resolve
from ..processes import SAME_DATA, check_processes, check_same
from ..runs.scores import SCORES, select_scores
from .arguments import CifarTrainingArguments
from .build import quieten_libraries
from .parser import CifarArgumentParser, parse_with_run_record
from .trainer import CifarTrainer


def scoring_arguments(checkpoint, use_cpu=False, precision="fp32", batch_size=256):
    """Return the [`CifarTrainingArguments`] of a Trainer that only predicts."""
    with explained("", ValueError):
        args = CifarTrainingArguments(
            # The Trainer requires a folder; nothing is written there.
            output_dir=str(resolve(checkpoint)),
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


def training_precision(record, use_cpu):
    """Return the precision in a run record; fp32 for fp16, which CPUs do not have, on a CPU."""
    precision = record.get("precision", "fp32")
    return "fp32" if precision == "fp16" and device_for(use_cpu).type == "cpu" else precision


def score_ensemble(names, use_cpu=False):
    """
    Return the scores (`loss`, `top1`, ...) of an ensemble of checkpoints (folders that training wrote, or Hub ids) on
    the test split of the data of the first. Raises [`UserError`] as [`load_evaluator`] does.
    """
    _, data_args, record = parse_with_run_record(CifarArgumentParser(DataArguments), names[:1])
    args = scoring_arguments(names[0], use_cpu, training_precision(record, use_cpu))
    _, scores = load_evaluator(names, args, data_args, {"test"}).predict("test")
    return {name: scores[name] for name in SCORES if name in scores}


def load_evaluator(names, args, data_args, needed):
    """
    Return the [`CheckpointEvaluator`] of one checkpoint, or the [`EnsembleEvaluator`] of several, with `needed` splits.
    Raises [`UserError`] if one cannot be loaded, or its classes are not those of the data.
    """
    evaluators = []
    for name in names:
        model, processor = load.load_checkpoint(resolve(name))
        with args.main_process_first(desc="decoding the images"):
            data = load.load_data_for(name, data_args, model, processor, needed)
        if args.world_size > 1:
            check_same(data.digests(), SAME_DATA)
        trainer = CifarTrainer(model=model, args=args, superclass_of=data.superclass_of)
        evaluators.append(CheckpointEvaluator(name, model.config.calibration_temperature, data, trainer))
    first, *others = evaluators
    if not others:
        return first
    # The temperature of a single checkpoint does not fit the ensemble.
    return EnsembleEvaluator(f"ensemble of {len(evaluators)} checkpoints", 1.0, first.data, first.trainer, evaluators)


@dataclass
class CheckpointEvaluator:
    """A checkpoint's Trainer, and the data as its image processor normalises them."""

    name: str
    temperature: float
    data: ImageSplits
    trainer: CifarTrainer

    def predict(self, split, mirrored=False):
        """Return logits (n, num_labels) and scores of a split, or of its mirror images. Raises [`UserError`]."""
        images = getattr(self.data, split)
        if mirrored:
            images = ImageDataset(images.images[:, :, ::-1], images.labels, images.mean, images.std)
        with np.errstate(invalid="ignore"):
            output = self.trainer.predict(images, metric_key_prefix="of")
        if not np.isfinite(output.predictions).all():
            raise UserError(f"{self.name}: {load.NOT_FINITE}")
        return output.predictions, select_scores(output.metrics, "of")

    def score(self, logits, images):
        """Return the scores of logits (n, num_labels) of these images."""
        return self.trainer.compute_metrics(EvalPrediction(logits, images.labels.numpy()))


@dataclass
class EnsembleEvaluator(CheckpointEvaluator):
    """Checkpoints that predict together, with the data and the Trainer of the first."""

    members: list

    def predict(self, split, mirrored=False):
        """Return the log of the mean probabilities, and scores, with those of each member as `members`."""
        logits, scores = zip(*(member.predict(split, mirrored) for member in self.members), strict=True)
        together = analysis.log_mean_probabilities(logits)
        members = [{"checkpoint": member.name, **own} for member, own in zip(self.members, scores, strict=True)]
        return together, self.score(together, getattr(self.data, split)) | {"members": members}
