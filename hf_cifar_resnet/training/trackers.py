"""Watching a run in TensorBoard, Trackio and the like: what `--report_to` may name, and how our figures are called."""

# They show what is neither of an evaluation nor of the test as `train/...`.
SHOWN_AS = {"train_accuracy": "accuracy", "train_seconds": "seconds"}


def chosen(report_to):
    """
    Names of trackers, from one name or several with commas.

    Raises:
        ValueError: for a name that transformers does not know, or one that is not installed.
    """
    names = report_to.split(",") if isinstance(report_to, str) else list(report_to or ())
    if set(names) <= {"none", "all"}:
        return names
    # Takes seconds to load.
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    for name in names:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(["none", "all", *sorted(INTEGRATION_TO_CALLBACK)])
            raise ValueError(f"report_to must be of {known}; got {name}")
        # Flyte alone is not among those that transformers can look for.
        if name not in (*get_available_reporting_integrations(), "flyte"):
            raise ValueError(f"report_to {name}: it is not installed, try `pip install {name}`")
    return names


def prepare_trackers(callbacks):
    """Gives those callbacks of a Trainer that are trackers our names, and the test scores where they ask for none."""
    from transformers import TrainerCallback
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for callback in callbacks:
        if type(callback) in INTEGRATION_TO_CALLBACK.values():
            callback.on_log = _with_our_names(callback.on_log)
            if type(callback).on_predict is TrainerCallback.on_predict:
                callback.on_predict = _as_log(callback.on_log)


def _with_our_names(on_log):
    def renamed(*args, logs=None, **kwargs):
        return on_log(*args, logs={SHOWN_AS.get(name, name): value for name, value in (logs or {}).items()}, **kwargs)

    return renamed


def _as_log(on_log):
    def log(*args, metrics=None, **kwargs):
        return on_log(*args, logs=metrics, **kwargs)

    return log
