"""PostgreSQL servers that a test kills and starts again, with the programs of the run's server."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg

from .children import dies_with_us, kill_group
from .process import free_port

_READY_LIMIT = 60.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "full_page_writes": "off",
    "max_connections": "200",  # a standby needs as many as its primary
    "shared_buffers": "32MB",
    "jit": "off",
}


class Server:
    """One server on a folder of data: `start`, `kill`, `start` again.

    Args:
        programs: The folder of `postgres`.
        home: A folder of its own.
        identity: Whom to run as, in arguments of Popen.
    """

    def __init__(self, programs: Path, home: Path, identity: dict[str, Any]) -> None:
        self.port = free_port()
        self._programs = programs
        self._home = home
        self._identity = identity
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", driver: str = "asyncpg") -> str:
        return f"postgresql+{driver}://postgres@127.0.0.1:{self.port}/{database}"

    def initialize(self) -> None:
        """Make a new, empty cluster."""
        self._run(
            "initdb", "--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust",
            "--username=postgres", f"--pgdata={self._data}",
        )  # fmt: skip

    def copy(self, primary_url: str) -> None:
        """Make a streaming standby of the server at `primary_url`."""
        parts = urlsplit(primary_url)
        self._run(
            "pg_basebackup", f"--host={parts.hostname}", f"--port={parts.port}",
            "--username=postgres", f"--pgdata={self._data}", "--wal-method=stream",
            "--checkpoint=fast", "--no-sync", "--write-recovery-conf",
        )  # fmt: skip

    def start(self, **settings: str) -> None:
        """Start it; returns at once: `wait_until_up` waits."""
        chosen = {**_SETTINGS, **settings, "port": str(self.port)}
        arguments = [f"--{name}={value}" for name, value in chosen.items()]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                dies_with_us([str(self._programs / "postgres"), "-D", self._data, *arguments]),
                **self._identity,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def wait_until_up(self) -> None:
        """Wait until it takes connections."""
        give_up_at = time.monotonic() + _READY_LIMIT
        while True:
            try:
                await (await asyncpg.connect(self.url().replace("+asyncpg", ""), timeout=2)).close()
            except (OSError, asyncpg.PostgresError):
                if self._has_ended or time.monotonic() > give_up_at:
                    words = (self._home / "log").read_text(errors="replace")[-500:]
                    raise AssertionError(f"PostgreSQL is not up: {words}") from None
            else:
                return

    def kill(self) -> None:
        """`kill -9` of the whole server, the postmaster and all its children."""
        assert self._process is not None
        children = _children(self._process.pid)
        kill_group(self._process)
        # Each backend leads a group of its own.
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, SIGKILL)
        self._process = None

    def end(self) -> None:
        """Kill it if it runs."""
        if self._process is not None:
            self.kill()

    @property
    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def _data(self) -> str:
        return str(self._home / "data")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            **self._identity,
            cwd=self._home,
            check=True,
            capture_output=True,
            timeout=60,
        )


@contextmanager
def own_server(postgres_url: str) -> Iterator[Server]:
    """Give a server, not started and without data, that runs as the one at `postgres_url` does."""
    with psycopg.connect(postgres_url.replace("+asyncpg", "")) as connection:
        backend = connection.info.backend_pid
        programs = Path(os.readlink(f"/proc/{backend}/exe")).parent
        owner = Path(f"/proc/{backend}").stat()
    is_other = owner.st_uid != os.geteuid()
    identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    home = Path(tempfile.mkdtemp(prefix="stormproof-cluster-"))
    if is_other:
        os.chown(home, owner.st_uid, owner.st_gid)
    server = Server(programs, home, identity if is_other else {})
    try:
        yield server
    finally:
        server.end()
        shutil.rmtree(home, ignore_errors=True)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # After the name, which is in brackets and may hold anything: state, parent.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found
