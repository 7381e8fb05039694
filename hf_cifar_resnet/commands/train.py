"""
Train a ResNet from scratch.

python train.py --config quickstart                      # built-in dataset, a small model, minutes on a CPU
accelerate launch train.py --lr_scheduler_type cosine    # CIFAR-100 from the Hub, ResNet-50
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ..errors import explained
from ..processes import decide_on_rank_0, is_rank_0
from ..training.arguments import resolve
from .parser import parse_arguments

if TYPE_CHECKING:
    from ..data.dataset import ImageDataset
    from ..data.splits import ImageSplits
    from ..runs.metrics import RunMetrics, Selection
    from ..runs.record import RunRecord
    from ..training.arguments import CifarTrainingArguments
    from ..training.trainer import CifarTrainer

MAX_CONFUSED = 5  # pairs of classes that the card names


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> "RunMetrics":
    """
    Train, score and save a model with its curves and card, push it to the Hub if asked to, and return the metrics.

    Exit with 75 after a signal: see [`~hf_cifar_resnet.training.preemption`].
    """
    # 1. Arguments: what was given, and what it means on this machine
    arguments = resolve(parse_arguments(argv, prog))

    # What takes seconds to import, for which `--help` and a wrong argument do not wait.
    from ..checkpoints.changes import continue_record
    from ..hub.callback import HubCallback
    from ..hub.resolve import find_pretrained
    from ..training.build import build_trainer, choose_folder, load_data_and_model
    from ..training.callbacks import RunEventsCallback, RunRecordCallback
    from ..training.console import end_block, start_block
    from ..training.record import make_record
    from .session import command_line, prepare_process, training_session

    prepare_process(arguments.training)
    pretrained = find_pretrained(arguments.model.model_name_or_path)
    arguments = choose_folder(arguments, pretrained)
    command = command_line(argv, prog)
    with training_session(arguments.training, command) as preemption:
        # 2. Data and model
        data, model, arguments = load_data_and_model(arguments, pretrained)
        args, eval_split = arguments.training, arguments.data.eval_split

        # 3. Train
        record = make_record(model, data, arguments.model, arguments.data, args, command, arguments.given)
        checkpoint = _find_checkpoint(args)
        if checkpoint is not None:
            record = continue_record(record, checkpoint, str(args.output_dir))
        recorder = RunRecordCallback(record)
        callbacks = [recorder, RunEventsCallback(), preemption]
        hub = HubCallback(args, eval_split, record) if args.push_to_hub else None
        if hub is not None:
            callbacks.append(hub)
        trainer = build_trainer(model, args, data, eval_split, callbacks=callbacks)
        if is_rank_0():
            print(start_block(record, args, hub, checkpoint, trainer.find_schedule_misfit()), flush=True)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        preemption.check()

        # 4. Score and publish
        metrics = score_and_save(trainer, recorder.record, data, eval_split)
        if is_rank_0():
            print(end_block(metrics, str(args.output_dir)), flush=True)
            if hub is not None:
                print(f"{'Pushed':<10} {hub.finish()}", flush=True)
    return metrics


def _find_checkpoint(args: "CifarTrainingArguments") -> Path | None:
    """Return the checkpoint to resume from, or None. One that was pushed is downloaded."""
    from ..checkpoints.run_folder import find_resume_checkpoint, kind_of_resume
    from ..hub.client import HubError
    from ..hub.resolve import resolve_checkpoint

    name, pushed = args.resume_from_checkpoint, None
    if name is not None and kind_of_resume(name) == "pushed":
        with explained("resume_from_checkpoint", HubError):
            pushed = decide_on_rank_0(lambda: resolve_checkpoint(name))
    return find_resume_checkpoint(name, str(args.output_dir), args.load_best_model_at_end, pushed)


def score_and_save(
    trainer: "CifarTrainer", record: "RunRecord", data: "ImageSplits", eval_split: "Selection"
) -> "RunMetrics":
    """
    Score the test split, for the only time in a run, save the model and the run's files, and return the metrics. Raises
    `OSError` if they cannot be written, with what is to be done.
    """
    from ..checkpoints.calibration import keeping_temperature
    from ..checkpoints.save import find_last_complete
    from ..evaluation.analysis import most_confused
    from ..evaluation.scores import Scores
    from ..reporting.card import write_run_files
    from ..runs.history import History
    from ..training.record import make_metrics

    images = cast("ImageDataset", data.test)
    output = trainer.predict(images, metric_key_prefix="test")
    scores = output.metrics or {}
    trainer.log(scores)  # for trackers
    test = Scores.from_dict({name.removeprefix("test_"): value for name, value in scores.items()})
    confused = most_confused(np.asarray(output.predictions), images.labels.numpy(), data.label_names, MAX_CONFUSED)
    metrics = make_metrics(trainer.state, trainer.args, eval_split, test, confused)
    folder = Path(str(trainer.args.output_dir))
    try:
        with keeping_temperature(folder) if is_rank_0() else nullcontext():
            trainer.save_model()
        if is_rank_0():
            write_run_files(folder, record, metrics, History.from_log(trainer.state.log_history))
    except OSError as error:  # such as a full disk
        last = find_last_complete(folder)
        left = f"the run is trained, and {last} is complete: resume with --resume_from_checkpoint true to do the rest"
        raise OSError(f"{error}; {left if last else 'there is no checkpoint'}") from error
    return metrics
