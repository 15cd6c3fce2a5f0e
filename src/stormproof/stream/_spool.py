"""A spool: the bytes of one export in a temporary file, read while they are written and after."""

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, TypeVar

T = TypeVar("T")

_READ_BYTES = 65_536


class Disk:
    """One thread for what may wait for a disk, so that the event loop never does.

    One is enough, and it keeps the order: a file is closed after what was begun on it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stormproof exports")
        self._is_closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns. Cancelled: it is still run to its end, in its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def later(self, call: Callable[[], object]) -> None:
        """Run `call` after what was asked for before, without waiting for it."""
        if not self._is_closed:
            self._thread.submit(call)

    async def close(self) -> None:
        """Wait for what was asked for, and end the thread."""
        self._is_closed = True
        await asyncio.to_thread(self._thread.shutdown)


class Spool:
    """One export: one writer, any number of readers, each at its own place.

    The file has no name: the system removes it with the process, however that ends.

    Attributes:
        etag: A strong validator (RFC 9110, 8.8.3): no other bytes are ever served under it.
        media_type: What the bytes are.
        size: Bytes written so far.
        is_complete: Whether these are all.
        error: Why it was given up, or None.
        readers: How many read it now.
        began_at: When it was begun, on the loop's clock.
        used_at: When it was last begun, read or completed.
    """

    def __init__(self, disk: Disk, *, media_type: str, now: float) -> None:
        self.etag = f'"{secrets.token_hex(16)}"'
        self.media_type = media_type
        self.size = 0
        self.is_complete = False
        self.error: BaseException | None = None
        self.readers = 0
        self.began_at = self.used_at = now
        self._disk = disk
        self._file: IO[bytes] | None = None
        self._is_removed = False
        self._moved = asyncio.Event()

    async def open(self, directory: str | None) -> None:
        """Make the file, in `directory` or where the system has its temporary ones."""

        def make() -> None:
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115

        await self._disk.run(make)

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`; readers have it when this returns."""
        file = self._opened
        await self._disk.run(lambda: _write_all(file, chunk))
        self.size += len(chunk)
        self._move()

    def complete(self) -> None:
        """Say that this is all."""
        self.used_at = asyncio.get_running_loop().time()
        self.is_complete = True
        self._move()

    def fail(self, error: BaseException) -> None:
        """Say that no more will come, and why; readers raise it."""
        self.error = error
        self._move()

    async def until_begun(self) -> None:
        """Wait until there is a byte, or the end; raises what the writer failed with."""
        while not (self.size or self.is_complete):
            await self._wait()

    async def until_complete(self) -> None:
        """Wait for the end; raises what the writer failed with."""
        while not self.is_complete:
            await self._wait()

    async def read(self, first: int, end: int | None) -> AsyncIterator[bytes]:
        """Yield the bytes from `first` to before `end`, or to the last, as they are written."""
        at = first
        while end is None or at < end:
            if self.error is not None:
                raise self.error
            if at < self.size:
                size = min(_READ_BYTES, (self.size if end is None else end) - at)
                chunk = await self._disk.run(self._reading_at(at, size))
                at += len(chunk)
                yield chunk
            elif self.is_complete:
                return
            else:
                await self._wait()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a reader: a spool that is read is not removed."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1
            self.used_at = asyncio.get_running_loop().time()
            self._close_if_unused()

    def remove(self) -> None:
        """Give the file back as soon as nobody reads it."""
        self._is_removed = True
        self._close_if_unused()

    @property
    def _opened(self) -> IO[bytes]:
        assert self._file is not None, "a spool is opened before it is written"
        return self._file

    def _reading_at(self, at: int, size: int) -> Callable[[], bytes]:
        descriptor = self._opened.fileno()
        return lambda: os.pread(descriptor, size, at)

    async def _wait(self) -> None:
        # No limit: the writer completes or fails the spool, whatever becomes of it.
        if self.error is not None:
            raise self.error
        await self._moved.wait()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _close_if_unused(self) -> None:
        if self._is_removed and not self.readers:
            self._disk.later(self._close)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _write_all(file: IO[bytes], chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
