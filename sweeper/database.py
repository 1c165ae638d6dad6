"""The address of the database that a store's studies are in, where that is not a file of the store's own.

No password is ever kept or shown: libpq finds it in PGPASSWORD or ~/.pgpass, or the whole address stands in the
variable SWEEPER_OPTUNA, where it is looked for each time.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

VARIABLE = "SWEEPER_OPTUNA"
CREDENTIALS = f"PGPASSWORD or ~/.pgpass, or the whole address as {VARIABLE}"
_DRIVER = "postgresql+psycopg"
_SCHEMES = ("postgresql", "postgres", _DRIVER)
_SECRETS = ("password", "sslpassword")  # of libpq's parameters


def database_problems(where: str, url: str) -> list[str]:
    """Why an address is not one that studies can be in.

    Args:
        where: the key or the variable that it stands in.
    """
    try:
        parts = urlsplit(url, allow_fragments=False)
        is_server = parts.scheme in _SCHEMES and "://" in url and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        is_server = False
    if is_server:
        return []
    shown = repr(url) if "@" not in url and "password" not in url else "one of another form"
    return [
        f"{where}: must be a PostgreSQL database's address, postgresql+psycopg://USER@HOST:PORT/DATABASE, but got "
        f"{shown}; without one, studies are in an SQLite file in the store, which is enough for one machine"
    ]


def normalised(url: str) -> str:
    """The address with the driver that is used: postgresql:// alone would be another one's."""
    scheme, _, rest = url.partition("://")
    return f"{_DRIVER}://{rest}" if scheme in _SCHEMES else url


def without_password(url: str) -> str:
    """The address as it may be shown and kept."""
    parts = urlsplit(url, allow_fragments=False)
    user, at, host = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _SECRETS]
    netloc = f"{user.partition(':')[0]}{at}{host}"
    # Not `geturl`, which leaves the slashes out where there is no host: postgresql:///DATABASE?host=/run/postgresql
    return f"{parts.scheme}://{netloc}{parts.path}{'?' + urlencode(query, safe='/') if query else ''}"


def has_password(url: str) -> bool:
    """Whether a password stands in an address."""
    parts = urlsplit(url, allow_fragments=False)
    names = {name for name, _ in parse_qsl(parts.query)}
    return ":" in parts.netloc.rpartition("@")[0] or bool(names & set(_SECRETS))
