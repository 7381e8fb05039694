"""The demo's page. A Space gets a copy of this file, so it imports nothing else of the package."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Gradio reads this when it is imported; without it, it would report its use.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

SHOWN_SIZE = 256
TOP_K = 5
UNREADABLE = "This file cannot be read as an image. Please try another, such as a JPEG or PNG."


def load(checkpoint: str, revision: str = "main") -> tuple[Any, Any]:
    """Load the model and image processor of a checkpoint on the Hub, with the code that is stored beside them."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(checkpoint, revision=revision, trust_remote_code=True)
    return model.eval(), AutoImageProcessor.from_pretrained(checkpoint, revision=revision)


def upright_rgb(image: Image.Image) -> Image.Image:
    """
    Convert any PIL image to RGB, upright by its EXIF orientation, on white where it is transparent. Raises `ValueError`
    for pixels that are not grey levels, which would be clipped to 0 and 255.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        levels = np.asarray(image)
        if not ((levels >= 0) & (levels <= 255)).all() or (levels.max() <= 1 and (levels % 1).any()):
            raise ValueError("its pixels are not grey levels from 0 to 255")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@torch.inference_mode()
def predict_with_activation_map(
    model: Any, processor: Any, image: Image.Image
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """
    Return for a PIL image the probability of each label name (dict), the image that the model sees, uint8 (size, size,
    3), and the class-activation map of the most probable class, float (h, w).

    The mean of the map (Zhou et al. 2015, https://arxiv.org/abs/1512.04150), plus the classifier's bias, is the logit.
    """
    pixels = processor(images=upright_rgb(image), return_tensors="pt")["pixel_values"]
    batch = pixels.to(model.device)
    features = model.base_model(pixel_values=batch).last_hidden_state
    logits = model(pixel_values=batch).logits[0]
    probabilities = (logits / getattr(model.config, "calibration_temperature", 1.0)).softmax(dim=0).tolist()
    names = [model.config.id2label[number] for number in range(len(probabilities))]
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_std, processor.image_mean))
    seen = ((pixels[0] * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    activations = torch.einsum("c,chw->hw", model.classifier.weight[logits.argmax()], features[0]).cpu().numpy()
    return dict(zip(names, probabilities, strict=True)), seen, activations


def enlarge(array: np.ndarray, resampling: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
    """Resize an image, uint8 (h, w, 3) or float32 (h, w), to the size in which it is shown."""
    return np.asarray(Image.fromarray(array).resize((SHOWN_SIZE, SHOWN_SIZE), resampling))


def overlay(seen: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """The image in grey, with red where it speaks for the class and blue where it speaks against it."""
    strength = activations / max(float(np.abs(activations).max()), 1e-12)
    strength = enlarge(strength.astype(np.float32), Image.Resampling.BILINEAR)[:, :, None]
    hue, share = np.where(strength > 0, (255, 0, 0), (0, 0, 255)), 0.6 * np.abs(strength)
    grey = enlarge(seen).mean(axis=2, keepdims=True)
    return (grey * (1 - share) + hue * share).round().astype(np.uint8)


@contextmanager
def reporting_unreadable_images() -> Iterator[None]:
    """Show a message where a file cannot be opened or read, which Gradio would report as "Error" only."""
    try:
        yield
    except (OSError, ValueError, Image.DecompressionBombError) as error:  # PIL raises OSError for a truncated file
        raise gr.Error(UNREADABLE, print_exception=False) from error


def build_page(model: Any, processor: Any, title: str, examples: Sequence[str | Path] = ()) -> gr.Blocks:
    """Return the page, a `gradio.Blocks` that is ready to launch; `examples` are paths of images to try."""

    @reporting_unreadable_images()
    def predict(image: Image.Image | None) -> tuple[Any, Any, Any]:
        if image is None:
            return None, None, None
        probabilities, seen, activations = predict_with_activation_map(model, processor, image)
        return probabilities, enlarge(seen), overlay(seen, activations)

    size = processor.size["height"]
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {title}\nDrop an image: the model sees it at {size}x{size} pixels and names it.")
        with gr.Row():
            with gr.Column():
                image = gr.Image(type="pil", image_mode=None, sources=["upload", "clipboard"], height=320)
                # Gradio opens the file before it calls `predict`.
                image.preprocess = reporting_unreadable_images()(image.preprocess)
            with gr.Column():
                shown: list[Any] = [gr.Label(num_top_classes=TOP_K, label="Labels")]
                with gr.Row():
                    # Gradio's own label would cover a part of the picture.
                    for caption in (f"What it sees: {size}x{size} pixels", "Where it looks (red: for, blue: against)"):
                        with gr.Column(min_width=120):
                            gr.Markdown(caption)
                            shown.append(gr.Image(show_label=False, interactive=False, buttons=[]))
        image.change(predict, image, shown, show_progress="hidden")
        if examples:
            gr.Examples([[str(path)] for path in examples], image, cache_examples=False, preload=False)
    return page
