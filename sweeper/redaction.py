"""Tokens and passwords: where they are looked for, and how they are kept out of what is written.

What may not leave a study's folder goes through `redacted`; a configuration that has a secret in it is refused.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote

HIDDEN = "[redacted]"
_MIN_LENGTH = 6  # of a secret that is looked for by its value; a shorter one would be found everywhere
_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|PASS|PASSPHRASE|PGPASSWORD|SECRET|API_?KEY|ACCESS_KEY|KEY)(?:$|_)"
)
_NO_SECRET = re.compile("(?i)true|false|none|null")
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|sk-[A-Za-z0-9_-]{20,}|xox[abp]-[A-Za-z0-9-]{10,}|AKIA[A-Z0-9]{16}|dapi[a-f0-9]{32})"
)
# The password of `scheme://user:password@host`; it may have an @ that was not escaped.
_URL_PASSWORD = re.compile(r"(?P<before>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:)(?P<password>[^\s/]+)(?=@[^\s@/]+)")
_URL_PARAMETER = re.compile(r"(?P<before>[?&](?:ssl)?password=)(?P<password>[^\s&#'\"]+)")  # as libpq has it
_URL_USER = re.compile(r"://(?P<user>[^\s/:@]+)@")


def redacted(text: str) -> str:
    """`text` without the secrets of the environment, the tokens that have a known form, and the passwords in URLs."""
    for value in sorted(_known_values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _without_form(text)


def _without_form(text: str) -> str:
    for password in (_URL_PASSWORD, _URL_PARAMETER):
        text = password.sub(rf"\g<before>{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


class RedactedStream:
    """A text stream that redacts what goes to another one, a line at a time: a secret may be written in pieces."""

    def __init__(self, stream: TextIO | io.TextIOBase) -> None:
        self._stream = stream
        self._line = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            whole = self._line + text
            end = max(whole.rfind("\n"), whole.rfind("\r")) + 1
            self._line = whole[end:]
            self._stream.write(redacted(whole[:end]))
        return len(text)

    def finish(self) -> None:
        """Writes the last line, where that has no end."""
        self.write("\n" if self._line else "")
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def secret_keys(values: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a configuration whose text has a token or a password in it, or is a secret of the environment.

    It must be that as a whole: a password of the environment that is a common word may well stand in a prompt.
    """
    if isinstance(values, str):
        if _without_form(values) != values or values.strip() in _known_values():
            yield prefix
    elif isinstance(values, Mapping):
        for key, item in values.items():
            yield from secret_keys(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(values, Sequence) and not isinstance(values, bytes):
        for index, item in enumerate(values):
            yield from secret_keys(item, f"{prefix}[{index}]")


def _known_values() -> set[str]:
    """The values of the environment's secrets, and the token that `hf auth login` keeps."""
    values = {value for name, value in os.environ.items() if _VARIABLE.search(name.upper())}
    for variable in ("MLFLOW_TRACKING_URI", "DATABASE_URL", "SWEEPER_OPTUNA"):
        for form in (_URL_PASSWORD, _URL_PARAMETER):
            if found := form.search(os.environ.get(variable, "")):
                values |= {found["password"], unquote(found["password"])}
    if match := _URL_USER.search(os.environ.get("MLFLOW_TRACKING_URI", "")):  # a token may stand for name and password
        values.add(match["user"])
    if token := _login_token():
        values.add(token)
    return {value for value in values if len(value) >= _MIN_LENGTH and not _NO_SECRET.fullmatch(value)}


def _login_token() -> str | None:
    # As huggingface_hub finds it; it takes most of a second to import.
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
