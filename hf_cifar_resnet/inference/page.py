"""The demo's page. A Space gets a copy of this file, so it imports nothing else of the package."""

import os

# Gradio reads this when it is imported; without it, it would report its use.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

SHOWN_SIZE = 256
TOP_K = 5
UNREADABLE = "This file cannot be read as an image. Please try another, such as a JPEG or PNG."


def load(checkpoint, revision="main"):
    """Load the model and image processor of a checkpoint on the Hub, with the code that is stored beside them."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(checkpoint, revision=revision, trust_remote_code=True)
    return model.eval(), AutoImageProcessor.from_pretrained(checkpoint, revision=revision)


def upright_rgb(image):
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
def look(model, processor, image):
    """
    Return for a PIL image the probability of each label name (dict), the image that the model sees, uint8 (size, size,
    3), and the class-activation map of the most probable class, float (h, w).
    """
    pixels = processor(images=upright_rgb(image), return_tensors="pt")["pixel_values"]
    batch = pixels.to(model.device)
    features = model.base_model(pixel_values=batch).last_hidden_state
    logits = model(pixel_values=batch).logits[0]
    probabilities = (logits / getattr(model.config, "calibration_temperature", 1.0)).softmax(dim=0).tolist()
    names = [model.config.id2label[number] for number in range(len(probabilities))]
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_std, processor.image_mean))
    seen = ((pixels[0] * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return dict(zip(names, probabilities, strict=True)), seen, activation_map(model, features[0], int(logits.argmax()))


def activation_map(model, features, label):
    """
    The class-activation map (h, w) of features (channels, h, w) (Zhou et al. 2015, https://arxiv.org/abs/1512.04150).
    The mean of the map, plus the classifier's bias, is the logit.
    """
    return torch.einsum("c,chw->hw", model.classifier.weight[label], features).cpu().numpy()


def enlarge(array, smooth=False):
    """Resize a uint8 image (h, w, 3) to the size in which it is shown."""
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(array).resize((SHOWN_SIZE, SHOWN_SIZE), how))


def overlay(seen, activations):
    """The image in grey, with red where it speaks for the class and blue where it speaks against it."""
    strength = activations / max(float(np.abs(activations).max()), 1e-12)
    colours = np.stack([np.clip(strength, 0, 1), np.zeros_like(strength), np.clip(-strength, 0, 1)], axis=-1)
    colours = enlarge((255 * colours).round().astype(np.uint8), smooth=True).astype(float)
    grey = enlarge(seen).mean(axis=2, keepdims=True)
    share = 0.6 * colours.max(axis=2, keepdims=True) / 255
    hue = colours / np.maximum(colours.max(axis=2, keepdims=True), 1) * 255
    return (grey * (1 - share) + hue * share).round().astype(np.uint8)


def build(model, processor, title, examples=()):
    """Return the page, a `gradio.Blocks` that is ready to launch; `examples` are paths of images to try."""

    def answer(image):
        if image is None:
            return None, None, None
        try:
            probabilities, seen, activations = look(model, processor, image)
        except (OSError, ValueError) as error:  # PIL raises OSError for a truncated file
            raise gr.Error(UNREADABLE, print_exception=False) from error
        return probabilities, enlarge(seen), overlay(seen, activations)

    size = processor.size["height"]
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {title}\nDrop an image: the model sees it at {size}x{size} pixels and names it.")
        with gr.Row():
            with gr.Column():
                image = gr.Image(type="pil", image_mode=None, sources=["upload", "clipboard"], height=320)
                image.preprocess = _reporting_bad_files(image.preprocess)
            with gr.Column():
                label = gr.Label(num_top_classes=TOP_K, label="Labels")
                with gr.Row():
                    pictures = [
                        _picture(f"What it sees: {size}x{size} pixels"),
                        _picture("Where it looks (red: for, blue: against)"),
                    ]
        image.change(answer, image, [label, *pictures], show_progress="hidden")
        if examples:
            gr.Examples([[str(path)] for path in examples], image, cache_examples=False, preload=False)
    return page


def _picture(caption):
    """Add a picture with its caption above it; Gradio's own label would cover a part of it."""
    with gr.Column(min_width=120):
        gr.Markdown(caption)
        return gr.Image(show_label=False, interactive=False, buttons=[])


def _reporting_bad_files(preprocess):
    """Explain why a file cannot be opened, which Gradio does before `answer` is called and reports as "Error" only."""

    def checked(payload):
        try:
            return preprocess(payload)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise gr.Error(UNREADABLE, print_exception=False) from error

    return checked
