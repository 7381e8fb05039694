"""`push`: push a finished run to the Hub."""

import tempfile
from argparse import Namespace
from collections.abc import Sequence

from ..errors import printable
from ..hub import client
from ..hub.staging import kept_card_note, list_unpushed_files, stage_run
from .line_parser import LineParser


def main(argv: Sequence[str] | None, prog: str | None = None) -> str:
    """Push the folder of a run in one commit. Print and return the repository's address."""
    options = _parse(argv, prog)
    try:
        repo_id = client.full_name(options.repo_id)
        pushed = _push(options, repo_id)
    except client.HubError as error:
        raise client.HubError(f"not pushed: {error}") from error
    print(f"Pushed {pushed.url}" if pushed.changed else f"Nothing new: {pushed.url} holds it already", flush=True)
    if pushed.replaced:
        print(printable(f"It replaces {pushed.replaced}"))
    if pushed.kept_card:
        print(printable(kept_card_note(options.folder)))
    if foreign := list_unpushed_files(options.folder):
        print(printable(f"Left out, since training did not write it: {', '.join(foreign)}"))
    if options.tag is not None:
        try:
            client.tag_commit(repo_id, options.tag, pushed.commit)
        except client.HubError as error:
            raise client.HubError(f"pushed, but not tagged: {error}") from error
    return pushed.url


def _push(options: Namespace, repo_id: str) -> client.Pushed:
    with tempfile.TemporaryDirectory(prefix="hf-cifar-resnet-") as folder:
        run = stage_run(options.folder, repo_id, folder)
        target = client.Target(repo_id, run=run, private=options.private, revision=options.revision)
        return client.push_folder(folder, target, message=options.message)


def _parse(argv: Sequence[str] | None, prog: str | None) -> Namespace:
    parser = LineParser(prog=prog, description="Push a finished run to the Hugging Face Hub.")
    parser.add_argument("folder", help="a folder that training wrote")
    parser.add_argument("repo_id", help="user/name; created if it is missing")
    parser.add_argument(
        "--private", action="store_true", default=None, help="make a new repository private; refuse a public one"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch, created if it is missing (default: main)")
    parser.add_argument("--tag", help="tag for this version, such as v1.0")
    parser.add_argument("--message", is_text=True, default="Push a trained model", help="message of the commit")
    return parser.parse_args(argv)
