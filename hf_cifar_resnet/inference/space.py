"""The files of a Hugging Face Space that shows a model."""

import shutil
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from ..checkpoints.load import load_data_for
from ..errors import UserError

NUM_EXAMPLES = 8
# Beside gradio, what the Space's page imports.
SPACE_REQUIREMENTS = ("torch", "torchvision", "transformers", "numpy", "pillow")
APP = '''"""Shows what the model {checkpoint} makes of an image."""

from pathlib import Path

from page import build, load

demo = build(*load({repo_id!r}, {revision!r}), {title!r}, sorted(Path(__file__).parent.glob("examples/*")))

if __name__ == "__main__":
    demo.launch()
'''
CARD = """---
title: {title}
emoji: 🖼️
colorFrom: blue
colorTo: indigo
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
license: apache-2.0
models:
- {repo_id}
---

A demo of [{checkpoint}](https://huggingface.co/{repo_id}): its five most probable labels for an image, the image as
small as the model sees it, and a class-activation map (Zhou et al. 2015, https://arxiv.org/abs/1512.04150).
"""


def write_examples(name, data_args, model, processor, folder):
    """Test images of different classes as PNG files; none where the data cannot be had, which is said."""
    try:
        data = load_data_for(name, data_args, model, processor, {"test"})
    except UserError as error:
        print(f"no examples: {error}")
        return []
    _, first = np.unique(data.test.labels.numpy(), return_index=True)
    chosen = first[np.linspace(0, len(first) - 1, min(NUM_EXAMPLES, len(first))).astype(int)]
    paths = []
    for number, index in enumerate(chosen):
        label = data.label_names[int(data.test.labels[index])]
        paths.append(Path(folder, f"{number}-{''.join(c if c.isalnum() else '_' for c in label)}.png"))
        # As small as they are: the model would see an enlarged one blurred.
        Image.fromarray(data.test.images[index]).save(paths[-1])
    return paths


def write_space(folder, checkpoint, title, examples=()):
    """
    The folder of a Hugging Face Space that shows a checkpoint on the Hub, without this package.

    Args:
        folder (`str` or `Path`): created if need be.
        checkpoint (`str`): `user/repo` or `user/repo@revision` of the model on the Hub.
        examples (list of paths): images to copy.

    Returns:
        What was written, as paths relative to the folder.

    Raises:
        UserError: if it cannot be written.
    """
    folder = Path(folder)
    gradio = version("gradio")
    requirements = [f"gradio=={gradio}", *(f"{name}~={_minor(version(name))}" for name in SPACE_REQUIREMENTS)]
    source = resources.files("hf_cifar_resnet") / "inference" / "page.py"
    repo_id, _, revision = checkpoint.partition("@")
    texts = {
        "app.py": APP.format(checkpoint=checkpoint, repo_id=repo_id, revision=revision or "main", title=title),
        "page.py": source.read_text(encoding="utf-8"),
        "requirements.txt": "\n".join(requirements) + "\n",
        "README.md": CARD.format(checkpoint=checkpoint, repo_id=repo_id, title=title, gradio=gradio),
    }
    try:
        (folder / "examples").mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for path in examples:
            shutil.copy(path, folder / "examples")
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error
    return [*texts, *sorted({f"examples/{Path(path).name}" for path in examples})]


def _minor(number):
    """Such as 2.15 of 2.15.0+cpu."""
    return ".".join(number.split(".")[:2])
