"""Train a ResNet from scratch on CIFAR-100 the Hugging Face way, and study its learning-rate schedules."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data.dataset import ImageDataset
    from .data.splits import load_splits
    from .evaluation.metrics import Scorer
    from .model import CifarResNetConfig, CifarResNetForImageClassification, CifarResNetModel
    from .schedules import ScheduleCallback
    from .training.arguments import CifarTrainingArguments
    from .training.trainer import CifarTrainer

__version__ = "0.1.0"
__all__ = [
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "CifarResNetModel",
    "CifarTrainer",
    "CifarTrainingArguments",
    "ImageDataset",
    "ScheduleCallback",
    "Scorer",
    "__version__",
    "load_splits",
]

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
    "load_splits": "data.splits",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
