"""`push`: push a finished run to the Hub."""

import tempfile

from ..errors import explained, printable
from ..hub import client
from ..hub.staging import kept_card_note, list_unpushed_files, stage_run
from .line_parser import LineParser


def main(argv, prog=None):
    """Push the folder of a run in one commit. Print and return the repository's address."""
    options = _parse(argv, prog)
    where = {"private": options.private, "revision": options.revision, "tag": options.tag}
    with (
        tempfile.TemporaryDirectory(prefix="hf-cifar-resnet-") as folder,
        explained("not pushed", client.HubError),
    ):
        repo_id = client.full_name(options.repo_id)
        run = stage_run(options.folder, repo_id, folder)
        pushed = client.push_folder(folder, repo_id, message=options.message, run=run, **where)
    print(f"Pushed {pushed.url}" if pushed.changed else f"Nothing new: {pushed.url} holds it already")
    if pushed.kept_card:
        print(printable(kept_card_note(options.folder)))
    if foreign := list_unpushed_files(options.folder):
        print(printable(f"Left out, since training did not write it: {', '.join(foreign)}"))
    return pushed.url


def _parse(argv, prog):
    parser = LineParser(prog=prog, description="Push a finished run to the Hugging Face Hub.")
    parser.add_argument("folder", help="a folder that training wrote")
    parser.add_argument("repo_id", help="user/name; created if it is missing")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch, created if it is missing (default: main)")
    parser.add_argument("--tag", help="tag for this version, such as v1.0")
    parser.add_argument("--message", default="Push a trained model", help="message of the commit")
    return parser.parse_args(argv)
