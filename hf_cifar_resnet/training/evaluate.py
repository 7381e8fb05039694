"""Scores a checkpoint on a split, as the end of training does, and shows what it gets wrong and how sure it is."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import EvalPrediction

from ..data.dataset import ImageDataset
from ..errors import UserError, reports_user_errors
from ..evaluation import analysis
from ..reporting import records
from ..reporting.analysis import write_analysis
from . import checkpoints
from .arguments import CifarTrainingArguments, DataArguments
from .launch import check_processes, leave_processes_at_exit
from .outputs import check_output, check_output_folder, writing
from .parsing import CifarArgumentParser
from .recorded import find_split, load_data_for, parse_with_record
from .run import quieten_libraries
from .trained import NOT_FINITE, checkpoint_folder, load_checkpoint
from .trainer import CifarTrainer

SIGNIFICANT = 0.05


@reports_user_errors
def main(argv=None, prog=None):
    """Checkpoint -> data -> scores, and what else was asked for. Prints and returns the scores."""
    options, data_args = _parse(argv, prog)
    args = CifarTrainingArguments(
        # The Trainer creates it; nothing is written there.
        output_dir=str(checkpoint_folder(options.checkpoint)),
        use_cpu=options.use_cpu,
        bf16=options.precision == "bf16",
        fp16=options.precision == "fp16",
        per_device_eval_batch_size=options.batch_size,
        # Nothing is trained; the default would have to divide over the processes.
        per_device_train_batch_size=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    check_processes(args)
    quieten_libraries(args)
    needed = {options.split, "validation"} if options.calibrate else {options.split}
    subject = _Subject.load(options.checkpoint, args, data_args, needed)
    split = find_split(subject.data, options.split)
    other = None if options.compare is None else _Subject.load(options.compare, args, data_args, {options.split})
    # Before anything is computed: it may have nothing to fit on.
    fitted_on = find_split(subject.data, "validation") if options.calibrate else None

    logits, scores = subject.predict(split)
    lines = [f"{options.checkpoint} on {options.split} of {data_args.dataset_name}, {len(split):,} images"]
    lines += _score_lines(scores)
    temperature = subject.model.config.calibration_temperature
    if fitted_on is not None:
        temperature = analysis.fit_temperature(subject.predict(fitted_on)[0], fitted_on.labels.numpy())
        lines.append(f"temperature {temperature:.4g}, fitted on {len(fitted_on):,} validation images and saved")
    if options.flip:
        scores["flip"] = subject.predict_flipped(split, logits)
        lines += ["with the mirror image's probabilities averaged in (--flip):", *_score_lines(scores["flip"])]
    if other is not None:
        scores["comparison"] = _compare(logits, split, other, options.split)
        lines += _comparison_lines(options.compare, scores["comparison"])
    if subject.trainer.is_world_process_zero():
        if options.output_dir:
            lines += _analyse(options, logits, split, subject.data, temperature)
        if options.json:
            with writing(options.json) as aside:
                records.write_json(scores, aside)
        if options.calibrate:
            _save_temperature(temperature, subject.folder)
        print("\n".join(lines))
    leave_processes_at_exit()
    return scores


@dataclass
class _Subject:
    """A checkpoint, with the Trainer that scores it and the data as its image processor wants them."""

    name: str
    folder: Path
    model: object
    data: object
    trainer: CifarTrainer

    @classmethod
    def load(cls, name, args, data_args, needed):
        model, processor = load_checkpoint(name)
        with args.main_process_first(desc="decoding the images"):
            data = load_data_for(name, data_args, model, processor, needed)
        trainer = CifarTrainer(model=model, args=args, superclass_of=data.superclass_of)
        return cls(name, checkpoint_folder(name), model, data, trainer)

    def predict(self, images):
        """Logits (n, num_labels) and scores. Raises [`UserError`] where there are none."""
        with np.errstate(invalid="ignore"):
            output = self.trainer.predict(images, metric_key_prefix="of")
        if not np.isfinite(output.predictions).all():
            raise UserError(f"{self.name}: {NOT_FINITE}")
        return output.predictions, records.scores(output.metrics, "of")

    def predict_flipped(self, images, logits):
        """Scores of the mean of the probabilities of each image, whose logits are given, and of its mirror image."""
        mirrored = ImageDataset(images.images, images.labels, images.mean, images.std, _mirror)
        both = [analysis.probabilities(each) for each in (logits, self.predict(mirrored)[0])]
        log_probs = np.log(np.maximum(np.mean(both, axis=0), np.finfo(np.float64).tiny))
        return self.trainer.compute_metrics(EvalPrediction(log_probs, images.labels.numpy()))


def _mirror(image, epoch, index):
    """In the place of an [`Augmenter`]."""
    return image[:, ::-1]


def _compare(logits, split, other, split_name):
    """What the same images tell about two checkpoints."""
    theirs, other_scores = other.predict(find_split(other.data, split_name))
    labels = split.labels.numpy()
    correct = [each.argmax(axis=1) == labels for each in (logits, theirs)]
    return {"checkpoint": other.name, "top1": other_scores["top1"], **analysis.mcnemar(*correct)}


def _score_lines(scores):
    return [
        f"{name:<10} {value:.4f}" if name == "loss" else f"{name:<10} {value:.2%}" for name, value in scores.items()
    ]


def _comparison_lines(name, found):
    verdict = "they differ" if found["p"] < SIGNIFICANT else "no difference shown"
    return [
        f"compared with {name}, top1 {found['top1']:.2%}:",
        f"  right only here {found['only_first']:,}, only there {found['only_second']:,}, both {found['both']:,}, "
        f"neither {found['neither']:,}; exact McNemar test p = {found['p']:.3g}: {verdict} at {SIGNIFICANT:.0%}",
    ]


def _analyse(options, logits, split, data, temperature):
    """Writes the error analysis, and returns its gist as lines."""
    folder = Path(options.output_dir)
    try:
        with checkpoints.replacing(folder) as aside:
            found = write_analysis(aside, logits, split, data, temperature)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error
    lines = [
        f"ece        {entry['ece']:.2%}, loss {entry['loss']:.4f} at temperature {entry['temperature']:.4g}"
        for entry in found["calibration"]
    ]
    pairs = [f"{' and '.join(pair['classes'])} ({pair['count']})" for pair in found["most_confused"][:3]]
    if pairs:
        lines.append(f"most often taken for each other: {', '.join(pairs)}")
    return [*lines, f"Analysis in {options.output_dir}{os.sep}"]


def _save_temperature(temperature, folder):
    """Into config.json, of which nothing else changes."""
    path = folder / "config.json"
    was_whole = checkpoints.damage(folder) is None
    config = json.loads(path.read_text(encoding="utf-8")) | {"calibration_temperature": temperature}
    with writing(path) as aside:
        aside.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if was_whole:
        checkpoints.seal(folder)


def _parse(argv, prog):
    parser = CifarArgumentParser(DataArguments, prog=prog, description="Score a checkpoint on a split.")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what to score on")
    parser.add_argument("--batch_size", type=int, default=256, help="images per device and step")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="as in training if not given")
    parser.add_argument("--use_cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--json", metavar="FILE", help="also write the scores there")
    parser.add_argument("--output_dir", metavar="FOLDER", help="write an error analysis there: tables and pictures")
    parser.add_argument("--flip", action="store_true", help="also score with mirror images averaged in, apart")
    parser.add_argument("--compare", metavar="CHECKPOINT", help="test another checkpoint against it (McNemar)")
    parser.add_argument(
        "--calibrate", action="store_true", help="fit a temperature on validation and save it in the checkpoint"
    )
    options, data_args, run = parse_with_record(parser, argv)
    if options.json is not None:
        check_output("--json", options.json)
    if options.output_dir is not None:
        check_output_folder("--output_dir", options.output_dir)
    options.precision = options.precision or run.get("precision", "fp32")
    if not 1 <= options.batch_size <= sys.maxsize:
        raise UserError(f"--batch_size must be from 1 to {sys.maxsize:,}, got {options.batch_size}")
    if options.calibrate and not Path(options.checkpoint).is_dir():
        raise UserError(f"--calibrate saves into the checkpoint: download {options.checkpoint} to a folder first")
    if options.calibrate and Path(options.checkpoint, "config.json").is_symlink():
        # Such as one into the Hub's cache.
        raise UserError(f"--calibrate saves into config.json, which is a link in {options.checkpoint}: copy it first")
    return options, data_args
