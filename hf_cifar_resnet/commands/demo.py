"""`demo`: show a model in the browser, or write its Hugging Face Space."""

import os
import tempfile
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..checkpoints.load import load_checkpoint
from ..checkpoints.outputs import check_output_folder
from ..data.arguments import DataArguments
from ..data.images import read_rgb_array
from ..device import device_for
from ..errors import UserError, explained, require
from ..hub import client
from ..hub.resolve import resolve
from ..hub.staging import kept_card_note
from ..inference.space import SPACE_FILES, write_examples, write_space
from ..runs.files import folder_name
from .parser import CifarArgumentParser, parse_with_run_record


def main(argv, prog=None):
    """Serve the page of a checkpoint until it is stopped, or write and push its Space with `--space`."""
    options, data_args = _parse(argv, prog)
    require("gradio", "demo")
    model, processor = load_checkpoint(resolve(options.checkpoint))
    with tempfile.TemporaryDirectory() as scratch:
        examples = options.examples or write_examples(options.checkpoint, data_args, model, processor, scratch)
        title = f"{folder_name(options.checkpoint)} in {model.config.num_labels} classes"
        if options.space is not None:
            _make_space(options, title, examples)
            return
        page = _import_page()
        blocks = page.build_page(model.to(device_for(options.use_cpu)), processor, title, examples)
        print("Ctrl-C stops it.", flush=True)
        first = os.environ.get("GRADIO_SERVER_PORT")
        port = f"any port from GRADIO_SERVER_PORT={first} on" if first else "any port that it tried"
        port = f"port {options.port}" if options.port else port
        where = f"the page cannot be served at {port}, which may be taken: choose another --port"
        with explained(where, OSError, OverflowError):
            # On this machine only, without a public link.
            blocks.launch(server_name="127.0.0.1", server_port=options.port, share=False)


def _import_page():
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


def _parse(argv, prog):
    parser = CifarArgumentParser(DataArguments, prog=prog, description="Show a model in the browser.")
    parser.add_argument("--examples", nargs="+", metavar="IMAGE",
                        help="images to try (default: test images of the data)")  # fmt: skip
    parser.add_argument("--port", type=int, help="port of the page (default: 7860 or the next free one)")
    parser.add_argument("--use_cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--space", metavar="USER/NAME", help="write and push a Hugging Face Space instead")
    parser.add_argument("--no_push", dest="push", action="store_false", help="only write the folder of the Space")
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.add_argument("--output_dir", metavar="FOLDER", help="folder of the Space (default: its name)")
    options, data_args, _ = parse_with_run_record(parser, argv)
    if options.port is not None and not 1 <= options.port <= 65535:
        raise UserError(f"--port must be from 1 to 65535, got {options.port}")
    for path in options.examples or ():
        with explained(f"--examples: {path} cannot be read as an image", OSError, ValueError):
            read_rgb_array(path)
    if options.space is not None:
        _check_space(options)
    elif options.output_dir is not None:
        raise UserError("--output_dir is the folder of a Space: give --space USER/NAME too, or leave it out")
    return options, data_args


def _check_space(options):
    if options.space.count("/") != 1:
        raise UserError(f"--space needs USER/NAME, got {options.space}")
    with explained(f"--space: {options.space} is no name of a repository", HFValidationError):
        validate_repo_id(options.space)
    if Path(options.checkpoint).is_dir():
        raise UserError("a Space loads its checkpoint from the Hub: push it and give user/name, not a folder")
    folder = options.space_folder = Path(options.output_dir or options.space.split("/")[1])
    check_output_folder("--output_dir", folder, SPACE_FILES)


def _make_space(options, title, examples):
    """Write the Space, and push its files in one commit."""
    folder = options.space_folder
    written = write_space(folder, options.checkpoint, title, examples)
    print(f"Wrote the Space to {folder}; try it: python {folder / 'app.py'}")
    if options.push:
        with explained(f"{folder} is written but not pushed", client.HubError):
            pushed = client.push_folder(
                folder, options.space, message=f"Demo of {options.checkpoint}", run=options.checkpoint, names=written,
                repo_type="space", space_sdk="gradio", private=options.private or None,
            )  # fmt: skip
        print(f"Pushed {pushed.url}")
        if pushed.kept_card:
            print(kept_card_note(folder))
