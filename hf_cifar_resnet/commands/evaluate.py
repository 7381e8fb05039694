"""`evaluate`: score a checkpoint on a split, analyse its errors, calibrate it, or score several as an ensemble."""

import json
import os
import sys
from pathlib import Path

from ..checkpoints.load import find_checkpoint, find_split
from ..checkpoints.outputs import atomic_write, check_output, check_output_folder
from ..checkpoints.save import find_damage, replacing_files, write_manifest
from ..errors import UserError, reports_user_errors
from ..evaluation import analysis
from ..reporting import run_record
from ..reporting.error_report import write_analysis
from ..training.arguments import DataArguments
from ..training.parser import CifarArgumentParser, parse_with_run_record
from ..training.processes import leave_processes_at_exit
from ..training.scorers import CheckpointScorer, EnsembleScorer, scoring_arguments

SIGNIFICANT = 0.05


@reports_user_errors
def main(argv=None, prog=None):
    """Checkpoint -> data -> scores, and what else was asked for. Prints and returns the scores."""
    options, data_args = _parse(argv, prog)
    needed = {options.split, "validation"} if options.calibrate else {options.split}
    args = scoring_arguments(options.checkpoint, options.use_cpu, options.precision, options.batch_size)
    load = EnsembleScorer.load if options.ensemble else CheckpointScorer.load
    subject = load([options.checkpoint, *options.others], args, data_args, needed)
    split = find_split(subject.data, options.split)
    other = (
        None if options.compare is None else CheckpointScorer.load([options.compare], args, data_args, {options.split})
    )
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
            with atomic_write(options.json) as aside:
                run_record.write_json(scores, aside)
        if options.calibrate:
            _save_temperature(temperature, subject.folder)
        print("\n".join(lines))
    leave_processes_at_exit()
    return scores


def _compare(logits, split, other, split_name):
    """What the same images tell about two checkpoints."""
    theirs, other_scores = other.predict(split_name)
    labels = split.labels.numpy()
    correct = [each.argmax(axis=1) == labels for each in (logits, theirs)]
    return {"checkpoint": other.name, "top1": other_scores["top1"], **analysis.mcnemar(*correct)}


def _score_lines(scores):
    return [f"{name:<10} {_shown(name, scores[name])}" for name in run_record.SCORES if name in scores]


def _member_lines(members):
    """A line for each member of an ensemble."""
    return [
        f"  {member['checkpoint']}: "
        + ", ".join(f"{name} {_shown(name, member[name])}" for name in run_record.SCORES if name in member)
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
        with replacing_files(folder) as aside:
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
    was_whole = find_damage(folder) is None
    config = json.loads(path.read_text(encoding="utf-8")) | {"calibration_temperature": temperature}
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if was_whole:
        write_manifest(folder)


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
    options, data_args, run = parse_with_run_record(
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
    folders = [find_checkpoint(name).resolve() for name in names]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise UserError(f"--ensemble: {names[number]} is named twice")
    if options.calibrate:
        raise UserError("--calibrate is of one checkpoint, and --ensemble of several: give one or the other")
