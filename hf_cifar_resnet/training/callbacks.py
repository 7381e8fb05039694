"""Callbacks of the Trainer: run record, progress lines, epoch boundaries and experiment trackers."""

import errno
from pathlib import Path

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback

from ..documents import write_json
from ..reporting import run_files, run_record


class QuietProgressCallback(ProgressCallback):
    """The Trainer's progress bar without its printed dictionaries, which [`EpochLineCallback`] replaces."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class RunRecordCallback(TrainerCallback):
    """Writes `run.json` when training begins, so not if the checkpoint to resume from is refused."""

    def __init__(self, record):
        self.record = record

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_json(self.record, Path(args.output_dir, run_files.RUN_JSON))


class EpochBoundary(TrainerCallback):
    """
    Defers the last step's log, evaluation and save to the epoch's end, because a run that is resumed from a checkpoint
    between the two would skip those of the epoch's end.

    It also logs the training metrics before every evaluation, after which training may stop. It has to be the last
    callback.
    """

    FLAGS = ("should_log", "should_evaluate", "should_save")

    def __init__(self):
        self._deferred = []

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_evaluate
        if control.should_training_stop or control.should_epoch_stop or state.epoch.is_integer():
            self._deferred = [name for name in self.FLAGS if getattr(control, name)]
            for name in self._deferred:
                setattr(control, name, False)

    def on_epoch_end(self, args, state, control, **kwargs):
        for name in self._deferred:
            setattr(control, name, True)
        self._deferred = []


class EpochLineCallback(TrainerCallback):
    """Prints a line for each evaluation: loss, accuracies, learning rate, speed and cuts of the learning rate."""

    def __init__(self):
        self._train, self._scale = {}, 1.0

    def on_train_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        self._scale = getattr(lr_scheduler, "scale", 1.0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self._train = logs
            if args.eval_strategy == "no":
                self._print(args, state, _training_part(logs))

    def on_evaluate(self, args, state, control, metrics=None, lr_scheduler=None, **kwargs):
        if not any(name.startswith("eval_") for name in metrics):
            return
        parts, scores = _training_part(self._train), run_record.scores(metrics, "eval")
        if "loss" in scores:
            parts.append(f"| eval loss {scores['loss']:.4f}")
        parts += [f"{name} {scores[key]:6.2%}" for key, name in run_record.ACCURACIES.items() if key in scores]
        scale = getattr(lr_scheduler, "scale", 1.0)
        if scale != self._scale:
            parts.append(f"LR {'cut' if scale < self._scale else 'raised'} to {lr_scheduler.get_last_lr()[0]:.3g}")
            self._scale = scale
        self._print(args, state, parts)

    def _print(self, args, state, parts):
        if state.is_world_process_zero:
            epochs = f"{args.num_train_epochs:g}" if args.max_steps <= 0 else f"{state.num_train_epochs:g}"
            try:
                tqdm.write(f"epoch {state.epoch or 0:5.4g}/{epochs}  " + "  ".join(parts))
            except OSError as error:  # nobody reads the output any more, which `preemption` notices and ends the run
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise


def _training_part(logs):
    if not logs:
        return []
    return [
        f"loss {logs['loss']:.4f}",
        f"train {logs['accuracy']:6.2%}",
        f"lr {logs['learning_rate']:.3g}",
        f"{logs['images_per_second']:,.0f} img/s",
        f"{logs['data_wait']:.1%} waiting for data",
    ]


def parse_report_to(report_to):
    """Return a list of trackers. Raises `ValueError` for an unknown one, or one that is not installed."""
    names = report_to.split(",") if isinstance(report_to, str) else list(report_to or ())
    trackers = set(names) - {"none", "all"}
    if trackers:
        # Imported here because it takes seconds.
        from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

        get_reporting_integration_callbacks(trackers)  # raises for an unknown one
        # Transformers cannot look for flyte.
        if missing := sorted(trackers - {*get_available_reporting_integrations(), "flyte"}):
            raise ValueError(f"report_to {missing[0]}: it is not installed, try `pip install {missing[0]}`")
    return names
