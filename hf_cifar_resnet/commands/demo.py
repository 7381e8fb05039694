"""`demo`: show a model in the browser, or write its Hugging Face Space."""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..checkpoints.load import load_checkpoint, load_data_for
from ..checkpoints.outputs import check_output_folder
from ..data.arguments import DataArguments
from ..data.images import read_rgb_array
from ..device import device_for
from ..errors import explained, require
from ..hub import client
from ..hub.resolve import resolve_checkpoint
from ..hub.staging import kept_card_note
from ..inference.space import SPACE_FILES, write_examples, write_space
from ..runs.files import folder_name
from .parser import CifarArgumentParser, parse_with_run_record

if TYPE_CHECKING:
    from transformers import ViTImageProcessor

    from ..model import CifarResNetForImageClassification


def main(argv: Sequence[str] | None, prog: str | None = None) -> None:
    """Serve the page of a checkpoint until it is stopped, or write and push its Space with `--space`."""
    options, data_args = _parse(argv, prog)
    require("gradio", "demo")
    model, processor = load_checkpoint(resolve_checkpoint(options.checkpoint))
    with tempfile.TemporaryDirectory() as temporary:
        examples = options.examples or _make_examples(options.checkpoint, data_args, model, processor, temporary)
        title = f"{folder_name(options.checkpoint)} in {model.config.num_labels} classes"
        if options.space is not None:
            _make_space(options, title, examples)
            return
        page = _import_page()
        model.to(device_for(options.use_cpu))  # pyright: ignore[reportArgumentType]
        blocks = page.build_page(model, processor, title, examples)
        first = os.environ.get("GRADIO_SERVER_PORT")
        port = f"any port from GRADIO_SERVER_PORT={first} on" if first else "any port that it tried"
        port = f"port {options.port}" if options.port else port
        where = f"the page cannot be served at {port}, which may be taken: choose another --port"
        with explained(where, OSError, OverflowError):
            # On this machine only, without a public link.
            _, address, _ = blocks.launch(
                server_name="127.0.0.1", server_port=options.port, share=False, quiet=True, prevent_thread_lock=True
            )
        print(f"The page is at {address} until Ctrl-C stops it", flush=True)
        blocks.block_thread()


def _make_examples(
    name: str,
    data_args: DataArguments | None,
    model: CifarResNetForImageClassification,
    processor: ViTImageProcessor,
    folder: str,
) -> list[Path]:
    """Write test images of the data that the model was trained on; none where the data cannot be loaded."""
    try:
        data = load_data_for(name, data_args, model, processor, {"test"})
    except (OSError, ValueError) as error:  # the model can be shown all the same
        print(f"no examples: {error}")
        return []
    assert data.test is not None  # it is needed
    return write_examples(data.test, data.label_names, folder)


def _import_page() -> ModuleType:
    """Import the page after all that comes from the network."""
    # Gradio asks the page whether it answers, which is on this machine: no proxy can reach it.
    os.environ |= dict.fromkeys(("NO_PROXY", "no_proxy"), "*")
    variables = ", ".join(name for name in sorted(os.environ) if name.startswith("GRADIO_"))
    with (
        explained("gradio cannot be loaded", ImportError),
        explained(f"gradio does not accept its variables of the environment ({variables})", ValueError),
    ):
        from ..inference import page
    return page


def _parse(argv: Sequence[str] | None, prog: str | None) -> tuple[Namespace, DataArguments | None]:
    parser = CifarArgumentParser(DataArguments, prog=prog, description="Show a model in the browser.")
    parser.add_argument("--examples", nargs="+", metavar="IMAGE",
                        help="images to try (default: test images of the data)")  # fmt: skip
    parser.add_argument("--port", type=int, help="port of the page (default: 7860 or the next free one)")
    parser.add_argument("--use_cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--space", metavar="USER/NAME", help="write and push a Hugging Face Space instead")
    parser.add_argument("--no_push", dest="push", action="store_false", help="only write the folder of the Space")
    parser.add_argument("--private", action="store_true", help="make a new Space private; refuse a public one")
    parser.add_argument("--output_dir", metavar="FOLDER", help="folder of the Space (default: its name)")
    options, data_args, _ = parse_with_run_record(parser, argv)
    if options.port is not None and not 1 <= options.port <= 65535:
        raise ValueError(f"--port must be from 1 to 65535, got {options.port}")
    for path in options.examples or ():
        with explained(f"--examples: {path} cannot be read as an image", OSError, ValueError):
            read_rgb_array(path)
    if options.space is not None:
        _check_space(options)
        check_output_folder("--output_dir", _space_folder(options), SPACE_FILES)
        if options.port is not None:
            raise ValueError("--port is of a page on this machine, and --space writes one for the Hub: leave one out")
    else:
        of_a_space = {"output_dir": options.output_dir, "private": options.private, "no_push": not options.push}
        for name, given in of_a_space.items():
            if given:
                raise ValueError(f"--{name} is about a Space: give --space USER/NAME too, or leave it out")
    return options, data_args


def _check_space(options: Namespace) -> None:
    if options.space.count("/") != 1:
        raise ValueError(f"--space needs USER/NAME, got {options.space}")
    with explained(f"--space: {options.space} is no name of a repository", HFValidationError):
        validate_repo_id(options.space)
    if Path(options.checkpoint).is_dir():
        raise ValueError("a Space loads its checkpoint from the Hub: push it and give user/name, not a folder")


def _space_folder(options: Namespace) -> Path:
    return Path(options.output_dir or options.space.split("/")[1])


def _make_space(options: Namespace, title: str, examples: Sequence[str | Path]) -> None:
    """Write the Space, and push its files in one commit."""
    folder = _space_folder(options)
    written = write_space(folder, options.checkpoint, title, examples)
    print(f"Wrote the Space to {folder}; try it: python {folder / 'app.py'}")
    if options.push:
        with explained(f"{folder} is written but not pushed", client.HubError):
            target = client.Target(
                options.space,
                run=options.checkpoint,
                private=options.private or None,
                repo_type="space",
                space_sdk="gradio",
            )
            pushed = client.push_folder(folder, target, message=f"Demo of {options.checkpoint}", names=written)
        print(f"Pushed {pushed.url}")
        if pushed.kept_card:
            print(kept_card_note(folder))
