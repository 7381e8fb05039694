"""`evaluate`: score a checkpoint on a split, analyse its errors, calibrate it, or score several as an ensemble."""

import os
from dataclasses import asdict
from pathlib import Path

from ..checkpoints.outputs import check_output, check_output_folder
from ..checkpoints.save import save_temperature
from ..data.arguments import DataArguments
from ..documents import replacing_files, write_json
from ..errors import UserError
from ..evaluation import analysis
from ..hub.resolve import resolve
from ..processes import destroy_process_group_at_exit
from ..reporting.error_report import ANALYSIS_FILES, write_analysis
from ..runs.scores import SCORES as SCORE_NAMES
from ..training.evaluators import load_evaluator, scoring_arguments, training_precision
from ..training.parser import CifarArgumentParser, parse_with_run_record
from . import positive

SIGNIFICANCE = 0.05
# How the file of `--json` begins.
SCORES = rb'\A{\n  "loss": [^\n]+,\n  "top1": '


def main(argv, prog=None):
    """Score a checkpoint or an ensemble, with the analyses that the options ask for. Print and return the scores."""
    options, data_args = _parse(argv, prog)
    args = scoring_arguments(options.checkpoint, options.use_cpu, options.precision, options.batch_size)
    needed = {options.split, "validation"} if options.calibrate else {options.split}
    evaluator = load_evaluator([options.checkpoint, *options.others], args, data_args, needed)
    # Loaded before anything is computed, since it may be missing.
    rival = load_evaluator([options.compare], args, data_args, {options.split}) if options.compare else None

    split = getattr(evaluator.data, options.split)
    logits, scores = evaluator.predict(options.split)
    lines = [f"{evaluator.name} on {options.split} of {data_args.dataset_name}, {len(split):,} images"]
    lines += _score_lines(scores)
    if options.ensemble:
        lines.append("its members alone:")
        for member in scores["members"]:
            lines.append(f"  {member['checkpoint']}: {', '.join(map(' '.join, _formatted(member).items()))}")
    temperature = evaluator.temperature
    if options.calibrate:
        validation = evaluator.data.validation
        temperature = analysis.fit_temperature(evaluator.predict("validation")[0], validation.labels.numpy())
        lines.append(f"temperature {temperature:.4g}, fitted on {len(validation):,} validation images and saved")
    if options.flip:
        mirrored, _ = evaluator.predict(options.split, mirrored=True)
        scores["flip"] = evaluator.score(analysis.log_mean_probabilities([logits, mirrored]), split)
        lines += ["with the mirror image's probabilities averaged in (--flip):", *_score_lines(scores["flip"])]
    if rival is not None:
        scores["comparison"], compared = _compare(logits, split, rival, options.split)
        lines += compared
    if evaluator.trainer.is_world_process_zero():
        if options.output_dir:
            lines += _analyse(options.output_dir, logits, split, evaluator.data, temperature)
        if options.json:
            write_json(scores, options.json)
        if options.calibrate:
            save_temperature(Path(options.checkpoint), temperature)
        print("\n".join(lines))
    destroy_process_group_at_exit()
    return scores


def _formatted(scores):
    """Return the scores as texts, by name."""
    known = [name for name in SCORE_NAMES if name in scores]
    return {name: f"{scores[name]:.4f}" if name == "loss" else f"{scores[name]:.2%}" for name in known}


def _score_lines(scores):
    return [f"{name:<10} {value}" for name, value in _formatted(scores).items()]


def _compare(logits, split, rival, split_name):
    """Test whether two checkpoints differ on the same images. Return the figures, and lines that report them."""
    rival_logits, rival_scores = rival.predict(split_name)
    correct = [each.argmax(axis=1) == split.labels.numpy() for each in (logits, rival_logits)]
    found = {"checkpoint": rival.name, "top1": rival_scores["top1"], **asdict(analysis.mcnemar(*correct))}
    verdict = "they differ" if found["p"] < SIGNIFICANCE else "no difference shown"
    return found, [
        f"compared with {rival.name}, top1 {found['top1']:.2%}:",
        f"  images that only the first gets right: {found['only_first']:,}, only the second: {found['only_second']:,}, "
        f"both: {found['both']:,}, neither: {found['neither']:,}; "
        f"exact McNemar test p = {found['p']:.3g}: {verdict} at {SIGNIFICANCE:.0%}",
    ]


def _analyse(folder, logits, split, data, temperature):
    """Write the error analysis, and return a summary as lines."""
    with replacing_files(folder) as temporary:
        found = write_analysis(temporary, logits, split, data, temperature)
    lines = [
        f"ece        {entry['ece']:.2%}, loss {entry['loss']:.4f} at temperature {entry['temperature']:.4g}"
        for entry in found["calibration"]
    ]
    pairs = [f"{' and '.join(pair['classes'])} ({pair['count']})" for pair in found["most_confused"][:3]]
    if pairs:
        lines.append(f"most often taken for each other: {', '.join(pairs)}")
    return [*lines, f"Analysis in {folder}{os.sep}"]


def _parse(argv, prog):
    parser = CifarArgumentParser(
        DataArguments, prog=prog, description="Score a checkpoint on a split, or several as one with --ensemble."
    )
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="split to score on")
    parser.add_argument("--batch_size", type=positive, default=256, help="images per device and step")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: that of the training run")
    parser.add_argument("--use_cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--json", metavar="FILE", help="also write the scores to this file")
    parser.add_argument("--output_dir", metavar="FOLDER", help="write an error analysis there: tables and pictures")
    parser.add_argument("--flip", action="store_true", help="also score with mirror images averaged in, separately")
    parser.add_argument("--compare", metavar="CHECKPOINT", help="test another checkpoint against it (McNemar)")
    parser.add_argument("--ensemble", action="store_true", help="score the mean of all checkpoints' probabilities")
    parser.add_argument(
        "--calibrate", action="store_true", help="fit a temperature on validation and save it in the checkpoint"
    )
    options, data_args, record = parse_with_run_record(parser, argv, others="with --ensemble: its other checkpoints")
    if options.json is not None:
        check_output("--json", options.json, SCORES)
    if options.output_dir is not None:
        check_output_folder("--output_dir", options.output_dir, ANALYSIS_FILES)
        place = Path(os.path.realpath(options.json or os.devnull))
        if str(place.parent) == os.path.realpath(options.output_dir) and any(map(place.match, ANALYSIS_FILES)):
            raise UserError(f"--json {options.json} is a file of the analysis in --output_dir: choose another name")
    options.precision = options.precision or training_precision(record, options.use_cpu)
    _check_ensemble(options)
    if options.calibrate and not Path(options.checkpoint).is_dir():
        raise UserError(f"--calibrate saves into the checkpoint: download {options.checkpoint} to a folder first")
    if options.calibrate and Path(options.checkpoint, "config.json").is_symlink():
        # The link may lead into the Hub's cache, which is not ours to change.
        raise UserError(f"--calibrate saves into config.json, which is a link in {options.checkpoint}: copy it first")
    return options, data_args


def _check_ensemble(options):
    """Raise [`UserError`] for checkpoints and options that do not fit together."""
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
    folders = [resolve(name).resolve() for name in names]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise UserError(f"--ensemble: {names[number]} is named twice")
    if options.calibrate:
        raise UserError("--calibrate needs a single checkpoint, and --ensemble several: give one or the other")
