"""What a branch on the Hub holds by its history: the run that was pushed to it last, and what others changed since."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from ..runs.files import CARD

# The description of every commit of ours, by which a later push knows it again.
_OURS = re.compile(r"Pushed by hf-cifar-resnet, run ([^\s,]+)(, without its card)?")


def describe(run: str | None, without_card: bool) -> str:
    """Return the description of a commit that pushes the run with this `id`, and the card or not."""
    note = ", without its card" if without_card else ""
    return f"Pushed by hf-cifar-resnet, run {run}{note}"


class History:
    """
    The history of a branch up to the commit `head`, whose last commit of ours pushed the run `run`; None if there is
    none.
    """

    def __init__(self, api: HfApi, head: str | None, repo_id: str, repo_type: str) -> None:
        self.api: HfApi = api
        self.head: str | None = head
        self.repo_id: str = repo_id
        self.repo_type: str = repo_type
        commits = api.list_repo_commits(repo_id, revision=head, repo_type=repo_type)
        ours: list[tuple[str, str | None, bool]] = []  # commit, run, and whether it left out the card
        for commit in commits:
            if found := _OURS.search(commit.message):
                ours.append((commit.commit_id, found[1], found[2] is not None))
        if repo_type == "space" and not ours:
            # The Hub writes a card of its own when it makes a Space.
            ours.append((commits[-1].commit_id, None, False))
        self._last, run, _ = ours[0] if ours else (None, None, False)
        self.run: str | None = run
        self._with_card = next((commit for commit, _, without_card in ours if not without_card), None)

    def describe_other(self, run: str | None) -> str | None:
        """Return in words which model the branch holds that is not of this run, or None where there is none."""
        if self.run == run or (self.run is None and not self._files(self.head, ["config.json"])):
            return None
        model = "a model of another origin" if self.run is None else f"the model of run {self.run}"
        return f"{model}, which stays in the history as commit {(self.head or '')[:7]}"

    def check_run(self, run: str | None) -> None:
        """Raise `ValueError` if the branch holds another run, or a model that was not pushed by us."""
        if self.describe_other(run) is not None:
            raise ValueError(
                "it holds another model or run: name another repository with hub_model_id, or this one to replace it"
            )

    def keeps_card(self, folder: str | Path, names: Sequence[str], run: str | None) -> bool:
        """
        Return whether the card has to stay, since others changed it after our last push of this run. Raises
        `ValueError` if they changed another one of the files `names`, or the card of another run.
        """
        if self.head == self._last == self._with_card:
            return False
        known = {**self._files(self._last, names), CARD: None, **self._files(self._with_card, [CARD])}
        found = self._files(self.head, names)
        changed = [name for name, file in found.items() if known.get(name) != file != _hash(folder, name, file)]
        same_run = self.run in (None, run)
        wrong = [name for name in changed if name != CARD or not same_run]
        # Who names a repository that we have never pushed to means to replace its model.
        if wrong and self._last is not None:
            raise ValueError(
                f"others have written or changed its {wrong[0]} since the last push, which would replace it: delete it "
                "there first, or choose another repository"
            )
        return CARD in changed

    def _files(self, commit: str | None, names: Sequence[str]) -> dict[str, str]:
        """Return the hash of each of these files that a commit has: LFS's SHA-256 of a large file, or Git's SHA-1."""
        if commit is None:
            return {}
        infos = self.api.get_paths_info(self.repo_id, list(names), revision=commit, repo_type=self.repo_type)
        files = [info for info in infos if isinstance(info, RepoFile)]
        return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}


def _hash(folder: str | Path, name: str, like: str) -> str:
    """Return the hash of a local file of the kind of `like`."""
    content = Path(folder, name).read_bytes()
    if len(like) == 64:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
