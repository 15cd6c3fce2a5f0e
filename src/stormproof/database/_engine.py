"""The engine: SQLAlchemy's, with our pool, our transactions and our sentences."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from stormproof.errors import InvalidSetting

from ._faults import first_line, unreachable
from ._gate import Gate
from ._ledger import CHECKOUT, Checkout, Ledger
from ._pool import GatedPool
from ._settings import place
from ._waiting import SILENCE

CONNECT_TIMEOUT = 5.0
"""Seconds a connection may take to be made."""

PSYCOPG_TIMEOUTS = {
    "connect_timeout": int(CONNECT_TIMEOUT),
    "tcp_user_timeout": SILENCE * 1000,
    "keepalives_idle": SILENCE,
    "keepalives_interval": SILENCE,
}


def new_engine(
    url: URL,
    options: dict[str, Any],
    *,
    pool_size: int,
    max_overflow: int,
    pre_ping: bool,
    gate: Gate,
    writers: Gate,
    ledger: Ledger,
) -> AsyncEngine:
    """Return the engine for `url`; it connects to nothing yet.

    Args:
        url: Where the database is, with the driver.
        options: Further arguments of `create_async_engine`.
        pool_size: As of `Database`.
        max_overflow: As of `Database`.
        pre_ping: As of `Database`.
        gate: What each connection is waited for at.
        writers: What SQLite's writers wait at.
        ledger: Where the pool notes each checkout.

    Raises:
        InvalidSetting: SQLAlchemy refuses an option.
    """
    ours = {
        "pool_size": pool_size,
        "max_overflow": max_overflow,
        "poolclass": GatedPool,
        "connect_args": _connect_arguments(url, options.pop("connect_args", {}), gate.max_wait),
    }
    try:
        engine = create_async_engine(url, **ours, **options)
    except (ArgumentError, TypeError) as error:
        raise InvalidSetting(f"engine_options: {first_line(error)}") from error
    assert isinstance(engine.pool, GatedPool)
    engine.pool.adopt(gate, ledger, ping=engine.dialect if pre_ping else None)
    name_unreachable(engine.sync_engine, place(url))
    if is_sqlite(url):
        from ._sqlite import isolate

        isolate(engine, writers, place(url))
    _note_statements(engine, url)
    return engine


def new_lookout_engine(url: URL, options: Mapping[str, Any]) -> AsyncEngine:
    """Return an engine whose connections nobody keeps and no gate counts, without transactions."""
    engine = create_async_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args=_connect_arguments(url, options.get("connect_args", {})),
    )
    name_unreachable(engine.sync_engine, place(url))
    return engine


def read_only_options(url: URL) -> Mapping[str, Any]:
    """Return the execution options of a transaction that the database lets only read."""
    if not is_sqlite(url):
        return {"postgresql_readonly": True}
    from ._sqlite import READ_ONLY

    return {READ_ONLY: True}


def is_sqlite(url: URL) -> bool:
    """Whether `url` names a SQLite file."""
    return url.get_backend_name() == "sqlite"


def _connect_arguments(
    url: URL, given: Mapping[str, Any], busy_wait: float = 0.0
) -> dict[str, Any]:
    if url.drivername == "postgresql+asyncpg":
        from ._postgres import DeadlineConnection, quieten

        quieten()
        return {"timeout": CONNECT_TIMEOUT, "connection_class": DeadlineConnection, **given}
    if url.drivername == "postgresql+psycopg":
        from ._psycopg import CuttableConnection

        ours = {"async_creator_fn": CuttableConnection.connect}
        return {**PSYCOPG_TIMEOUTS, **given, **ours}
    from ._sqlite import connector

    # The driver must not begin transactions of its own accord: we begin them.
    return {
        **given,
        "async_creator_fn": connector(round(busy_wait * 1000)),
        "isolation_level": None,
    }


def name_unreachable(engine: Engine, where: str, creator: Callable[..., Any] | None = None) -> None:
    """Turn what the driver raises while connecting into one sentence with the place.

    Args:
        engine: Whose connections.
        where: The place.
        creator: What makes a connection, where it is not the driver's own function.
    """

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: Any, arguments: Any, keywords: Any) -> Any:
        try:
            adapted = (creator or dialect.connect)(*arguments, **keywords)
            learn = getattr(getattr(adapted, "driver_connection", None), "learn", None)
            if learn is not None:
                adapted.run_async(lambda _: learn(CONNECT_TIMEOUT))
            return adapted
        except (OSError, dialect.loaded_dbapi.Error) as error:
            raise unreachable(where, error) from error


def _before(url: URL) -> Callable[[Connection], None] | None:
    """Return what is to be done before a statement, if anything."""
    if url.drivername != "postgresql+asyncpg":
        return None
    from ._postgres import shorten_timeout

    return shorten_timeout


def _broken(url: URL) -> tuple[type[Exception], ...]:
    """Return what the driver raises, beside its errors, on a connection that the server ends."""
    if url.drivername != "postgresql+asyncpg":
        return ()
    from ._postgres import BROKEN

    return (BROKEN,)


def _note_statements(engine: AsyncEngine, url: URL) -> None:
    """Note in the ledger when a statement runs and when the connection is idle.

    On the engine's own dialect and not by its events: the first listener of an engine makes each
    connection and each step of a statement look for listeners, for 15 % of a small unit of work.
    """
    prepare, broken = _before(url), _broken(url)

    def noted(execute: Callable[..., None]) -> Callable[..., None]:
        def execute_noted(cursor: Any, statement: Any, *parameters_and_context: Any) -> None:
            context = parameters_and_context[-1]
            checkout = _begun(context)
            try:
                if prepare is not None:
                    prepare(context.root_connection)
                execute(cursor, statement, *parameters_and_context)
            except broken as error:
                raise ConnectionError(str(error)) from error
            finally:
                _ended(checkout)

        return execute_noted

    dialect: Any = engine.sync_engine.dialect
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(dialect, name, noted(getattr(dialect, name)))


def _begun(context: Any) -> Checkout | None:
    """Note that a statement begins; return the checkout it is noted in."""
    connection: Connection = context.root_connection
    info = connection.connection.record_info
    checkout: Checkout | None = None if info is None else info.get(CHECKOUT)
    if checkout is not None:
        checkout.idle_at = None
    return checkout


def _ended(checkout: Checkout | None) -> None:
    if checkout is not None:
        checkout.idle_at = asyncio.get_running_loop().time()
