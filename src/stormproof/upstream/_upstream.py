"""The upstream: one HTTP client for the service's life, total timeouts, and partial fan-out."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeAlias, overload

import httpx2

from stormproof._core import events
from stormproof._core.deadline import bounded
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof.errors import InvalidSetting, NotStarted, UpstreamFailed, UpstreamTimeout

from ._gathered import Gathered, UpstreamError

_TIMEOUT_HEADER = "X-Request-Timeout"

Target: TypeAlias = str | httpx2.Request


class Upstream:
    """An HTTP client that lives as long as the service: a `Part`, or `async with upstream:`.

    Every call takes at most min(`timeout`, what remains of the request's deadline) seconds in
    all: waiting for a connection, connecting, sending, and reading the whole body. (httpx2's
    own timeouts hold per phase; a server that sends a byte now and then never reaches them.)

    Cookies that an upstream sets are not kept: the client is shared by all of your callers.

    Args:
        name: What errors, events and logs call it.
        base_url: What relative URLs are joined to.
        timeout: Seconds a call may take in all.
        max_connections: Connections open at once; further calls wait, within their time.
        headers: Headers of every call.
        follow_redirects: Whether redirects are followed, within the same time.
        transport: Another way to the other side than the network, for tests.

    Raises:
        InvalidSetting: An argument is out of its range.

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
    ) -> None:
        _check_timeout(timeout)
        if max_connections < 1:
            raise InvalidSetting(f"Upstream(max_connections={max_connections!r}) must be 1 or more")
        self._name = name
        self._base_url = base_url
        self._timeout = timeout
        self._max_connections = max_connections
        self._headers = dict(headers or {})
        self._follow_redirects = follow_redirects
        self._transport = transport
        self._client: httpx2.AsyncClient | None = None
        self._events = events.Events()
        self._in_flight = 0

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
        return self._opened()

    async def open(self, lifecycle: Lifecycle | None = None) -> None:
        """Build the client; its TLS settings (20 to 90 ms of CPU) are built in a thread.

        Connects to nothing yet. Opened twice: does nothing. Cancelled: it is not open.
        """
        if self._client is not None:
            return
        if lifecycle is not None:
            self._events = lifecycle.events
        tls = await asyncio.to_thread(httpx2.create_ssl_context)
        self._client = httpx2.AsyncClient(
            base_url=self._base_url,
            headers=self._headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=None,  # the total below is the only limit
            verify=tls,
            limits=httpx2.Limits(
                max_connections=self._max_connections,
                max_keepalive_connections=self._max_connections,
            ),
            follow_redirects=self._follow_redirects,
            transport=self._transport,
        )

    async def drain(self, until: float) -> Sequence[Loss]:
        """Do nothing: calls belong to the requests and tasks that made them."""
        return []

    async def close(self) -> None:
        """Close the client and its connections; closed twice: does nothing."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

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
            **options: As in `build_request`.

        Raises:
            UpstreamTimeout: The time was over (504 at the edge of the app).
            UpstreamFailed: Refused, broken off, malformed, or, if asked for, not 2xx (502).
            InvalidSetting: The URL or the timeout cannot be used.
            NotStarted: The upstream is not open.
        """
        request = self.build_request(method, url, **options)
        return await self.send(request, timeout=timeout, raise_for_status=raise_for_status)

    async def send(
        self,
        request: httpx2.Request,
        *,
        timeout: float | None = None,
        raise_for_status: bool = False,
    ) -> httpx2.Response:
        """Make the call that `build_request` built; waits and raises as `request`."""
        seconds = self._seconds(timeout)
        return await self._call(self._checked(request), seconds, raise_for_status)

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
        raise_for_status: bool = True,
    ) -> Gathered: ...

    @overload
    async def gather(
        self,
        *urls: str,
        timeout: float | None = None,
        min_success: int = 1,
        raise_for_status: bool = True,
    ) -> Gathered: ...

    async def gather(
        self,
        *calls: Mapping[str, Target] | str,
        timeout: float | None = None,
        min_success: int = 1,
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
            min_success: How many must succeed; 0 never raises for failed calls.
            raise_for_status: Whether an answer other than 2xx is an error.

        Raises:
            UpstreamTimeout: Fewer than `min_success` succeeded, and all others were late.
            UpstreamFailed: Fewer than `min_success` succeeded.
            InvalidSetting: A URL, `timeout` or `min_success` cannot be used.
            NotStarted: The upstream is not open.
        """
        self._opened()
        requests = self._requests(calls)
        if not 0 <= min_success <= max(1, len(requests)):
            raise InvalidSetting(
                f"gather(min_success={min_success!r}) must be between 0 and the number of calls, "
                f"{len(requests)}"
            )
        seconds = self._seconds(timeout)
        outcomes = await self._outcomes(requests, seconds, raise_for_status)
        values = {n: out for n, out in outcomes.items() if isinstance(out, httpx2.Response)}
        errors = {n: out for n, out in outcomes.items() if not isinstance(out, httpx2.Response)}
        if errors and len(values) < min_success:
            raise self._too_few(len(values), min_success, errors)
        return Gathered(self._name, MappingProxyType(values), MappingProxyType(errors))

    async def _outcomes(
        self, requests: Mapping[str, httpx2.Request], seconds: float, raise_for_status: bool
    ) -> dict[str, httpx2.Response | UpstreamError]:
        async def outcome(request: httpx2.Request) -> httpx2.Response | UpstreamError:
            try:
                return await self._call(request, seconds, raise_for_status)
            except (UpstreamFailed, UpstreamTimeout) as exc:
                return exc

        async with asyncio.TaskGroup() as group:
            tasks = {
                name: group.create_task(outcome(request), name=f"{self._name} {name}")
                for name, request in requests.items()
            }
        return {name: task.result() for name, task in tasks.items()}

    async def _call(
        self, request: httpx2.Request, seconds: float, raise_for_status: bool
    ) -> httpx2.Response:
        """Make one call within `seconds` and turn what goes wrong into our errors."""
        client = self._opened()
        started_at = asyncio.get_running_loop().time()
        request.headers[_TIMEOUT_HEADER] = f"{seconds:.3f}"
        self._in_flight += 1
        try:
            if seconds <= 0:
                raise TimeoutError
            async with asyncio.timeout(seconds):
                response = await client.send(request)
        except (TimeoutError, httpx2.TimeoutException) as exc:
            raise self._noted(self._late(request, seconds), started_at) from exc
        except (httpx2.RequestError, OSError) as exc:
            cause = f"{_verb(exc)} ({type(exc).__name__}: {exc})"
            raise self._noted(self._failed(request, cause), started_at) from exc
        finally:
            self._in_flight -= 1
        if raise_for_status and not response.is_success:
            failure = self._failed(request, f"answered {response.status_code}")
            raise self._noted(failure, started_at)
        return response

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            raise NotStarted(
                f"upstream {self._name!r} is not open; give it to install(app, ...), or use it "
                f"in `async with upstream:`"
            )
        return self._client

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

    def _failed(self, request: httpx2.Request, cause: str) -> UpstreamFailed:
        return UpstreamFailed(f"upstream {self._name!r} {cause} on {_address(request)}")

    def _late(self, request: httpx2.Request, seconds: float) -> UpstreamTimeout:
        where = f"upstream {self._name!r}"
        if seconds <= 0:
            return UpstreamTimeout(
                f"{where} was not asked for {_address(request)}: the request's deadline had passed"
            )
        return UpstreamTimeout(
            f"{where} did not answer {_address(request)} within {seconds:.3f} s ({self._in_flight} "
            f"calls in flight on {self._max_connections} connections); make it faster or allow more"
        )

    def _too_few(
        self, succeeded: int, needed: int, errors: Mapping[str, UpstreamError]
    ) -> UpstreamError:
        reasons = "; ".join(f"{name}: {error.message}" for name, error in errors.items())
        message = (
            f"{succeeded} of {succeeded + len(errors)} calls to upstream {self._name!r} succeeded, "
            f"{needed} were needed; {reasons}"
        )
        is_late = all(isinstance(error, UpstreamTimeout) for error in errors.values())
        return UpstreamTimeout(message) if is_late else UpstreamFailed(message)

    def _noted(self, error: UpstreamError, started_at: float) -> UpstreamError:
        """Emit the event for `error`, and return it."""
        seconds = asyncio.get_running_loop().time() - started_at
        timed_out = isinstance(error, UpstreamTimeout)
        self._events.emit(events.UpstreamFailed(self._name, error.message, timed_out, seconds))
        return error


def _check_timeout(timeout: float) -> None:
    if not 0 < timeout < math.inf:
        raise InvalidSetting(f"timeout={timeout!r} must be a finite number of seconds above 0")


def _address(request: httpx2.Request) -> str:
    """Return method, host and path: a query may hold secrets."""
    return f"{request.method} {request.url.copy_with(query=None, userinfo=b'', fragment=None)}"


def _verb(error: Exception) -> str:
    if isinstance(error, httpx2.ConnectError):
        return "could not be reached"
    return "broke off or answered wrongly"
