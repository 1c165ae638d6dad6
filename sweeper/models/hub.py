"""A model on the Hugging Face Hub, before it is downloaded: its commit, its files, and whether one may have them.

Where the Hub cannot be reached, or HF_HUB_OFFLINE says not to, the local cache answers. huggingface_hub is imported
when it is asked for, for only then is it needed; it reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.schema import ModelSection
from sweeper.errors import ModelError
from sweeper.models import contents
from sweeper.models.origin import CONFIG, TOKENIZERS, read_of, weights_of

TIMEOUT_S = 10.0
MAX_REFS = 8  # that are listed where a revision is not there
LOGIN = "set HF_TOKEN, or log in with `hf auth login`"
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Snapshot:
    """A model at one commit.

    Attributes:
        files: what is read of it, with sizes in bytes.
        missing_bytes: of these, what is not in the cache yet.
        config: of transformers, as published.
        moved: where the branch is by now, if it is not at the commit that is kept; None: it is, or nobody knows.
    """

    commit: str
    files: Mapping[str, int]
    missing_bytes: int
    config: Mapping[str, Any]
    moved: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())


def cache_folder() -> Path:
    """Where the Hub's files are kept on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def snapshot(section: ModelSection, kept: str | None = None) -> Snapshot:
    """Looks at a model of the Hub; downloads no more than its configuration.

    Args:
        kept: the commit that a study was begun with; None: the one that `model.revision` is at now.

    Raises:
        ModelError: if it does not exist, may not be read, cannot be loaded, or can be neither reached nor found in
            the cache.
    """
    assert section.path is not None
    if kept is not None and (cached := _cached(section.path, kept)) and not cached.lacking:
        return _checked(section, cached, _moved(section, kept))
    asked = kept or section.revision
    try:
        return _checked(section, _online(section.path, asked), None if kept is None else _moved(section, kept))
    except _UnreachableError as error:
        commit = kept or _commit_in_cache(section.path, section.revision)
        found = _cached(section.path, commit) if commit else None
        if found is None or found.lacking:
            raise ModelError(_not_here(section, found, str(error))) from None
        return _checked(section, found, None)


def cached_folder(section: ModelSection) -> Path | None:
    """The folder that the cache has of a section's revision; asks the Hub nothing, and downloads nothing.

    Returns:
        None where there is no configuration in it; what else there is in it, only its files say.
    """
    from huggingface_hub.errors import HFValidationError

    assert section.path is not None
    try:
        commit = _commit_in_cache(section.path, section.revision)
    except HFValidationError:  # no name that the Hub could have
        return None
    found = _cached(section.path, commit) if commit else None
    return found.folder if found else None


class _UnreachableError(Exception):
    """The Hub gave no answer; the reason is its text."""


@dataclass(frozen=True)
class _Found:
    """The files of a commit, on the Hub or in the cache."""

    commit: str
    names: list[str]  # all of them
    files: dict[str, int]  # those that are read
    folder: Path  # with the configuration
    lacking: list[str]  # what would have to be in the cache too


def _online(path: str, revision: str | None) -> _Found:
    """Asks the Hub.

    Raises:
        ModelError: if it says no.
        _UnreachableError: if it says nothing.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]

    try:
        info = HfApi().model_info(path, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if CONFIG not in sizes:
            raise ModelError(contents.refusal(path, list(sizes), {}) or "")
        for name in weights_of(sizes)[:1]:  # a gated model's listing is open, and its configuration may be cached
            get_hf_file_metadata(hf_hub_url(path, name, revision=info.sha), timeout=TIMEOUT_S)
        file = Path(hf_hub_download(path, CONFIG, revision=info.sha))
    except HFValidationError as error:
        raise ModelError(f"model.path: must be a folder, or ORGANISATION/MODEL on the Hub, but is {path!r}") from error
    except (LocalEntryNotFoundError, ConnectionError) as error:  # the second where HF_HUB_OFFLINE is set
        raise _UnreachableError(_reason(error)) from None
    except HTTPError as error:
        raise ModelError(_refusal(path, revision, error)) from None
    except OSError as error:  # after those above, some of which are one
        raise ModelError(
            f"model.path: the Hub's cache must be a folder that can be written, but {cache_folder()}: "
            f"{error.strerror or error}. Set HF_HOME to another one, or HF_HUB_OFFLINE=1 where it has the model"
        ) from None
    assert info.sha is not None
    files = {name: sizes[name] for name in read_of(sizes)}
    return _Found(info.sha, list(sizes), files, file.parent, [])


def _reason(error: Exception) -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{type(error).__name__}: {error}".split("\n")[0]


def _refusal(path: str, revision: str | None, error: Exception) -> str:
    """Why the Hub does not give a model, in words.

    Raises:
        _UnreachableError: if it is not that it does not want to.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page, has_token = f"{constants.ENDPOINT}/{path}", get_token() is not None
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code is None or code >= 500 or code == 429:
        raise _UnreachableError(_reason(error)) from None
    if isinstance(error, GatedRepoError):
        if has_token:
            return (
                f"model.path: {path} is gated, and the account of the token that is set has no access to it; accept "
                f"its licence at {page}, or {LOGIN} with an account that has"
            )
        return f"model.path: {path} is gated; accept its licence at {page}, and {LOGIN} with the account that did"
    if isinstance(error, RevisionNotFoundError):
        return f"model.revision: {path} has no revision {revision!r}; it has {_refs(path)}"
    if isinstance(error, RepositoryNotFoundError) and not (has_token and code == 401):
        whose = "the token that is set may not read it" if has_token else f"it is private: then {LOGIN}"
        return f"model.path: there is no model {path} at {constants.ENDPOINT}, or {whose}"
    if code == 401:
        return (
            f"model.path: the Hub's token must be valid, but {constants.ENDPOINT} refuses it for {path}; {LOGIN} anew"
        )
    return f"model.path: {page} may not be read with the token that is set ({code}); {LOGIN} with one that may"


def _refs(path: str) -> str:
    """The branches and tags of a model, in words."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        refs = HfApi().list_repo_refs(path)
    except HTTPError:  # they are for a hint
        return "others"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    more = f" and {len(names) - MAX_REFS} more" if len(names) > MAX_REFS else ""
    return f"{', '.join(names[:MAX_REFS]) or 'none'}{more}, and each commit of these"


def _moved(section: ModelSection, kept: str) -> str | None:
    """The commit that the study's branch or tag is at by now, where that is another one."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        now = HfApi().model_info(str(section.path), revision=section.revision, timeout=TIMEOUT_S).sha
    except (HTTPError, ConnectionError):  # it is not needed: the study has its commit
        return None
    return now if now != kept else None


def _commit_in_cache(path: str, revision: str | None) -> str | None:
    """The commit that a branch, a tag or the beginning of a commit was, when it was downloaded."""
    from huggingface_hub import HfApi, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound, RevisionResolutionError

    try:
        found = HfApi().resolve_revision(path, revision=revision, local_files_only=True)
    except RevisionResolutionError:
        pass
    else:
        return str(found.resolved)
    if revision is None or not _COMMIT.fullmatch(revision):
        return None
    try:
        repos = scan_cache_dir(cache_folder()).repos
    except CacheNotFound:
        return None
    commits = {r.commit_hash for repo in repos if repo.repo_id == path for r in repo.revisions}
    near = [commit for commit in commits if commit.startswith(revision)]
    return near[0] if len(near) == 1 else None


def _cached(path: str, commit: str) -> _Found | None:
    """What the cache has of a commit, and what it lacks; None where it does not even have the configuration."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(path, CONFIG, revision=commit)
    if not isinstance(file, str):
        return None
    folder = Path(file).parent
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    files = {name: (folder / name).stat().st_size for name in read_of(names)}
    lacking = [name for name in contents.parts(folder) if name not in names]
    if not lacking and not weights_of(names):
        lacking.append("weights")
    if not set(TOKENIZERS) & set(names):
        lacking.append("tokenizer")
    return _Found(commit, names, files, folder, lacking)


def _checked(section: ModelSection, found: _Found, moved: str | None) -> Snapshot:
    """A model that can be loaded.

    Raises:
        ModelError: if it cannot be.
    """
    from huggingface_hub import try_to_load_from_cache

    path = str(section.path)
    config = contents.read(found.folder / CONFIG)
    if reason := contents.refusal(path, found.names, config, section.trust_remote_code):
        raise ModelError(reason)
    missing = sum(
        size
        for name, size in found.files.items()
        if not isinstance(try_to_load_from_cache(path, name, revision=found.commit), str)
    )
    return Snapshot(found.commit, found.files, missing, config, moved)


def _not_here(section: ModelSection, found: _Found | None, reason: str) -> str:
    path, revision = section.path, section.revision
    what = f"lacks {', '.join(found.lacking)} of it" if found else "does not have it"
    at = f" --revision {found.commit if found else revision}" if found or revision else ""
    return (
        f"model.path: {path!r} must be a folder, or a Hub id that is reachable or cached, but the Hub is not reached "
        f"({reason}), and the cache {cache_folder()} {what}. Where there is a network, `hf download {path}{at}` fills "
        f"one; copy its folder models--{str(path).replace('/', '--')} to here, or let HF_HOME name a copy"
    )
