"""`Exports`: exports that a client can resume, kept on disk for a while; a part of the service."""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from stormproof._arguments import check_count, check_seconds
from stormproof._core.deadline import context_without_deadline
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.origin import detach_origin
from stormproof.errors import (
    ExportNotReady,
    ExportsFull,
    InvalidSetting,
    NotStarted,
)

from ._row_encoder import RowEncoder
from ._rows import FormatName, RowSource, row_encoder
from ._shelf import Shelf
from ._spool import Disk, Spool
from ._spooled import SpooledResponse
from ._spooling import spool_rows


class Exports:
    """Exports that a client can resume; give it to `install`, and return `response(...)`.

    The rows of an export are written once, to a temporary file without a name, and each reader
    follows the writer at its own pace. A client that breaks off comes back with `Range` and
    `If-Range` and gets the rest of the same bytes; several at once share one file, and the
    source is asked once. A reader that leaves or stalls does not stop the writing.

    The file is removed `keep` seconds after its last use, earlier when the room is needed, and
    with the process, however that ends. Each process has its own: behind several, a client is
    to come back to the same one, or it gets a new export from its beginning, never a mixture.

    At a drain, readers finish like any request; what nobody reads then is given up, which is no
    loss: nobody was told that it was complete.

    Args:
        directory: Where the files are; None: where the system has its temporary files. Where
            that is in memory, name a folder on a disk.
        max_bytes: Bytes on disk, of all exports together.
        max_exports: Exports that are kept at once, each with one open file.
        max_running: Exports that are being written at once, each with a source of its own.
        keep: Seconds after its last use for which an export is kept.
        fresh_for: Seconds after its beginning for which an export is also given to who asks
            anew; later, they get a new one.
        ready_within: Seconds that a part of an export which is still being written is waited for.
        name: What logs call it.

    Raises:
        InvalidSetting: An argument is out of its range.

    versionadded: 0.1
    """

    def __init__(
        self,
        *,
        directory: str | None = None,
        max_bytes: int = 2**30,
        max_exports: int = 64,
        max_running: int = 4,
        keep: float = 600.0,
        fresh_for: float = 60.0,
        ready_within: float = 20.0,
        name: str = "exports",
    ) -> None:
        check_count("Exports", max_bytes=max_bytes, max_exports=max_exports)
        check_count("Exports", max_running=max_running)
        check_seconds("Exports", keep=keep, ready_within=ready_within)
        if not 0 <= fresh_for <= keep:
            raise InvalidSetting(
                f"Exports(fresh_for={fresh_for!r}) must be from 0 to keep ({keep})"
            )
        self.name = name
        self._directory = directory
        self._max_running = max_running
        self._fresh_for = fresh_for
        self._ready_within = ready_within
        self._shelf = Shelf(
            max_bytes=max_bytes, max_spools=max_exports, keep=keep, on_removed=self._give_up
        )
        self._writers: dict[Spool, asyncio.Task[None]] = {}
        self._disk: Disk | None = None

    def response(
        self,
        key: Hashable,
        source: Callable[[], RowSource],
        *,
        format: FormatName = "ndjson",
        columns: Sequence[str] | None = None,
        filename: str | None = None,
        escape_formulas: bool = False,
        schema: Any = None,
        send_timeout: float = 30.0,
        idle_timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> SpooledResponse:
        """Return the response to a request for the export `key`.

        Sends the export that is kept or being written under `key`, or begins it. Nothing is
        sent before there is a first byte. It ends like `RowsResponse`; when the client leaves
        the writing goes on. HEAD tells what is kept and begins nothing.

        Args:
            key: What the bytes depend on: the query and its arguments, the format, **and who
                may see them**. Whoever has the same key gets the same bytes.
            source: Gives the source of `RowsResponse`; called when an export is begun.
            format: As for `RowsResponse`, like all that follow.
            columns: The columns and their order.
            filename: The name a browser saves under.
            escape_formulas: Whether text that a spreadsheet would run is defused ("csv").
            schema: A `pyarrow.Schema` ("arrow").
            send_timeout: Seconds the reader may take nothing.
            idle_timeout: Seconds the source may take for a row or batch.
            headers: More response headers.

        Raises:
            InvalidSetting: An argument is out of its range.

        Raises (when the response is sent):
            ExportsFull: As many exports are kept or being written as may (503).
            ExportNotReady: The end of the export did not come in time for a range of it (503).
            ExportTooLarge: The disk that exports may take is used up.
            NotStarted: The part is not open.
        """
        check_seconds("Exports.response", idle_timeout=idle_timeout, send_timeout=send_timeout)

        def encoder() -> RowEncoder:
            return row_encoder(
                "Exports.response", format, columns,
                escape_formulas=escape_formulas, schema=schema,
            )  # fmt: skip

        def obtain(name: str) -> Spool:
            fresh = self._fresh(key)
            if fresh is not None:
                return fresh
            return self._begin(name, key, source, encoder(), idle_timeout)

        return SpooledResponse(
            find=lambda etag: self._find(key, etag),
            obtain=obtain,
            ready_within=self._ready_within,
            media_type=encoder().media_type,
            filename=filename,
            send_timeout=send_timeout,
            headers=headers,
        )

    async def open(self, lifecycle: Lifecycle) -> None:
        """Start the thread that reads and writes files, and make one to see that it can.

        Raises:
            InvalidSetting: There can be no file in `directory`.
        """
        disk = Disk()
        probe = Spool(disk, media_type="", now=0.0)
        try:
            await probe.open(self._directory)
        except OSError as exc:
            raise InvalidSetting(
                f"Exports(directory={self._directory!r}) cannot hold a file: {exc}; name a folder "
                f"that this process may write"
            ) from exc
        else:
            self._disk = disk
        finally:
            probe.remove()
            if self._disk is not disk:
                await disk.close()

    async def drain(self, until: float) -> Sequence[Loss]:
        """Give up what is still being written: no reader is left, so nothing is lost by it."""
        await self._end_writers()
        return ()

    async def close(self) -> None:
        """Remove every file, and end the thread; waits for the disk."""
        await self._end_writers()
        self._shelf.close()
        if self._disk is not None:
            await self._disk.close()
            self._disk = None

    def _find(self, key: Hashable, etag: str | None) -> Spool | None:
        """Return the export with the entity tag, or the newest one of `key`."""
        return next((spool for spool in self._shelf.of(key) if etag in (None, spool.etag)), None)

    def _fresh(self, key: Hashable) -> Spool | None:
        spool = self._find(key, None)
        now = asyncio.get_running_loop().time()
        return spool if spool is not None and now - spool.began_at <= self._fresh_for else None

    def _begin(
        self,
        name: str,
        key: Hashable,
        source: Callable[[], RowSource],
        encoder: RowEncoder,
        idle_timeout: float,
    ) -> Spool:
        if self._disk is None:
            raise NotStarted(f"{self.name!r} is not open; give it to install(app, ...)")
        if len(self._writers) >= self._max_running:
            raise ExportsFull(
                f"{len(self._writers)} of {self._max_running} exports are being written; come "
                f"back later, or raise max_running",
                retry_after=5.0,
            )
        now = asyncio.get_running_loop().time()
        spool = Spool(self._disk, media_type=encoder.media_type, now=now)
        self._shelf.put(key, spool)
        # It outlives its request: neither that one's deadline nor its scope goes with it.
        context = context_without_deadline()
        context.run(detach_origin)
        writing = spool_rows(
            spool, source, encoder, name=name, directory=self._directory,
            idle_timeout=idle_timeout, claim=lambda more: self._shelf.claim(spool, more),
        )  # fmt: skip
        task = asyncio.create_task(writing, name=f"export {name}", context=context)
        self._writers[spool] = task
        task.add_done_callback(lambda _: self._written(name, spool))
        return spool

    def _written(self, name: str, spool: Spool) -> None:
        self._writers.pop(spool, None)
        if not spool.is_complete:
            if spool.error is None:  # cancelled, perhaps before it had begun
                spool.fail(ExportNotReady(f"{name}: the export was given up", retry_after=1.0))
            self._shelf.remove(spool)

    def _give_up(self, spool: Spool) -> None:
        """Stop writing what nobody reads and nobody has asked for any more."""
        writer = self._writers.get(spool)
        if writer is not None and writer is not asyncio.current_task():
            writer.cancel()

    async def _end_writers(self) -> None:
        writers = list(self._writers.values())
        for writer in writers:
            writer.cancel()
        if writers:
            await asyncio.wait(writers)
