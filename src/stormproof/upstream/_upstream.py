"""The upstream: one HTTP client for the service's life, total timeouts, and partial fan-out."""

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeAlias, cast, overload

import httpx2

from stormproof._core.deadline import bounded
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.primitives import register
from stormproof.errors import InvalidSetting, NotStarted, StormproofError

from ._attempts import Attempts, Limit
from ._breaker import CircuitBreaker
from ._budget import Budget
from ._calls import Call, Calls
from ._client import Client, built_client, checked_client, has_whole_body
from ._fan_out import check_names, check_width
from ._faults import too_few
from ._gathered import Gathered
from ._hedge import Hedge
from ._retry import IDEMPOTENT, Retry
from ._statistics import Counts, UpstreamStatistics

Target: TypeAlias = str | httpx2.Request


class Upstream:
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

    def __init__(
        self,
        *,
        name: str = "upstream",
        base_url: str = "",
        timeout: float = 10.0,
        max_connections: int = 100,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = False,
        transport: httpx2.AsyncBaseTransport | None = None,
        limit: Limit | None = None,
        retry: Retry | None = None,
        hedge: Hedge | None = None,
        budget: Budget | None = None,
        breaker: CircuitBreaker | None = None,
        client: Client | None = None,
    ) -> None:
        _check_timeout(timeout)
        if max_connections < 1:
            raise InvalidSetting(f"Upstream(max_connections={max_connections!r}) must be 1 or more")
        if client is not None and (base_url or headers or follow_redirects or transport):
            raise InvalidSetting(
                "Upstream(client=...) takes no base_url, headers, follow_redirects or transport: "
                "set them on the client"
            )
        self._name = name
        self._base_url = base_url
        self._timeout = timeout
        self._max_connections = max_connections
        self._headers = dict(headers or {})
        self._follow_redirects = follow_redirects
        self._transport = transport
        self._yours = None if client is None else checked_client(client)
        self._built: httpx2.AsyncClient | None = None
        self._client: Client | None = None
        self._counts = Counts()
        self._breaker = breaker
        self._attempts = Attempts(
            self._counts, limit=limit, budget=budget, retry=retry, hedge=hedge, breaker=breaker
        )
        self._calls = Calls(
            name,
            self._counts,
            self._attempts,
            load=f"calls in flight on {max_connections} connections",
        )
        register("upstream", self)

    @property
    def name(self) -> str:
        """What errors, events and logs call it."""
        return self._name

    @property
    def client(self) -> httpx2.AsyncClient:
        """The client itself, for what this class does not do; its calls have no total timeout.

        Raises:
            NotStarted: Before `open` and after `close`.
        """
        return cast(httpx2.AsyncClient, self._opened())

    def statistics(self) -> UpstreamStatistics:
        """Return the counts of this moment."""
        circuit = None if self._breaker is None else self._breaker.circuit.value
        return self._counts.frozen(circuit=circuit)

    async def open(self, lifecycle: Lifecycle | None = None) -> None:
        """Build the client; its TLS settings (20 to 90 ms of CPU) are built in a thread.

        Connects to nothing yet. Opened twice: does nothing. Cancelled: it is not open.
        """
        if self._client is not None:
            return
        if lifecycle is not None:
            self._calls.events = lifecycle.events
            if self._breaker is not None and self._breaker.events is None:
                self._breaker.events = lifecycle.events
        if self._yours is not None:
            self._client = self._yours
            return
        self._built, is_told = await built_client(
            base_url=self._base_url,
            headers=self._headers,
            max_connections=self._max_connections,
            follow_redirects=self._follow_redirects,
            transport=self._transport,
            on_connected=self._attempts.note_connection,
        )
        self._attempts.is_told = is_told
        self._client = self._built

    async def drain(self, until: float) -> Sequence[Loss]:
        """Do nothing: calls belong to the requests and tasks that made them."""
        return []

    async def close(self) -> None:
        """Close the client and its connections, unless it is yours; twice: does nothing."""
        built, self._built, self._client = self._built, None, None
        if built is not None:
            await built.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def build_request(self, method: str, url: str, **options: Any) -> httpx2.Request:
        """Return a request for `send` or `gather`, with the base URL and the headers applied.

        Args:
            method: "GET", "POST", ...
            url: Absolute, or relative to `base_url`.
            **options: `params`, `headers`, `cookies`, `json`, `content`, `data`, `files`.

        Raises:
            InvalidSetting: The URL cannot be used.
            NotStarted: The upstream is not open.
        """
        try:
            request = self._opened().build_request(method, url, **options)
        except httpx2.InvalidURL as exc:
            raise InvalidSetting(f"upstream {self._name!r} got url={url!r}: {exc}") from exc
        return self._checked(request)

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
            idempotent: Whether it may be sent more than once; None: what its method says.
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

    def _opened(self) -> Client:
        if self._client is None:
            raise NotStarted(
                f"upstream {self._name!r} is not open; give it to install(app, ...), or use it "
                f"in `async with upstream:`"
            )
        return self._client

    def _call(
        self,
        request: httpx2.Request,
        seconds: float,
        raise_for_status: bool,
        idempotent: bool | None,
    ) -> Call:
        is_idempotent = request.method in IDEMPOTENT if idempotent is None else idempotent
        return Call(request, seconds, raise_for_status, is_idempotent and has_whole_body(request))

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return bounded(self._timeout)
        _check_timeout(timeout)
        return bounded(timeout)

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

    def _checked(self, request: httpx2.Request) -> httpx2.Request:
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise InvalidSetting(
                f"upstream {self._name!r} got url={str(request.url)!r}; pass an http(s) URL, or "
                f"a path together with Upstream(base_url=...)"
            )
        return request


def _check_timeout(timeout: float) -> None:
    if not 0 < timeout < math.inf:
        raise InvalidSetting(f"timeout={timeout!r} must be a finite number of seconds above 0")
