"""The upstream: one HTTP client for the service's life, total timeouts, and partial fan-out."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, TypeAlias, cast, overload

import httpx2

from stormproof._arguments import check_seconds
from stormproof.errors import InvalidSetting, StormproofError

from ._fan_out import check_names, check_width
from ._faults import too_few
from ._gathered import Gathered
from ._part import UpstreamPart

Target: TypeAlias = str | httpx2.Request


class Upstream(UpstreamPart):
    """An HTTP client that lives as long as the service: a `Part`, or `async with upstream:`.

    Every call takes at most min(`timeout`, what remains of the request's deadline) seconds in
    all: waiting for a slot and a connection, connecting, sending, and reading the whole body.
    (httpx2's own timeouts hold per phase; a server that sends a byte now and then never
    reaches them.)

    Cookies that an upstream sets are not kept: the client is shared by all of your callers.

    Args:
        name: What errors, events and logs call it.
        base_url: What relative URLs are joined to.
        timeout: Seconds a call may take in all.
        max_connections: Connections open at once; further calls wait, within their time.
        headers: Headers of every call.
        follow_redirects: Whether redirects are followed, within the same time.
        transport: Another way to the other side than httpx2's: `AiohttpTransport()`, or one
            for tests. It is closed with the upstream, which cannot be opened again then.
        limit: What bounds the calls at once, with a bounded wait: a `Limiter` of its own. Each
            attempt holds one slot; a call that is shed raises the limiter's error (503).
        retry: Which failures of idempotent calls are tried again; None: none is.
        hedge: When an idempotent call is sent a second time; None: never.
        budget: What all retries and hedges are taken from; `Budget()` by default.
        breaker: What stops all attempts while most of them fail; None: nothing does.
        client: A client of your own, used as it is and not closed: its base URL, headers,
            cookies and timeouts are yours.

    Raises:
        InvalidSetting: An argument is out of its range, or cannot go with `client`.

    versionadded: 0.1
    """

    async def request(
        self,
        method: str,
        url: str,
        *,
        timeout: float | None = None,
        raise_for_status: bool = False,
        idempotent: bool | None = None,
        **options: Any,
    ) -> httpx2.Response:
        """Make one call and return its whole answer.

        Waits at most min(`timeout`, the remaining deadline) seconds and tells the upstream so
        in the header `X-Request-Timeout`. Cancelled: the call is given up and its connection
        closed; the place in the pool is free again.

        Args:
            method: "GET", "POST", ...
            url: Absolute, or relative to `base_url`.
            timeout: Seconds for this call, instead of the upstream's.
            raise_for_status: Whether an answer other than 2xx is an error.
            idempotent: Whether it may be sent more than once; None: what its method says, or
                yes with an `Idempotency-Key`.
            **options: As in `build_request`.

        Raises:
            UpstreamTimeout: The time was over (504 at the edge of the app).
            UpstreamFailed: Refused, broken off, malformed, or, if asked for, not 2xx (502).
            CircuitOpen: The circuit breaker let nothing through (503).
            InvalidSetting: The URL or the timeout cannot be used.
            NotStarted: The upstream is not open.
        """
        request = self.build_request(method, url, **options)
        return await self.send(
            request, timeout=timeout, raise_for_status=raise_for_status, idempotent=idempotent
        )

    async def send(
        self,
        request: httpx2.Request,
        *,
        timeout: float | None = None,
        raise_for_status: bool = False,
        idempotent: bool | None = None,
    ) -> httpx2.Response:
        """Make the call that `build_request` built; waits and raises as `request`."""
        client, seconds = self._opened(), self._seconds(timeout)
        call = self._call(self._checked(request), seconds, raise_for_status, idempotent)
        return cast(httpx2.Response, await self._calls.answer(client, call))

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        timeout: float | None = None,
        idle: float = 30.0,
        raise_for_status: bool = False,
        idempotent: bool | None = None,
        **options: Any,
    ) -> AsyncIterator[httpx2.Response]:
        """Make one call whose body is read inside the block, piece by piece.

        Entering waits at most min(`timeout`, the remaining deadline) seconds for the head of the
        answer; until then it may be tried again, and it is never hedged. After that each piece
        may take min(`idle`, the remaining deadline) seconds, and the whole as long as it likes.
        The slot of the limit and the connection are held until the block ends; where the body
        was not read to its end, the connection is closed. Cancelled: likewise.

        Args:
            method: "GET", "POST", ...
            url: Absolute, or relative to `base_url`.
            timeout: Seconds to the head of the answer, instead of the upstream's.
            idle: Seconds to wait for each piece of the body.
            raise_for_status: Whether an answer other than 2xx is an error.
            idempotent: As in `request`.
            **options: As in `build_request`.

        Yields:
            The answer; read it by `aiter_bytes()`, `aiter_lines()` or `aread()`.

        Raises:
            UpstreamTimeout: The head, or while reading a piece, was late (504).
            UpstreamFailed: As in `request`, or, while reading, the body broke off (502).
            CircuitOpen: The circuit breaker let nothing through (503).
            InvalidSetting: The URL or a time cannot be used.
            NotStarted: The upstream is not open.
        """
        client, seconds = self._opened(), self._seconds(timeout)
        check_seconds("stream", idle=idle)
        request = self.build_request(method, url, **options)
        call = self._call(request, seconds, raise_for_status, idempotent)
        async with self._calls.opened(client, call, idle=idle) as response:
            yield response

    async def get(self, url: str, **options: Any) -> httpx2.Response:
        """Call `request("GET", url, ...)`."""
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> httpx2.Response:
        """Call `request("POST", url, ...)`."""
        return await self.request("POST", url, **options)

    async def put(self, url: str, **options: Any) -> httpx2.Response:
        """Call `request("PUT", url, ...)`."""
        return await self.request("PUT", url, **options)

    async def patch(self, url: str, **options: Any) -> httpx2.Response:
        """Call `request("PATCH", url, ...)`."""
        return await self.request("PATCH", url, **options)

    async def delete(self, url: str, **options: Any) -> httpx2.Response:
        """Call `request("DELETE", url, ...)`."""
        return await self.request("DELETE", url, **options)

    @overload
    async def gather(
        self,
        calls: Mapping[str, Target],
        /,
        *,
        timeout: float | None = None,
        min_success: int = 1,
        required: Collection[str] = (),
        width: int | None = None,
        raise_for_status: bool = True,
    ) -> Gathered: ...

    @overload
    async def gather(
        self,
        *urls: str,
        timeout: float | None = None,
        min_success: int = 1,
        required: Collection[str] = (),
        width: int | None = None,
        raise_for_status: bool = True,
    ) -> Gathered: ...

    async def gather(
        self,
        *calls: Mapping[str, Target] | str,
        timeout: float | None = None,
        min_success: int = 1,
        required: Collection[str] = (),
        width: int | None = None,
        raise_for_status: bool = True,
    ) -> Gathered:
        """Make several calls at once and return what came within one shared time.

        A call that fails or is late is an error under its name; the others are kept. Waits
        until every call has ended, at most min(`timeout`, the remaining deadline) seconds.
        Cancelled: all calls are cancelled and awaited.

        Args:
            *calls: A mapping from name to URL (GET) or request (see `build_request`); or URLs,
                which are their own names.
            timeout: Seconds for all of them together, instead of the upstream's.
            min_success: How many must succeed; 0 never raises for failed optional calls.
            required: Names of calls whose failure cancels the rest and is raised.
            width: How many are made at once, in order; None: all.
            raise_for_status: Whether an answer other than 2xx is an error.

        Raises:
            UpstreamTimeout: Fewer than `min_success` succeeded, and all others were late.
            UpstreamFailed: Fewer than `min_success` succeeded.
            StormproofError: What a required call failed by.
            InvalidSetting: A URL, a name or a number cannot be used.
            NotStarted: The upstream is not open.
        """
        client = self._opened()
        requests = self._requests(calls)
        check_names(requests, required)
        check_width(width)
        if not 0 <= min_success <= max(1, len(requests)):
            raise InvalidSetting(
                f"gather(min_success={min_success!r}) must be between 0 and the number of calls, "
                f"{len(requests)}"
            )
        seconds = self._seconds(timeout)
        outcomes = await self._calls.outcomes(
            client,
            {n: self._call(r, seconds, raise_for_status, None) for n, r in requests.items()},
            required=required,
            width=width,
        )
        values = {n: out for n, out in outcomes.items() if not isinstance(out, StormproofError)}
        errors = {n: out for n, out in outcomes.items() if isinstance(out, StormproofError)}
        if errors and len(values) < min_success:
            raise too_few(self._name, len(values), min_success, errors)
        return Gathered(self._name, MappingProxyType(values), MappingProxyType(errors))

    def _requests(self, calls: Sequence[Mapping[str, Target] | str]) -> dict[str, httpx2.Request]:
        named: dict[str, Target] = {}
        for call in calls:
            named.update({call: call} if isinstance(call, str) else call)
        return {
            name: self.build_request("GET", target)
            if isinstance(target, str)
            else self._checked(target)
            for name, target in named.items()
        }
