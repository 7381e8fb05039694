"""Score a model on a dataset: one plain loop in one process, without a Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.dataset import ImageDataset, collate, normalize
from ..device import memory_format_for
from .analysis import log_mean_probabilities
from .metrics import compute_scores
from .scores import NOT_FINITE, Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BATCH_SIZE = 256  # as in training


def score(
    model: PreTrainedModel,
    images: ImageDataset,
    *,
    superclass_of: np.ndarray | None = None,
    precision: Precision = "fp32",
    batch_size: int = BATCH_SIZE,
    name: str = "the model",
) -> tuple[np.ndarray, Scores]:
    """
    Return the logits float32 (n, num_labels) of a model for the images of a dataset, and its scores.

    Both are, on a CPU to the bit, those of an evaluation by [`CifarTrainer`] with the same precision and batch size. As
    there, the model is put into evaluation mode, and it is computed on the model's device. Raises `ValueError` if the
    logits are not finite.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): the superclass of each class number.
        precision: of autocast.
        name: what an error calls the model.
    """
    logits = predict_logits(model, images, precision=precision, batch_size=batch_size)
    if not np.isfinite(logits).all():
        raise ValueError(NOT_FINITE.format(name))
    return logits, compute_scores(logits, images.labels.numpy(), superclass_of)


@torch.no_grad()
def predict_logits(
    model: PreTrainedModel, images: ImageDataset, *, precision: Precision = "fp32", batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Return the logits float32 (n, num_labels) of a model for the images of a dataset, as [`score`] does."""
    device = model.device
    memory_format = memory_format_for(model, device)
    model.eval().to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    # Its seed is drawn from a generator of its own, so that nothing here depends on the global one or moves it.
    loader = DataLoader(
        images.without_normalization(),
        min(batch_size, len(images)),
        collate_fn=collate,
        generator=torch.Generator(),
    )
    logits = []
    with _autocast(device, precision):
        for batch in loader:
            pixel_values = normalize(batch["pixel_values"].to(device), images.mean, images.std)
            pixel_values = pixel_values.contiguous(memory_format=memory_format)
            logits.append(model(pixel_values=pixel_values).logits.float().cpu())
    return torch.cat(logits).numpy()


def combine(
    logits: Sequence[np.ndarray], labels: np.ndarray, superclass_of: np.ndarray | None = None
) -> tuple[np.ndarray, Scores]:
    """
    Return the log of the mean probabilities that several logits (n, num_labels) give for the same images, and its
    scores. The logits are those of the models of an ensemble, or those for images and for their mirror images.
    """
    combined = log_mean_probabilities(logits)
    return combined, compute_scores(combined, labels, superclass_of)


def precision_on(device: torch.device, precision: Precision) -> Precision:
    """Return the precision in which a model that was trained in `precision` is scored: fp32 for fp16 on a CPU."""
    return "fp32" if precision == "fp16" and device.type == "cpu" else precision


def mirrored(images: ImageDataset) -> ImageDataset:
    """Return the mirror images of a dataset, left and right exchanged."""
    return ImageDataset(images.images[:, :, ::-1], images.labels, images.mean, images.std)


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    if precision == "fp16":
        return torch.autocast(device.type, torch.float16)
    return _tf32_matmul() if device.type == "cuda" else nullcontext()


@contextmanager
def _tf32_matmul() -> Iterator[None]:
    """Compute matrix products in TF32, as training does on a GPU; convolutions are anyway."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
