"""The life of an upstream: its settings, its client, and the requests that go to it."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

import httpx2

from stormproof._arguments import check_count, check_seconds
from stormproof._core.deadline import bounded
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.primitives import register
from stormproof.errors import InvalidSetting, NotStarted

from ._attempts import Attempts
from ._breaker import CircuitBreaker
from ._budget import Budget
from ._calls import Call, Calls
from ._client import Client, built_client, checked_client, has_whole_body
from ._hedge import Hedge
from ._operations import OPERATION
from ._retry import IDEMPOTENT, Retry
from ._statistics import Counts, UpstreamStatistics
from ._wire import Limit, Wire

# draft-ietf-httpapi-idempotency-key-header: the other side does the work of one key once.
_IDEMPOTENCY_KEY = "idempotency-key"


class UpstreamPart:
    """What an `Upstream` is before any call: a `Part` that owns a client, and builds requests.

    Its arguments are those of `Upstream`.
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
        check_seconds("Upstream", timeout=timeout)
        check_count("Upstream", max_connections=max_connections)
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
        self._wire = Wire(self._counts, limit=limit, breaker=breaker)
        attempts = Attempts(
            self._counts, self._wire, budget=budget, retry=retry, hedge=hedge, breaker=breaker
        )
        self._calls = Calls(
            name,
            self._counts,
            attempts,
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
            on_connected=self._wire.note_connection,
        )
        self._wire.is_told = is_told
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

    def build_request(
        self, method: str, url: str, *, operation: str | None = None, **options: Any
    ) -> httpx2.Request:
        """Return a request for `send` or `gather`, with the base URL and the headers applied.

        Args:
            method: "GET", "POST", ...
            url: Absolute, or relative to `base_url`.
            operation: What it is called where latencies are kept apart (see `Hedge`), for
                example "GET /users/{name}"; None: the method and the path without its ids.
            **options: `params`, `headers`, `cookies`, `json`, `content`, `data`, `files`.

        Raises:
            InvalidSetting: The URL cannot be used.
            NotStarted: The upstream is not open.
        """
        try:
            request = self._opened().build_request(method, url, **options)
        except httpx2.InvalidURL as exc:
            raise InvalidSetting(f"upstream {self._name!r} got url={url!r}: {exc}") from exc
        if operation is not None:
            request.extensions[OPERATION] = operation
        return self._checked(request)

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
        if idempotent is None:
            idempotent = request.method in IDEMPOTENT or _IDEMPOTENCY_KEY in request.headers
        return Call(request, seconds, raise_for_status, idempotent and has_whole_body(request))

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return bounded(self._timeout)
        check_seconds("call", timeout=timeout)
        return bounded(timeout)

    def _checked(self, request: httpx2.Request) -> httpx2.Request:
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise InvalidSetting(
                f"upstream {self._name!r} got url={str(request.url)!r}; pass an http(s) URL, or "
                f"a path together with Upstream(base_url=...)"
            )
        return request
