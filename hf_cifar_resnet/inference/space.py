"""Write the files of a Hugging Face Space that shows a model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.dataset import ImageDataset
from ..documents import write_text

NUM_EXAMPLES = 8
# What is written, with patterns of the contents that show that they are ours; the first one speaks for all.
SPACE_FILES: dict[str, bytes | None] = {
    "page.py": rb"\ndef build_page\(",
    **dict.fromkeys(("app.py", "requirements.txt", "README.md", "examples")),
}
# What the Space's page imports beside gradio.
SPACE_REQUIREMENTS = ("torch", "torchvision", "transformers", "numpy", "pillow")
APP = '''"""Show the predictions of the model {checkpoint} for an image."""

from pathlib import Path

from page import build_page, load

demo = build_page(*load({repo_id!r}, {revision!r}), {title!r}, sorted(Path(__file__).parent.glob("examples/*")))

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


def write_examples(images: ImageDataset, label_names: Sequence[str], folder: str | Path) -> list[Path]:
    """Save images of different classes as PNG files, in their own size, and return their paths."""
    _, first = np.unique(images.labels.numpy(), return_index=True)
    chosen = first[np.linspace(0, len(first) - 1, min(NUM_EXAMPLES, len(first))).astype(int)]
    paths = []
    for number, index in enumerate(chosen):
        label = label_names[int(images.labels[index])]
        paths.append(Path(folder, f"{number}-{''.join(c if c.isalnum() else '_' for c in label)}.png"))
        # In their own size, since the model would see an enlarged image blurred.
        Image.fromarray(images.images[index]).save(paths[-1])
    return paths


def write_space(folder: str | Path, checkpoint: str, title: str, examples: Sequence[str | Path] = ()) -> list[str]:
    """
    Write a Hugging Face Space that shows a checkpoint, `user/repo[@revision]` on the Hub, without this package. Return
    the relative paths of its files. Raises `OSError` if they cannot be written.
    """
    folder = Path(folder)
    # Such as torch~=2.15 for 2.15.0+cpu.
    minors = {name: ".".join(version(name).split(".")[:2]) for name in SPACE_REQUIREMENTS}
    requirements = [f"gradio=={version('gradio')}", *(f"{name}~={minor}" for name, minor in minors.items())]
    repo_id, _, revision = checkpoint.partition("@")
    named = {"checkpoint": checkpoint, "repo_id": repo_id, "title": title}
    texts = {
        "app.py": APP.format(**named, revision=revision or "main"),
        "page.py": Path(__file__).with_name("page.py").read_text(encoding="utf-8"),
        "requirements.txt": "\n".join(requirements) + "\n",
        "README.md": CARD.format(**named, gradio=version("gradio")),
    }
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(text, folder / name)
    for path in examples:
        shutil.copy(path, folder / "examples")
    return [*texts, *sorted({f"examples/{Path(path).name}" for path in examples})]
