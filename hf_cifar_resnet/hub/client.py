"""The Hugging Face Hub: one commit for a folder, tried again where the Hub fails, and errors in one line."""

import contextlib
import re
import sys
import time
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_session, get_token, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, logging, validate_repo_id

# What a repository of a model holds: no pickle, nothing that runs but the model's own code.
PUBLISHED = (".safetensors", ".json", ".py", ".md", ".png")
# Seconds before each new attempt.
WAITS = (1, 2, 4, 8)
# The Hub may ask for longer waits; this is as long as we follow.
LONGEST_WAIT = 300
# Seconds in which a Hub that is there sends or takes something; `huggingface_hub` itself waits for ever.
SILENCE = 60
_REFERENCE = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:@.+)?")


class HubError(Exception):
    """
    What went wrong on the Hub, in one line that says what to do.

    Attributes:
        temporary (`bool`): whether the same call may succeed later.
    """

    def __init__(self, message, temporary=False, retry_after=None):
        super().__init__(message)
        self.temporary, self.retry_after = temporary, retry_after


@dataclass
class Pushed:
    """A repository after a push: its address, the commit it is at, and whether this push made that commit."""

    url: str
    commit: str
    changed: bool


def check_name(repo_id):
    """Raises [`HubError`] for what cannot be the name of a repository."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{repo_id} is no name of a repository, such as user/name: {_one_line(error)}") from error


def check_access(repo_id, *, private=None, revision=None, token=None):
    """
    Creates the model repository where it is missing, and makes sure that the token may write to it.

    Returns:
        The full name, `user/repo`, also where only `repo` was given.

    Raises:
        HubError: without attempts to repeat it.
    """
    check_name(repo_id)
    with _in_words(repo_id):
        api = _api(token)
        repo_id = _create(api, repo_id, revision, private=private)
        # Asks how a file would have to be uploaded, which only those who may write are told. Uploads nothing.
        probe = CommitOperationAdd("README.md", b"-")
        api.preupload_lfs_files(repo_id, [probe], revision=revision)
    return repo_id


def push_folder(folder, repo_id, *, message, names=None, private=None, revision=None, tag=None, token=None,
                repo_type="model", space_sdk=None):  # fmt: skip
    """
    The files of a folder as one commit. Pushed twice, an unchanged folder makes no second commit.

    Args:
        folder (`str` or `Path`).
        repo_id (`str`): `user/repo`, or `repo` of the token's owner; created where it is missing.
        message (`str`): of the commit.
        names (list of `str`, *optional*): the files, relative to the folder; all that a model's repository holds, if
            not given.
        private (`bool`, *optional*): of a new repository.
        revision (`str`, *optional*): the branch, created where it is missing; `main` by default.
        tag (`str`, *optional*): given to the commit.
        token (`str`, *optional*): the one that `hf auth login` or `HF_TOKEN` left, by default.

    Returns:
        [`Pushed`]

    Raises:
        HubError: after all attempts, or at once where another attempt would not help.
    """
    check_name(repo_id)
    names = files_of(folder) if names is None else names
    _check_files(folder, names, token)

    def push():
        api = _api(token)
        name = _create(api, repo_id, revision, repo_type=repo_type, space_sdk=space_sdk, private=private)
        before = api.repo_info(name, revision=revision, repo_type=repo_type).sha
        # An operation belongs to one attempt: it remembers what was uploaded.
        additions = [CommitOperationAdd(path, str(Path(folder, path))) for path in names]
        with _only_errors_logged():
            commit = api.create_commit(name, additions, commit_message=message, revision=revision, repo_type=repo_type)
        if tag is not None:
            _tag(api, name, tag, commit.oid, repo_type)
        return Pushed(f"{api.endpoint}/{'spaces/' * (repo_type == 'space')}{name}", commit.oid, commit.oid != before)

    return _retried(push, repo_id)


def files_of(folder):
    """Paths of the files that a model's repository holds, relative to the folder and sorted; none hidden, no links."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()]
    paths = [path.relative_to(folder) for path in paths if path.suffix in PUBLISHED]
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def is_reference(text):
    """Whether a text is `user/repo` or `user/repo@revision`, and no folder here."""
    return _REFERENCE.fullmatch(str(text)) is not None and not Path(text).exists()


def download(reference, folder=None):
    """
    The files of `user/repo` or `user/repo@revision`, in the Hub's cache or copied into a folder.

    Returns:
        The `Path` where they are.

    Raises:
        HubError: if they cannot be had.
    """
    repo_id, _, revision = str(reference).partition("@")
    patterns = [f"*{suffix}" for suffix in PUBLISHED]

    def fetch():
        return Path(snapshot_download(repo_id, revision=revision or None, local_dir=folder, allow_patterns=patterns))

    return _retried(fetch, repo_id)


def _api(token):
    token = token or get_token()
    if token is None:
        raise LocalTokenNotFoundError
    get_session().timeout = SILENCE
    return HfApi(token=token)


def _create(api, repo_id, revision, **options):
    name = api.create_repo(repo_id, exist_ok=True, **options).repo_id
    if revision is not None and revision != "main":
        api.create_branch(name, branch=revision, exist_ok=True, repo_type=options.get("repo_type"))
    return name


def _tag(api, repo_id, tag, commit, repo_type):
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id, repo_type=repo_type).tags}
    if tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=commit, repo_type=repo_type)
    elif tags[tag] != commit:
        raise HubError(f"pushed to {repo_id}, but the tag {tag} marks an older commit: choose another --tag")


def _check_files(folder, names, token):
    """Raises [`HubError`] for a file that tells the token, or where on this machine something lies."""
    if not names:
        raise HubError(f"{folder} holds nothing to push")
    places = {
        str(place).encode() for place in (Path.home(), Path.cwd(), Path(folder).resolve()) if len(place.parts) > 1
    }
    secret = (token or get_token() or "").encode()
    for name in names:
        content = Path(folder, name).read_bytes()
        if secret and secret in content:
            raise HubError(f"{name} holds your token: remove it before pushing")
        if not name.endswith((".safetensors", ".png")):
            found = next((place for place in places if place in content), None)
            if found:
                raise HubError(f"{name} names the folder {found.decode()} of this machine: remove it before pushing")


def _retried(action, repo_id):
    if not sys.stderr.isatty() and not are_progress_bars_disabled():
        disable_progress_bars()
    for wait in (*WAITS, None):
        try:
            with _in_words(repo_id):
                return action()
        except HubError as error:
            if wait is None or not error.temporary:
                raise
            time.sleep(min(max(wait, error.retry_after or 0), LONGEST_WAIT))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _in_words(repo_id):
    """Turns whatever `huggingface_hub` raises into a [`HubError`]."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:  # its upload threads wrap theirs in RuntimeError
        chain = list(_causes(error))
        known = next((cause for cause in chain if isinstance(cause, (HTTPError, LocalTokenNotFoundError))), None)
        if isinstance(known, LocalTokenNotFoundError):
            raise HubError("there is no Hugging Face token: run `hf auth login`, or set HF_TOKEN") from error
        if getattr(known, "response", None) is not None:
            raise _answered(known, repo_id) from error
        if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
            raise HubError("the Hub is switched off by HF_HUB_OFFLINE") from error
        # JSON is what is expected of a server, but an overloaded one answers in HTML.
        if known is not None or any(isinstance(c, (ConnectionError, TimeoutError, JSONDecodeError)) for c in chain):
            raise HubError(f"the Hub cannot be reached: {_one_line(known or error)}", temporary=True) from error
        if isinstance(error, (OSError, ValueError, RuntimeError)):
            raise HubError(f"{repo_id}: {_one_line(error)}") from error
        raise


def _answered(error, repo_id):
    """What a status code means for the user."""
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{repo_id} has no such revision")
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return HubError("the Hub does not accept the token (401): run `hf auth login`, or set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return HubError(f"there is no {repo_id} on the Hub, or your token may not see it ({status})")
    if status == 403:
        return HubError(f"the token may not write to {repo_id} (403): use one with write access")
    temporary = status in (408, 409, 412, 425, 429) or status >= 500
    after = error.response.headers.get("Retry-After", "")
    reason = _one_line(getattr(error, "server_message", None) or error)
    message = "the Hub asks to come back later (429)" if status == 429 else f"the Hub answers {status}: {reason}"
    return HubError(message, temporary, float(after) if after.isdigit() else None)


def _causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


@contextlib.contextmanager
def _only_errors_logged():
    # "No files have been modified" is no news to those who push twice.
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


__all__ = ["HubError", "Pushed", "check_access", "check_name", "download", "files_of", "is_reference", "push_folder"]
