"""`evaluate`: score a checkpoint on a split, analyse its errors, calibrate it, or score several as an ensemble."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.calibration import save_temperature
from ..checkpoints.load import LoadedCheckpoint, check_distinct, check_same_classes, load_with_data
from ..checkpoints.outputs import check_output, check_output_folder
from ..data.arguments import DataArguments
from ..data.dataset import ImageDataset
from ..data.splits import ImageSplits
from ..device import device_for
from ..documents import replacing_files, write_json
from ..evaluation import analysis
from ..evaluation.scores import Scores
from ..evaluation.scoring import BATCH_SIZE, PRECISIONS, Precision, combine, mirrored, precision_on, score
from ..hub.resolve import resolve_checkpoint
from ..processes import read_count
from ..reporting.error_report import ANALYSIS_FILES, write_analysis
from .line_parser import positive
from .parser import CifarArgumentParser, parse_with_run_record

SIGNIFICANCE = 0.05
# How the file of `--json` begins.
SCORES = rb'\A{\n  "loss": [^\n]+,\n  "top1": '


def main(argv: Sequence[str] | None, prog: str | None = None) -> dict[str, Any]:
    """Score a checkpoint or an ensemble, with the analyses that the options ask for. Print and return the scores."""
    options, data_args = _parse(argv, prog)

    # 1. Checkpoints, each with the images as it sees them. All are loaded before anything is computed.
    needed = {options.split, "validation"} if options.calibrate else {options.split}
    subject = _load([options.checkpoint, *options.others], options, data_args, needed)
    other = _load([options.compare], options, data_args, {options.split}) if options.compare else None
    check_same_classes([*subject.checkpoints, *(other.checkpoints if other else ())])
    if options.calibrate:
        subject.checkpoints[0].check_has_all_classes("--calibrate")
    check_distinct(subject.checkpoints)
    if other is not None and not options.ensemble and other.checkpoints[0].predicts_like(subject.checkpoints[0]):
        raise ValueError(f"--compare {other.name} has the same weights as {subject.name}: nothing would differ")

    assert data_args is not None  # since there is data

    # 2. Scores
    images = subject.images(options.split)
    logits, scores, members = subject.score(options.split)
    found: dict[str, Any] = scores.to_dict()
    lines = [f"{subject.name} on {options.split} of {data_args.dataset_name}, {len(images):,} images"]
    if note := subject.checkpoints[0].describe_classes(options.split):
        found["note"] = note
        lines.append(note)
    lines += _score_lines(scores)
    if options.ensemble:
        names = [options.checkpoint, *options.others]
        found["members"] = [{"checkpoint": name} | own.to_dict() for name, own in zip(names, members, strict=True)]
        lines.append("its members alone:")
        lines += [f"  {name}: {_in_one_line(own)}" for name, own in zip(names, members, strict=True)]
    temperature = subject.temperature
    if options.calibrate:
        validation = subject.images("validation")
        temperature = analysis.fit_temperature(subject.score("validation")[0], validation.labels.numpy())
        lines.append(f"temperature {temperature:.4g}, fitted on {len(validation):,} validation images and saved")
    if options.flip:
        mirrored_logits, *_ = subject.score(options.split, mirror=True)
        _, both = combine([logits, mirrored_logits], images.labels.numpy(), subject.data.superclass_of)
        found["flip"] = both.to_dict()
        lines += ["with the mirror image's probabilities averaged in (--flip):", *_score_lines(both)]
    if other is not None:
        found["comparison"], compared = _compare(logits, images.labels.numpy(), other, options.split)
        lines += compared

    # 3. Files
    if options.output_dir:
        lines += _analyse(options.output_dir, logits, images, subject.data, temperature)
    if options.json:
        write_json(found, options.json)
    if options.calibrate:
        save_temperature(Path(options.checkpoint), temperature)
    print("\n".join(lines))
    return found


@dataclass(frozen=True)
class _Subject:
    """What is scored: a checkpoint, or several as an ensemble."""

    checkpoints: list[LoadedCheckpoint]
    precision: Precision
    batch_size: int

    @property
    def name(self) -> str:
        if len(self.checkpoints) > 1:
            return f"ensemble of {len(self.checkpoints)} checkpoints"
        return self.checkpoints[0].name

    @property
    def data(self) -> ImageSplits:
        return self.checkpoints[0].data

    @property
    def temperature(self) -> float:
        # That of a single checkpoint does not fit an ensemble.
        return 1.0 if len(self.checkpoints) > 1 else self.checkpoints[0].model.config.calibration_temperature

    def images(self, split: str) -> ImageDataset:
        return self.checkpoints[0].images(split)

    def score(self, split: str, mirror: bool = False) -> tuple[np.ndarray, Scores, list[Scores]]:
        """Return the logits (n, num_labels) and scores on a split, or its mirror images, and each member's scores."""
        logits, scores = [], []
        for checkpoint in self.checkpoints:
            images = checkpoint.images(split)
            own_logits, own_scores = score(
                checkpoint.model,
                mirrored(images) if mirror else images,
                superclass_of=checkpoint.data.superclass_of,
                precision=self.precision,
                batch_size=self.batch_size,
                name=checkpoint.name,
            )
            logits.append(own_logits)
            scores.append(own_scores)
        if len(scores) == 1:
            return logits[0], scores[0], scores
        labels = self.images(split).labels.numpy()
        return *combine(logits, labels, self.data.superclass_of), scores


def _load(names: list[str], options: Namespace, data_args: DataArguments | None, needed: set[str]) -> _Subject:
    device = device_for(options.use_cpu)
    checkpoints = [load_with_data(resolve_checkpoint(name), data_args, needed, device, name) for name in names]
    return _Subject(checkpoints, options.precision, options.batch_size)


def _formatted(scores: Scores) -> dict[str, str]:
    """Return the scores as texts, by name."""
    return {
        name: f"{value:.4f}" if name == "loss" else f"{value:.2%}" for name, value in scores.to_dict().items()
    }  # fmt: skip


def _in_one_line(scores: Scores) -> str:
    return ", ".join(f"{name} {text}" for name, text in _formatted(scores).items())


def _score_lines(scores: Scores) -> list[str]:
    return [f"{name:<10} {text}" for name, text in _formatted(scores).items()]


def _compare(logits: np.ndarray, labels: np.ndarray, other: _Subject, split: str) -> tuple[dict[str, Any], list[str]]:
    """Test whether two checkpoints differ on the same images. Return the figures, and lines that report them."""
    other_logits, other_scores, _ = other.score(split)
    test = analysis.mcnemar(logits.argmax(axis=1) == labels, other_logits.argmax(axis=1) == labels)
    verdict = "they differ" if test.p < SIGNIFICANCE else "no difference shown"
    return {"checkpoint": other.name, "top1": other_scores.top1, **asdict(test)}, [
        f"compared with {other.name}, top1 {other_scores.top1:.2%}:",
        f"  images that only the first gets right: {test.only_first:,}, only the second: {test.only_second:,}, "
        f"both: {test.both:,}, neither: {test.neither:,}; "
        f"exact McNemar test p = {test.p:.3g}: {verdict} at {SIGNIFICANCE:.0%}",
    ]


def _analyse(folder: str, logits: np.ndarray, images: ImageDataset, data: ImageSplits, temperature: float) -> list[str]:
    """Write the error analysis, and return a summary as lines."""
    with replacing_files(folder) as temporary:
        found = write_analysis(temporary, logits, images, data, temperature)
    lines = [
        f"expected calibration error (ECE) {entry.ece:.2%}, loss {entry.loss:.4f} "
        f"at temperature {entry.temperature:.4g}"
        for entry in found.calibration
    ]
    pairs = [f"{' and '.join(pair['classes'])} ({pair['count']})" for pair in found.most_confused[:3]]
    if pairs:
        lines.append(f"most often taken for each other: {', '.join(pairs)}")
    return [*lines, f"Analysis in {folder}{os.sep}"]


def _parse(argv: Sequence[str] | None, prog: str | None) -> tuple[Namespace, DataArguments | None]:
    parser = CifarArgumentParser(
        DataArguments, prog=prog, description="Score a checkpoint on a split, or several as one with --ensemble."
    )
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="split to score on")
    parser.add_argument("--batch_size", type=positive, default=BATCH_SIZE, help="images at a time")
    parser.add_argument("--precision", choices=PRECISIONS, help="of autocast (default: that of the run)")
    parser.add_argument("--use_cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--json", metavar="FILE", help="also write the scores to this file")
    parser.add_argument("--output_dir", metavar="FOLDER", help="write an error analysis there: tables and pictures")
    parser.add_argument("--flip", action="store_true", help="also score with mirror images averaged in, separately")
    parser.add_argument("--compare", metavar="CHECKPOINT", help="test another checkpoint against it (McNemar)")
    parser.add_argument("--ensemble", action="store_true", help="score the mean of all checkpoints' probabilities")
    parser.add_argument(
        "--calibrate", action="store_true", help="fit a temperature on validation and save it in the checkpoint"
    )
    if (processes := read_count("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"evaluate scores in one process, and WORLD_SIZE={processes} means that a launcher started several: start "
            "it without one"
        )
    options, data_args, record = parse_with_run_record(parser, argv, others="with --ensemble: its other checkpoints")
    if options.json is not None:
        check_output("--json", options.json, SCORES)
    if options.output_dir is not None:
        check_output_folder("--output_dir", options.output_dir, ANALYSIS_FILES)
        place = Path(os.path.realpath(options.json or os.devnull))
        if str(place.parent) == os.path.realpath(options.output_dir) and any(map(place.match, ANALYSIS_FILES)):
            raise ValueError(f"--json {options.json} is a file of the analysis in --output_dir: choose another name")
    if options.precision is None:
        options.precision = precision_on(device_for(options.use_cpu), record.precision if record else "fp32")
    _check_ensemble(options)
    if options.calibrate and not Path(options.checkpoint).is_dir():
        raise ValueError(f"--calibrate saves into the checkpoint: download {options.checkpoint} to a folder first")
    if options.calibrate and Path(options.checkpoint, "config.json").is_symlink():
        # The link may lead into the Hub's cache, which is not ours to change.
        raise ValueError(f"--calibrate saves into config.json, which is a link in {options.checkpoint}: copy it first")
    return options, data_args


def _check_ensemble(options: Namespace) -> None:
    """Raise `ValueError` for checkpoints and options that do not fit together."""
    names = [options.checkpoint, *options.others]
    if not options.ensemble:
        if options.others:
            raise ValueError(
                f"{len(names)} checkpoints are given: add --ensemble for the mean of their probabilities, or test two "
                "against each other with --compare"
            )
        return
    if not options.others:
        raise ValueError("--ensemble needs two checkpoints or more: evaluate A B C --ensemble")
    folders = [resolve_checkpoint(name).resolve() for name in names]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise ValueError(f"--ensemble: {names[number]} is named twice")
    if options.calibrate:
        raise ValueError("--calibrate needs a single checkpoint, and --ensemble several: give one or the other")
