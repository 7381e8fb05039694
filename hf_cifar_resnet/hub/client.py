"""A client of the Hugging Face Hub: one commit for a folder, retries where the Hub fails, and errors in one line."""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, errors, get_session, get_token, snapshot_download
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, logging

from ..errors import one_line
from ..runs.files import CARD
from .history import History, describe

# The files of a model's repository: no pickle, and no code but the model's own.
PUSHED_SUFFIXES = (".safetensors", ".json", ".py", ".md", ".png")
LAST = "last-checkpoint"
# How the branches begin that hold the state of a training, and the `hub_strategy` that pushes there.
STATE_BRANCHES = {LAST: "checkpoint", "checkpoint-": "all_checkpoints"}
# Seconds before each new attempt; the Hub may ask for longer waits, up to a limit.
WAITS, MAX_WAIT = (1, 2, 4, 8), 300
# Seconds without an answer after which a request fails; `huggingface_hub` itself waits for ever.
TIMEOUT = 60
Result = TypeVar("Result")


class HubError(OSError):
    """An error of the Hub, in one line that says what to do; if it is `temporary`, the same call may succeed later."""

    def __init__(self, message: str, temporary: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.temporary: bool = temporary
        self.retry_after: float | None = retry_after


@dataclass(frozen=True)
class Target:
    """
    A repository on the Hub to push to, and on which terms.

    Args:
        repo_id: `user/repo`, or `repo` of the token's owner; it is created if it is missing.
        run: identifies what is pushed; every commit names it.
        replace: whether the repository may hold another run, which is replaced then.
        private: whether a new repository is private; None leaves it to the owner's settings. A public one that exists
            is refused where a private one is asked for.
        revision: the branch, which is created if it is missing; None is `main`.
        token: by default the one of `hf auth login` or HF_TOKEN.
        repo_type: `model` or `space`.
        space_sdk: of a new Space, such as `gradio`.
    """

    repo_id: str
    run: str | None
    replace: bool = True
    private: bool | None = None
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    repo_type: Literal["model", "space"] = "model"
    space_sdk: str | None = None


@dataclass(frozen=True)
class Pushed:
    """
    What a push has done.

    Attributes:
        url: the address of the repository.
        commit: the last commit of the branch, which holds what was pushed.
        changed: whether that commit was made by this push; without a change there is none.
        kept_card: whether the card on the Hub stayed, since others had changed it.
        replaced: the model of another run that was there before, in words.
    """

    url: str
    commit: str
    changed: bool
    kept_card: bool
    replaced: str | None


@dataclass(frozen=True)
class Access:
    """
    A repository that can be pushed to.

    Attributes:
        repo_id: its full name, even if only `repo` was given.
        replaced: the model of another run that a push replaces, in words.
    """

    repo_id: str
    replaced: str | None


def check_access(target: Target) -> Access:
    """
    Create the repository if it is missing, and check that the token may write to it, that it is private if that is
    asked for, and that it holds no other run that is not to be replaced. Raises [`HubError`] after a single attempt.
    """
    with _reporting_errors(target.repo_id):
        api = _api(target.token)
        name = _create(api, target)
        # This uploads nothing: it asks how a file would be uploaded, which needs the right to write.
        probe = CommitOperationAdd("README.md", b"-")
        api.preupload_lfs_files(name, [probe], revision=target.revision)
        return Access(name, _read_history(api, name, target).describe_other(target.run))


def full_name(repo_id: str, token: str | None = None) -> str:
    """Return `user/repo`, also for `repo` of the token's owner. Raises [`HubError`]."""
    if "/" in repo_id:
        return repo_id
    return _retry(lambda: f"{_api(token).whoami()['name']}/{repo_id}", repo_id)


def push_folder(folder: str | Path, target: Target, *, message: str, names: Iterable[str] | None = None) -> Pushed:
    """
    Push the files of a folder, or those of these relative `names`, as one commit, if anything has changed.

    What others changed since the last push is not replaced: a card stays, and for other files nothing is pushed.
    Raises [`HubError`], after all attempts if the error is temporary.
    """
    if names is None:
        paths = (path for path in Path(folder).rglob("*") if path.suffix in PUSHED_SUFFIXES)
        names = sorted(path.relative_to(folder).as_posix() for path in paths)
    names = list(names)
    _check_secrets(folder, names, target.token)

    def push() -> Pushed:
        api = _api(target.token)
        name = _create(api, target)
        history = _read_history(api, name, target)
        kept_card = history.keeps_card(folder, names, target.run)
        pushed = [path for path in names if path != CARD or not kept_card]
        # Made anew at each attempt, since an operation remembers what it has uploaded.
        additions = [CommitOperationAdd(path, str(Path(folder, path))) for path in pushed]
        logging.set_verbosity_error()  # pushing an unchanged folder is no reason for a warning
        commit = api.create_commit(
            name,
            additions,
            commit_message=message,
            commit_description=describe(target.run, kept_card),
            revision=target.revision,
            repo_type=target.repo_type,
            parent_commit=history.head,
        )
        replaced = history.describe_other(target.run)
        return Pushed(_address(api, name, target), commit.oid, commit.oid != history.head, kept_card, replaced)

    return _retry(push, target.repo_id)


def tag_commit(repo_id: str, tag: str, commit: str, token: str | None = None) -> None:
    """Tag a commit of a model repository. Raises [`HubError`], also if the tag marks another commit."""

    def create_tag() -> None:
        api = _api(token)
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
        if tag not in tags:
            api.create_tag(repo_id, tag=tag, revision=commit)
        elif tags[tag] != commit:
            raise HubError(f"the tag {tag} of {repo_id} marks an older commit: choose another tag")

    _retry(create_tag, repo_id)


def download(reference: str) -> Path:
    """Download `user/repo[@revision]` into the Hub's cache and return its folder. Raises [`HubError`]."""
    repo_id, _, revision = reference.partition("@")

    def snapshot() -> Path:
        patterns = [f"*{suffix}" for suffix in PUSHED_SUFFIXES]
        try:
            return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=patterns))
        except errors.RevisionNotFoundError as error:
            strategy = next((name for branch, name in STATE_BRANCHES.items() if revision.startswith(branch)), None)
            hint = f"; training pushes it with hub_strategy {strategy}" if strategy else ""
            raise HubError(f"{repo_id} has no such revision as {revision}{hint}") from error

    return _retry(snapshot, repo_id)


def _api(token: str | None) -> HfApi:
    token = token or get_token()
    if token is None:
        raise HubError("there is no Hugging Face token: run `hf auth login`, or set HF_TOKEN")
    get_session().timeout = TIMEOUT
    return HfApi(token=token)


def _create(api: HfApi, target: Target) -> str:
    """
    Create the repository and the branch where they are missing, and return the full name. Raises [`HubError`] for a
    public repository where a private one is asked for, since the Hub leaves one that exists as it is.
    """
    name = api.create_repo(
        target.repo_id,
        exist_ok=True,
        repo_type=target.repo_type,
        space_sdk=target.space_sdk,
        private=target.private,
    ).repo_id
    if target.private and not api.repo_info(name, repo_type=target.repo_type).private:
        raise HubError(
            f"{name} exists and is public, and a push leaves it so: make it private at "
            f"{_address(api, name, target)}/settings, choose another name, or do not ask for a private one"
        )
    if target.revision is not None and target.revision != "main":
        api.create_branch(name, branch=target.revision, exist_ok=True, repo_type=target.repo_type)
    return name


def _address(api: HfApi, name: str, target: Target) -> str:
    return f"{api.endpoint}/spaces/{name}" if target.repo_type == "space" else f"{api.endpoint}/{name}"


def _read_history(api: HfApi, name: str, target: Target) -> History:
    head = api.repo_info(name, revision=target.revision, repo_type=target.repo_type).sha
    history = History(api, head, name, target.repo_type)
    if not target.replace:
        history.check_run(target.run)
    return history


def _check_secrets(folder: str | Path, names: Sequence[str], token: str | None) -> None:
    """Raise [`HubError`] for a file that holds the token or the path of a private folder."""
    if not names:
        raise HubError(f"{folder} holds nothing to push")
    private = [str(path) for path in (Path.home(), Path.cwd(), Path(folder).resolve()) if len(path.parts) > 1]
    secret = (token or get_token() or "").encode()
    for name in names:
        content = Path(folder, name).read_bytes()
        if secret and secret in content:
            raise HubError(f"{name} holds your token: remove it before pushing")
        if name.endswith((".safetensors", ".png")):
            continue
        for path in private:
            # Not a part of another path or address.
            if re.search(rb"(?<![\w.-])" + re.escape(path.encode()) + rb"(?![\w-])", content):
                raise HubError(f"{name} names the folder {path} of this machine: remove it before pushing")


def _retry(action: Callable[[], Result], repo_id: str) -> Result:
    if not sys.stderr.isatty() and not are_progress_bars_disabled():
        disable_progress_bars()
    waits = iter(WAITS)
    while True:
        try:
            with _reporting_errors(repo_id):
                return action()
        except HubError as error:
            wait = next(waits, None)
            if not error.temporary or wait is None:
                raise
            time.sleep(min(max(wait, error.retry_after or 0), MAX_WAIT))


@contextlib.contextmanager
def _reporting_errors(repo_id: str) -> Iterator[None]:
    """Turn whatever `huggingface_hub` raises into a [`HubError`]."""
    try:
        yield
    except HubError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        # The upload threads of `huggingface_hub` wrap their exceptions in RuntimeError.
        chain: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None:
            chain.append(cause)
            cause = cause.__cause__ or cause.__context__
        known = next((cause for cause in chain if isinstance(cause, HTTPError)), None)
        response = getattr(known, "response", None)
        if known is not None and response is not None:
            raise _status_error(known, response, repo_id) from error
        if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in chain):
            raise HubError("the Hub is switched off by HF_HUB_OFFLINE") from error
        # An overloaded server answers in HTML, which is no valid JSON.
        if known is not None or any(isinstance(c, (ConnectionError, TimeoutError, JSONDecodeError)) for c in chain):
            raise HubError(f"the Hub cannot be reached: {_shorten(known or error)}", temporary=True) from error
        raise HubError(f"{repo_id}: {_shorten(error)}") from error


def _status_error(error: HTTPError, response: Any, repo_id: str) -> HubError:
    """Return the [`HubError`] for the status code of an answer."""
    status = response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{repo_id} has no such revision")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return HubError(f"there is no {repo_id} on the Hub, or your token may not see it ({status})")
    if status == 401:
        return HubError("the Hub does not accept the token (401): run `hf auth login`, or set HF_TOKEN")
    if status == 403:
        return HubError(f"the token may not write to {repo_id} (403): use one with write access")
    temporary = status in (408, 409, 412, 425, 429) or status >= 500
    after = response.headers.get("Retry-After", "")
    reason = _shorten(getattr(error, "server_message", None) or error)
    message = "the Hub asks to come back later (429)" if status == 429 else f"the Hub answers {status}: {reason}"
    return HubError(message, temporary, float(after) if after.isdigit() else None)


def _shorten(error: object) -> str:
    text = one_line(error) if isinstance(error, BaseException) else " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
