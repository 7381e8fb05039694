"""Train a ResNet from scratch on CIFAR-100 the Hugging Face way, and study its learning-rate schedules."""

from importlib import import_module

__version__ = "0.1.0"

# These are imported on first use, so that importing the package takes no time.
_HOMES = {
    "CifarResNetConfig": "model",
    "CifarResNetForImageClassification": "model",
    "CifarResNetModel": "model",
    "CifarTrainer": "training.trainer",
    "CifarTrainingArguments": "training.arguments",
    "ImageDataset": "data.dataset",
    "ScheduleCallback": "schedules",
    "Scorer": "evaluation.metrics",
    "load_splits": "data.sources",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return __all__
