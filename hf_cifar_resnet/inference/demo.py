"""A page in the browser that shows what a model makes of an image; local, or as a folder for a Hugging Face Space."""

import shutil
import tempfile
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from .. import hub
from ..data.dataset import read_rgb_array
from ..device import device_for
from ..errors import UserError, reports_user_errors
from ..training.arguments import DataArguments
from ..training.parsing import CifarArgumentParser
from ..training.recorded import load_data_for, parse_with_record
from ..training.trained import load_checkpoint

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


@reports_user_errors
def main(argv=None, prog=None):
    """Checkpoint -> page, until it is stopped; with `--space`, the folder of a Space instead."""
    options, data_args = _parse(argv, prog)
    try:
        from . import page
    except ImportError as error:
        raise UserError("gradio is not installed: pip install 'hf-cifar-resnet[demo]'") from error
    except ValueError as error:  # such as GRADIO_SERVER_PORT that is no number
        raise UserError(f"gradio does not take a variable of the environment: {error}") from error
    model, processor = load_checkpoint(options.checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        examples = options.examples or write_examples(options.checkpoint, data_args, model, processor, scratch)
        title = f"{Path(options.checkpoint).name} in {model.config.num_labels} classes"
        if options.space is not None:
            written = write_space(options.space_folder, options.checkpoint, title, examples)
            print(f"Wrote the Space to {options.space_folder}; try it: python {options.space_folder / 'app.py'}")
            if options.push:
                print(f"Pushed {_push(options, written)}")
            return
        blocks = page.build(model.to(device_for(options.use_cpu)), processor, title, examples)
        print("Ctrl-C stops it.", flush=True)
        try:
            # For this machine alone, without a public link.
            blocks.launch(server_name="127.0.0.1", server_port=options.port, share=False)
        except (OSError, OverflowError) as error:
            port = f"port {options.port}" if options.port else "any port that it tried"
            raise UserError(
                f"the page cannot be served at {port}, which may be taken: choose another --port"
            ) from error


def _parse(argv, prog):
    parser = CifarArgumentParser(DataArguments, prog=prog, description="Show a model in the browser.")
    parser.add_argument("--examples", nargs="+", metavar="IMAGE", help="to try; test images of the data if not given")
    parser.add_argument("--port", type=int, help="7860 or the next free one if not given")
    parser.add_argument("--use_cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--space", metavar="REPO_ID", help="make it a Hugging Face Space instead: write and push it")
    parser.add_argument("--no_push", dest="push", action="store_false", help="only write the folder of the Space")
    parser.add_argument("--private", action="store_true", help="of a new Space")
    parser.add_argument("--output_dir", metavar="FOLDER", help="of the Space's folder; its name if not given")
    options, data_args, _ = parse_with_record(parser, argv)
    if options.port is not None and not 1 <= options.port <= 65535:
        raise UserError(f"--port must be from 1 to 65535, got {options.port}")
    for path in options.examples or ():
        if not Path(path).is_file():
            raise UserError(f"--examples: there is no file {path}")
        try:
            read_rgb_array(path)
        except Exception as error:  # PIL's decoders raise whatever a broken file leads them to
            raise UserError(f"--examples: {path} cannot be read as an image: {error}") from error
    if options.space is not None:
        if options.space.count("/") != 1:
            raise UserError(f"--space needs USER/NAME, got {options.space}")
        try:
            hub.check_name(options.space)
        except hub.HubError as error:
            raise UserError(f"--space: {error}") from error
        if Path(options.checkpoint).is_dir():
            raise UserError("a Space loads its checkpoint from the Hub: push it and give user/name, not a folder")
        options.space_folder = Path(options.output_dir or options.space.split("/")[1])
        ours = (options.space_folder / "page.py").is_file()
        if options.space_folder.exists() and any(options.space_folder.iterdir()) and not ours:
            raise UserError(f"{options.space_folder} is not empty: choose another --output_dir")
    return options, data_args


def _push(options, names):
    """What was written of the Space to the Hub, in one commit. Returns its address."""
    try:
        message = f"Demo of {options.checkpoint}"
        pushed = hub.push_folder(
            options.space_folder, options.space, message=message, names=names, repo_type="space", space_sdk="gradio",
            private=options.private or None,
        )  # fmt: skip
    except hub.HubError as error:
        raise UserError(f"{options.space_folder} is written but not pushed: {error}") from error
    return pushed.url


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
