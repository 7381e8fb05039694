"""
Scores a checkpoint on a split, as the end of training does, and shows what it gets wrong and how sure it is.

Or several as one, an ensemble: the mean of their probabilities.
"""

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
from .trained import NOT_FINITE, checkpoint_folder, label_names, load_checkpoint
from .trainer import CifarTrainer

SIGNIFICANT = 0.05


@reports_user_errors
def main(argv=None, prog=None):
    """Checkpoint -> data -> scores, and what else was asked for. Prints and returns the scores."""
    options, data_args = _parse(argv, prog)
    needed = {options.split, "validation"} if options.calibrate else {options.split}
    args = _trainer_arguments(options)
    subject = _load(options, args, data_args, needed)
    split = find_split(subject.data, options.split)
    other = None if options.compare is None else _Subject.load(options.compare, args, data_args, {options.split})
    # Before anything is computed: it may have nothing to fit on.
    fitted_on = find_split(subject.data, "validation") if options.calibrate else None

    logits, scores = subject.predict(options.split)
    lines = [f"{subject.name} on {options.split} of {data_args.dataset_name}, {len(split):,} images"]
    lines += _score_lines(scores)
    if options.ensemble:
        lines += ["its members alone:", *_member_lines(scores["members"])]
    temperature = subject.temperature
    if fitted_on is not None:
        temperature = analysis.fit_temperature(subject.predict("validation")[0], fitted_on.labels.numpy())
        lines.append(f"temperature {temperature:.4g}, fitted on {len(fitted_on):,} validation images and saved")
    if options.flip:
        mirrored, _ = subject.predict(options.split, mirrored=True)
        scores["flip"] = subject.score(analysis.log_mean_probabilities([logits, mirrored]), split)
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


def score_ensemble(checkpoints, use_cpu=False):
    """
    Scores of several checkpoints as one, on the test split of the data that the first was trained on.

    Args:
        checkpoints (`list[str]`): folders that training wrote, or Hub ids.
        use_cpu (`bool`): even where there is a GPU.

    Returns:
        dict of `loss`, `top1`, ...

    Raises:
        UserError: if one cannot be loaded, or they know other classes.
    """
    options, data_args = _parse([*checkpoints, "--ensemble", *["--use_cpu"] * use_cpu], None)
    _, scores = _load(options, _trainer_arguments(options), data_args, {options.split}).predict(options.split)
    return {name: scores[name] for name in records.SCORES if name in scores}


def _trainer_arguments(options):
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
    return args


def _load(options, args, data_args, needed):
    if options.ensemble:
        return _Ensemble.load([options.checkpoint, *options.others], args, data_args, needed)
    return _Subject.load(options.checkpoint, args, data_args, needed)


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
        return cls.of(name, load_checkpoint(name), args, data_args, needed)

    @classmethod
    def of(cls, name, checkpoint, args, data_args, needed):
        model, processor = checkpoint
        with args.main_process_first(desc="decoding the images"):
            data = load_data_for(name, data_args, model, processor, needed)
        trainer = CifarTrainer(model=model, args=args, superclass_of=data.superclass_of)
        return cls(name, checkpoint_folder(name), model, data, trainer)

    @property
    def temperature(self):
        return self.model.config.calibration_temperature

    def predict(self, split, mirrored=False):
        """
        Logits (n, num_labels) of the images of a split, or of their mirror images, and scores. Raises [`UserError`]
        where they are not finite.
        """
        images = find_split(self.data, split)
        if mirrored:
            images = ImageDataset(images.images, images.labels, images.mean, images.std, _mirror)
        with np.errstate(invalid="ignore"):
            output = self.trainer.predict(images, metric_key_prefix="of")
        if not np.isfinite(output.predictions).all():
            raise UserError(f"{self.name}: {NOT_FINITE}")
        return output.predictions, records.scores(output.metrics, "of")

    def score(self, logits, images):
        """Scores of logits (n, num_labels) of these images."""
        return self.trainer.compute_metrics(EvalPrediction(logits, images.labels.numpy()))


def _mirror(image, epoch, index):
    """In the place of an [`Augmenter`]."""
    return image[:, ::-1]


@dataclass
class _Ensemble:
    """Checkpoints that predict as one, in the place of a [`_Subject`]; its images are those that the first one sees."""

    members: list
    temperature = 1.0  # a checkpoint's own is for it alone

    @classmethod
    def load(cls, names, args, data_args, needed):
        checkpoints = {name: load_checkpoint(name) for name in names}
        # Before the data: other classes would read as if it were the wrong dataset.
        _check_same_classes({name: label_names(model) for name, (model, _) in checkpoints.items()})
        return cls([_Subject.of(name, checkpoint, args, data_args, needed) for name, checkpoint in checkpoints.items()])

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
        """The log of the members' mean probabilities, and scores with each member's own as `members`."""
        logits, scores = zip(*(member.predict(split, mirrored) for member in self.members), strict=True)
        together = analysis.log_mean_probabilities(logits)
        members = [{"checkpoint": member.name, **own} for member, own in zip(self.members, scores, strict=True)]
        return together, self.score(together, find_split(self.data, split)) | {"members": members}

    def score(self, logits, images):
        return self.members[0].score(logits, images)


def _check_same_classes(names_of):
    """Raises [`UserError`] unless all checkpoints give the same name to each class number."""
    (first, known), *others = names_of.items()
    for other, names in others:
        differing = [number for number, (a, b) in enumerate(zip(known, names, strict=False)) if a != b]
        if len(names) != len(known):
            how = f"{first} knows {len(known)} and {other} {len(names)}"
        elif differing:
            number = differing[0]
            how = f"class {number} is {known[number]!r} to {first} and {names[number]!r} to {other}"
            how += f", and {len(differing) - 1} more differ" if differing[1:] else ""
        else:
            continue
        raise UserError(f"--ensemble needs checkpoints that know the same classes in the same order: {how}")


def _compare(logits, split, other, split_name):
    """What the same images tell about two checkpoints."""
    theirs, other_scores = other.predict(split_name)
    labels = split.labels.numpy()
    correct = [each.argmax(axis=1) == labels for each in (logits, theirs)]
    return {"checkpoint": other.name, "top1": other_scores["top1"], **analysis.mcnemar(*correct)}


def _score_lines(scores):
    return [f"{name:<10} {_shown(name, scores[name])}" for name in records.SCORES if name in scores]


def _member_lines(members):
    """A line for each member of an ensemble."""
    return [
        f"  {member['checkpoint']}: "
        + ", ".join(f"{name} {_shown(name, member[name])}" for name in records.SCORES if name in member)
        for member in members
    ]


def _shown(name, score):
    return f"{score:.4f}" if name == "loss" else f"{score:.2%}"


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
    parser = CifarArgumentParser(
        DataArguments, prog=prog, description="Score a checkpoint on a split, or several as one with --ensemble."
    )
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what to score on")
    parser.add_argument("--batch_size", type=int, default=256, help="images per device and step")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="as in training if not given")
    parser.add_argument("--use_cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--json", metavar="FILE", help="also write the scores there")
    parser.add_argument("--output_dir", metavar="FOLDER", help="write an error analysis there: tables and pictures")
    parser.add_argument("--flip", action="store_true", help="also score with mirror images averaged in, apart")
    parser.add_argument("--compare", metavar="CHECKPOINT", help="test another checkpoint against it (McNemar)")
    parser.add_argument("--ensemble", action="store_true", help="score the mean of all checkpoints' probabilities")
    parser.add_argument(
        "--calibrate", action="store_true", help="fit a temperature on validation and save it in the checkpoint"
    )
    options, data_args, run = parse_with_record(
        parser, argv, others="with --ensemble: more of them, on the same images"
    )
    if options.json is not None:
        check_output("--json", options.json)
    if options.output_dir is not None:
        check_output_folder("--output_dir", options.output_dir)
    options.precision = options.precision or run.get("precision", "fp32")
    if not 1 <= options.batch_size <= sys.maxsize:
        raise UserError(f"--batch_size must be from 1 to {sys.maxsize:,}, got {options.batch_size}")
    _check_ensemble(options)
    if options.calibrate and not Path(options.checkpoint).is_dir():
        raise UserError(f"--calibrate saves into the checkpoint: download {options.checkpoint} to a folder first")
    if options.calibrate and Path(options.checkpoint, "config.json").is_symlink():
        # Such as one into the Hub's cache.
        raise UserError(f"--calibrate saves into config.json, which is a link in {options.checkpoint}: copy it first")
    return options, data_args


def _check_ensemble(options):
    """Raises [`UserError`] for checkpoints and options that do not go together."""
    names = [options.checkpoint, *options.others]
    if not options.ensemble:
        if options.others:
            raise UserError(
                f"{len(names)} checkpoints are given: add --ensemble for the mean of their probabilities, or test two "
                "against each other with --compare"
            )
        return
    if not options.others:
        raise UserError("--ensemble needs two checkpoints or more: evaluate A B C --ensemble")
    folders = [checkpoint_folder(name).resolve() for name in names]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise UserError(f"--ensemble: {names[number]} is named twice")
    if options.calibrate:
        raise UserError("--calibrate is of one checkpoint, and --ensemble of several: give one or the other")
