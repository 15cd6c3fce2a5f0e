"""The shelf: which spools are kept, by key, within a number, a room on disk, and an age."""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextvars import Context

from stormproof.errors import ExportsFull, ExportTooLarge

from ._spool import Spool


class Shelf:
    """Keeps spools until they are old, or their room is needed.

    Args:
        max_bytes: Bytes of all spools together.
        max_spools: How many.
        keep: Seconds after its last use for which a spool is kept.
        on_removed: Called with each spool that goes, before its file is given back.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_spools: int,
        keep: float,
        on_removed: Callable[[Spool], None],
    ) -> None:
        self._max_bytes = max_bytes
        self._max_spools = max_spools
        self._keep = keep
        self._on_removed = on_removed
        self._keys: dict[Spool, Hashable] = {}  # oldest first
        self._expiry: asyncio.TimerHandle | None = None

    def of(self, key: Hashable) -> Iterator[Spool]:
        """Yield the spools of `key`, newest first."""
        return (spool for spool, theirs in reversed(self._keys.items()) if theirs == key)

    def put(self, key: Hashable, spool: Spool) -> None:
        """Keep `spool` under `key`.

        Raises:
            ExportsFull: There are as many as may be, and each is being read or written.
        """
        if len(self._keys) >= self._max_spools and not self._remove_unused():
            raise ExportsFull(
                f"{len(self._keys)} of {self._max_spools} exports are kept, and all are being "
                f"read or written; come back later, or raise max_exports",
                retry_after=5.0,
            )
        self._keys[spool] = key
        self._expire()

    def claim(self, spool: Spool, more: int) -> None:
        """Make room for `more` bytes of `spool`.

        Raises:
            ExportTooLarge: There is no room, although nothing unused is left.
        """
        while sum(kept.size for kept in self._keys) + more > self._max_bytes:
            if not self._remove_unused():
                raise ExportTooLarge(
                    f"the export has no room after {spool.size:,} bytes: "
                    f"{len(self._keys)} exports in use have {self._max_bytes:,} bytes of disk "
                    f"together; raise max_bytes, or export less at once"
                )

    def remove(self, spool: Spool) -> None:
        """Let `spool` go; who reads it may read on."""
        if self._keys.pop(spool, None) is not None:
            self._on_removed(spool)
            spool.remove()

    def close(self) -> None:
        """Let all go."""
        for spool in list(self._keys):
            self.remove(spool)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _remove_unused(self) -> bool:
        """Remove what was unused for longest; return whether there was any."""
        unused = [spool for spool in self._keys if spool.is_complete and not spool.readers]
        if unused:
            self.remove(min(unused, key=lambda spool: spool.used_at))
        return bool(unused)

    def _expire(self) -> None:
        """Remove what is old, and look again when the next one may be."""
        loop = asyncio.get_running_loop()
        if self._expiry is not None:
            self._expiry.cancel()
        for spool in list(self._keys):
            if not spool.readers and loop.time() >= spool.used_at + self._keep:
                self.remove(spool)
        ends = [
            self._keep if spool.readers else spool.used_at + self._keep - loop.time()
            for spool in self._keys
        ]
        self._expiry = None
        if ends:
            # In a context of its own: that of a request would keep the request for as long.
            wait = max(0.0, min(ends))
            self._expiry = loop.call_later(wait, self._expire, context=Context())
