"""The settings of a database: what the constructor accepts, checked before any I/O."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from stormproof._arguments import check_count, check_seconds
from stormproof.errors import InvalidSetting, MissingExtra

_SUPPORTED = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_EXTRAS = {"aiosqlite": "database", "asyncpg": "postgres", "psycopg": "psycopg"}
_OURS = {
    "pool_size": "pool_size",
    "max_overflow": "max_overflow",
    "pool_timeout": "max_wait",
    "pool_pre_ping": "pre_ping",
    "poolclass": "pool_size",
    "pool": "pool_size",
    "creator": "url",
    "async_creator": "url",
}


def parsed_url(text: str) -> URL:
    """Return `text` as a URL with the driver we use; no message ever holds the password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InvalidSetting(
            "url is not a database URL; write for example 'sqlite:///items.db' "
            "or 'postgresql://user:password@host/name'"
        ) from None
    driver = _SUPPORTED.get(url.drivername)
    if driver is None:
        raise InvalidSetting(
            f"url has the scheme {url.drivername!r}; supported are {', '.join(_SUPPORTED)}"
        )
    url = url.set(drivername=driver)
    check_driver(driver.partition("+")[2])
    return _checked_sqlite(url) if driver.startswith("sqlite") else _with_ssl(url)


def check_driver(module: str) -> None:
    """Raise MissingExtra when the driver `module` is not installed."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(
            f"url needs the driver {module!r}, which is not installed; "
            f"install it with: pip install 'stormproof[{_EXTRAS[module]}]'"
        )


def _checked_sqlite(url: URL) -> URL:
    name = url.database or ""
    if name in ("", ":memory:") or ":memory:" in name or url.query.get("mode") == "memory":
        raise InvalidSetting(
            "url names an in-memory SQLite database: all its sessions would share one connection "
            "and so one transaction; use a file, in tests one in a temporary directory"
        )
    return url


def replica_urls(texts: Sequence[str], primary: URL) -> list[URL]:
    """Return the URLs of replicas; raises InvalidSetting for what can be none of `primary`."""
    if not texts:
        return []
    if isinstance(texts, str):
        raise InvalidSetting("replicas is one string; give a list of URLs")
    if primary.get_backend_name() == "sqlite":
        raise InvalidSetting(
            "replicas are given, but a SQLite database is one file and has none; "
            "leave them out: read_session() waits for no writer there"
        )
    urls = [parsed_url(text) for text in texts]
    for url in urls:
        if url.drivername != primary.drivername:
            raise InvalidSetting(
                f"the replica {place(url)} has the driver {url.drivername!r} and the database "
                f"{primary.drivername!r}; give all URLs the same scheme"
            )
    return urls


def _with_ssl(url: URL) -> URL:
    """Rename libpq's `sslmode`, which hosting platforms put into URLs, to asyncpg's `ssl`."""
    mode = url.query.get("sslmode")
    if mode is None or url.get_driver_name() == "psycopg":
        return url
    return url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})


def place(url: URL) -> str:
    """Return where the database is, for messages: never with user or password."""
    if url.host is None:
        return str(url.database)
    port = f":{url.port}" if url.port is not None else ""
    return f"{url.host}{port}/{url.database or ''}"


def check_pool(pool_size: int, max_overflow: int, max_wait: float) -> None:
    """Raise InvalidSetting for a pool that could never serve, or would wait for ever."""
    check_count("Database", pool_size=pool_size)
    if max_overflow == -1:
        raise InvalidSetting(
            "Database(max_overflow=-1): a pool without bound is not offered; use 0 for none"
        )
    check_count("Database", least=0, max_overflow=max_overflow)
    check_seconds("Database", or_zero=True, max_wait=max_wait)


def check_reserve(reserve: int, capacity: int) -> None:
    """Raise InvalidSetting for a reserve that leaves nothing to the others."""
    if not 0 <= reserve < capacity:
        raise InvalidSetting(
            f"reserve is {reserve} of {capacity} connections; give 0 or more, and fewer than all"
        )


def checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of `engine_options` that names nothing this room decides itself."""
    checked = dict(options or {})
    for key in checked:
        if key in _OURS:
            raise InvalidSetting(
                f"engine_options names {key!r}; use the argument {_OURS[key]!r} of Database"
            )
    if str(checked.get("isolation_level", "")).upper() == "AUTOCOMMIT":
        raise InvalidSetting(
            "engine_options sets isolation_level to AUTOCOMMIT, so nothing could be rolled back; "
            "set it on single connections: engine.connect().execution_options(...)"
        )
    return checked
