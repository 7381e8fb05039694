"""A client of the Hugging Face Hub: one commit for a folder, retries where the Hub fails, and errors in one line."""

import contextlib
import re
import sys
import time
from json import JSONDecodeError
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, errors, get_session, get_token, snapshot_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, logging

from ..errors import one_line
from ..runs.files import CARD
from .history import History, describe

# The files of a model's repository: no pickle, and no code but the model's own.
PUSHED_SUFFIXES = (".safetensors", ".json", ".py", ".md", ".png")
# Seconds before each new attempt; the Hub may ask for longer waits, up to a limit.
WAITS, LONGEST_WAIT = (1, 2, 4, 8), 300
# Seconds without an answer after which a request fails; `huggingface_hub` itself waits for ever.
TIMEOUT = 60


class HubError(OSError):
    """An error of the Hub, in one line that says what to do; if it is `temporary`, the same call may succeed later."""

    def __init__(self, message: str, temporary: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.temporary, self.retry_after = temporary, retry_after


class Pushed(NamedTuple):
    """The address of a repository, whether a commit was made, and whether the card that others changed stays there."""

    url: str
    changed: bool
    kept_card: bool


def check_access(repo_id, *, run, replace=True, private=None, revision=None, token=None):
    """
    Create the model repository if it is missing, and check that the token may write to it, and without `replace` that
    it holds no other run than the one with the id `run`. Return its full name, even if only `repo` was given. Raises
    [`HubError`] after a single attempt.
    """
    with _reporting_errors(repo_id):
        api = _api(token)
        repo_id = _create(api, repo_id, revision, private=private)
        # This uploads nothing: it asks how a file would be uploaded, which needs the right to write.
        probe = CommitOperationAdd("README.md", b"-")
        api.preupload_lfs_files(repo_id, [probe], revision=revision)
        _read_history(api, repo_id, revision, run, replace)
    return repo_id


def full_name(repo_id, token=None):
    """Return `user/repo`, also for `repo` of the token's owner. Raises [`HubError`]."""
    if "/" in repo_id:
        return repo_id
    return _retry(lambda: f"{_api(token).whoami()['name']}/{repo_id}", repo_id)


def push_folder(folder, repo_id, *, message, run, replace=True, names=None, private=None, revision=None, tag=None,
                token=None, repo_type="model", space_sdk=None):  # fmt: skip
    """
    Push the files of a folder, or those of these relative `names`, as one commit, if anything has changed, to
    `user/repo`, or `repo` of the token's owner; it and the branch are created if they are missing. The commit names the
    id `run` of what is pushed.

    What others changed since the last push is not replaced: a card stays, and for other files nothing is pushed. Nor is
    another run without `replace`.

    Return [`Pushed`]. Raises [`HubError`], after all attempts if the error is temporary.
    """
    if names is None:
        paths = (path for path in Path(folder).rglob("*") if path.suffix in PUSHED_SUFFIXES)
        names = sorted(path.relative_to(folder).as_posix() for path in paths)
    _check_secrets(folder, names, token)

    def push():
        api = _api(token)
        name = _create(api, repo_id, revision, repo_type=repo_type, space_sdk=space_sdk, private=private)
        history = _read_history(api, name, revision, run, replace, repo_type)
        kept_card = history.keeps_card(folder, names, run)
        pushed = [path for path in names if path != CARD or not kept_card]
        # Made anew at each attempt, since an operation remembers what it has uploaded.
        additions = [CommitOperationAdd(path, str(Path(folder, path))) for path in pushed]
        logging.set_verbosity_error()  # pushing an unchanged folder is no reason for a warning
        commit = api.create_commit(
            name, additions, commit_message=message, commit_description=describe(run, kept_card),
            revision=revision, repo_type=repo_type, parent_commit=history.head,
        )  # fmt: skip
        if tag is not None:
            _tag(api, name, tag, commit.oid, repo_type)
        url = f"{api.endpoint}/{'spaces/' * (repo_type == 'space')}{name}"
        return Pushed(url, commit.oid != history.head, kept_card)

    return _retry(push, repo_id)


def download(reference):
    """Download `user/repo[@revision]` into the Hub's cache and return its folder. Raises [`HubError`]."""
    repo_id, _, revision = str(reference).partition("@")
    patterns = [f"*{suffix}" for suffix in PUSHED_SUFFIXES]
    return _retry(lambda: Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=patterns)), repo_id)


def _api(token):
    token = token or get_token()
    if token is None:
        raise HubError("there is no Hugging Face token: run `hf auth login`, or set HF_TOKEN")
    get_session().timeout = TIMEOUT
    return HfApi(token=token)


def _create(api, repo_id, revision, **options):
    name = api.create_repo(repo_id, exist_ok=True, **options).repo_id
    if revision is not None and revision != "main":
        api.create_branch(name, branch=revision, exist_ok=True, repo_type=options.get("repo_type"))
    return name


def _read_history(api, repo_id, revision, run, replace, repo_type="model"):
    head = api.repo_info(repo_id, revision=revision, repo_type=repo_type).sha
    history = History(api, head, repo_id=repo_id, repo_type=repo_type)
    if not replace:
        history.check_run(run)
    return history


def _tag(api, repo_id, tag, commit, repo_type):
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id, repo_type=repo_type).tags}
    if tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=commit, repo_type=repo_type)
    elif tags[tag] != commit:
        raise HubError(f"pushed to {repo_id}, but the tag {tag} marks an older commit: choose another --tag")


def _check_secrets(folder, names, token):
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


def _retry(action, repo_id):
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
            time.sleep(min(max(wait, error.retry_after or 0), LONGEST_WAIT))


@contextlib.contextmanager
def _reporting_errors(repo_id):
    """Turn whatever `huggingface_hub` raises into a [`HubError`]."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        # The upload threads of `huggingface_hub` wrap their exceptions in RuntimeError.
        chain, cause = [], error
        while cause is not None:
            chain.append(cause)
            cause = cause.__cause__ or cause.__context__
        known = next((cause for cause in chain if isinstance(cause, errors.HTTPError)), None)
        if getattr(known, "response", None) is not None:
            raise _status_error(known, repo_id) from error
        if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in chain):
            raise HubError("the Hub is switched off by HF_HUB_OFFLINE") from error
        # An overloaded server answers in HTML, which is no valid JSON.
        if known is not None or any(isinstance(c, (ConnectionError, TimeoutError, JSONDecodeError)) for c in chain):
            raise HubError(f"the Hub cannot be reached: {_shorten(known or error)}", temporary=True) from error
        if isinstance(error, (OSError, ValueError, RuntimeError)):
            raise HubError(f"{repo_id}: {_shorten(error)}") from error
        raise


def _status_error(error, repo_id):
    """Return the [`HubError`] for the status code of an answer."""
    status = error.response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{repo_id} has no such revision")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return HubError(f"there is no {repo_id} on the Hub, or your token may not see it ({status})")
    if status == 401:
        return HubError("the Hub does not accept the token (401): run `hf auth login`, or set HF_TOKEN")
    if status == 403:
        return HubError(f"the token may not write to {repo_id} (403): use one with write access")
    temporary = status in (408, 409, 412, 425, 429) or status >= 500
    after = error.response.headers.get("Retry-After", "")
    reason = _shorten(getattr(error, "server_message", None) or error)
    message = "the Hub asks to come back later (429)" if status == 429 else f"the Hub answers {status}: {reason}"
    return HubError(message, temporary, float(after) if after.isdigit() else None)


def _shorten(error):
    text = one_line(error)
    return text if len(text) <= 200 else text[:197] + "..."
