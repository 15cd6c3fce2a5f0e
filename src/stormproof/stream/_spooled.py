"""The response that serves a spool: the whole of it, or the range that a client asks for."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.responses import Response

from stormproof._core.asgi import Receive, Scope, Send, header, request_name, send_answer
from stormproof._core.deadline import bounded
from stormproof.errors import ExportNotReady

from ._answer import deliver
from ._delivery import Plan
from ._ranges import ByteRange, asked_range
from ._rows import attachment
from ._spool import Spool

_COME_BACK = 5.0
"""Seconds after which a client may ask again for a range of what is still being written."""


class SpooledResponse(Response):
    """An export on disk; got from `Exports.response`.

    Args:
        find: Gives the spool of an entity tag, or the newest one for None; None: there is none.
        obtain: Gives the spool for who asks for the whole, by the name of the request.
        ready_within: Seconds that a range may wait for the end of the spool.
        media_type: What the bytes are.
        filename: The name a browser saves under.
        send_timeout: Seconds the reader may take nothing.
        headers: More response headers.
    """

    def __init__(
        self,
        *,
        find: Callable[[str | None], Spool | None],
        obtain: Callable[[str], Spool],
        ready_within: float,
        media_type: str,
        filename: str | None,
        send_timeout: float,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._find = find
        self._obtain = obtain
        self._ready_within = ready_within
        self._send_timeout = send_timeout
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
        self.headers.setdefault("cache-control", "private, no-cache")
        self.headers["accept-ranges"] = "bytes"
        # Said, so that GZipMiddleware keeps off: it would keep the entity tag for other bytes.
        self.headers["content-encoding"] = "identity"
        if filename is not None:
            self.headers.setdefault("content-disposition", attachment(filename))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; ends, raises and cleans up as `Exports.response` says."""
        if scope["method"] == "HEAD":
            await self._head(send)
        else:
            await self._body(scope, receive, send)
        if self.background is not None:
            await self.background()

    async def _head(self, send: Send) -> None:
        spool = self._find(None)
        if spool is not None:
            self._describe(spool)
        await send(self._start())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _body(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = asked_range(header(scope, b"range"))
        known = None if asked is None else self._find(header(scope, b"if-range"))
        spool = known or self._obtain(request_name(scope))
        with spool.reading():
            if known is None or asked is None:
                await spool.until_begun()
                self._describe(spool)
                source = spool.read(0, None)
            else:
                await self._until_complete(spool)
                positions = self._narrow(spool, asked)
                if positions is None:
                    await send_answer(send, 416, self.raw_headers, b"")
                    return
                source = spool.read(positions.start, positions.stop)
            await self._deliver(source, scope, receive, send)

    async def _until_complete(self, spool: Spool) -> None:
        limit = asyncio.timeout(bounded(self._ready_within))
        try:
            async with limit:
                await spool.until_complete()
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise ExportNotReady(
                f"a range was asked for of an export that is still being written "
                f"({spool.size:,} bytes so far), so its size is not known; ask again",
                retry_after=_COME_BACK,
            ) from exc

    def _describe(self, spool: Spool) -> None:
        """Say in the headers what is known of the whole."""
        self.headers["etag"] = spool.etag
        if spool.is_complete:
            self.headers["content-length"] = str(spool.size)

    def _narrow(self, spool: Spool, asked: ByteRange) -> range | None:
        """Say in status and headers which part follows, and return it; None: there is none."""
        positions = asked.within(spool.size)
        self.headers["etag"] = spool.etag
        if positions is None:
            self.headers["content-range"] = f"bytes */{spool.size}"
            return None
        self.status_code = 206
        self.headers["content-length"] = str(len(positions))
        self.headers["content-range"] = f"bytes {positions[0]}-{positions[-1]}/{spool.size}"
        return positions

    async def _deliver(
        self, source: AsyncIterator[bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        plan = Plan(
            name=request_name(scope),
            source=source,
            encode=lambda chunk: (chunk,),
            start=self._start(),
            opening=None,
            send_timeout=self._send_timeout,
        )
        await deliver(plan, scope, receive, send, leaves_on_drain=False)

    def _start(self) -> dict[str, object]:
        return {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
