"""The client: httpx2 with its TLS built off the loop, or your own, refused where it leaks."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Protocol
from urllib.request import getproxies

import httpx2

from stormproof.errors import InvalidSetting

from ._network import OwnTransport

_LAST_LEAKING_HTTPX = (0, 28, 1)
_PROXIED = frozenset(("http", "https", "all"))


class Client(Protocol):
    """What an `Upstream` needs of a client of yours; httpx2's `AsyncClient` is one.

    Its requests have `method`, `url`, `headers` and `extensions`, its responses `status_code`,
    `is_success` and `headers`, as those of httpx2.
    """

    # `*args: Any, **kwargs: Any` is how a Protocol says "whatever arguments".
    def build_request(self, *args: Any, **options: Any) -> Any:
        """Return a request that `send` takes, for a method, a URL and options."""
        ...

    async def send(self, *args: Any, **options: Any) -> Any:
        """Return the whole answer; raise httpx2's errors, `OSError` or `TimeoutError`."""
        ...


def checked_client(client: Client) -> Client:
    """Return `client`, unless it is an httpx that loses a pool slot when a call is cancelled.

    httpx 0.28.1, its last release, had no slot left after 600 calls cancelled at random.

    Raises:
        InvalidSetting: It is one.
    """
    homes = {kind.__module__.partition(".")[0] for kind in type(client).__mro__}
    if "httpx" in homes:
        version = str(getattr(sys.modules.get("httpx"), "__version__", "0"))
        if _numbers(version) <= _LAST_LEAKING_HTTPX:
            raise InvalidSetting(
                f"Upstream(client=...) got a client of httpx {version}, which loses a place in "
                f"its pool for good when a call is cancelled; give it an httpx2.AsyncClient"
            )
    return client


async def built_client(
    *,
    base_url: str,
    headers: Mapping[str, str],
    max_connections: int,
    follow_redirects: bool,
    transport: httpx2.AsyncBaseTransport | None,
    on_connected: Callable[[], None],
) -> tuple[httpx2.AsyncClient, bool]:
    """Return an httpx2 client that keeps no cookies and has no timeout of its own.

    Its TLS settings (20 to 90 ms of CPU) are built in a thread. Cancelled: nothing is left.

    Returns:
        The client, and whether it tells `on_connected` of its connections: not through a
        transport of yours, and not through the proxies that the environment names.
    """
    # With a transport the settings would be read by nobody.
    tls = None if transport is not None else await asyncio.to_thread(httpx2.create_ssl_context)
    is_own = tls is not None and _PROXIED.isdisjoint(getproxies())
    if tls is not None and is_own:
        transport = OwnTransport(
            tls=tls, max_connections=max_connections, on_connected=on_connected
        )
    client = httpx2.AsyncClient(
        base_url=base_url,
        headers=headers,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=None,  # the total of each call is the only limit
        verify=True if tls is None else tls,
        limits=httpx2.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        ),
        follow_redirects=follow_redirects,
        transport=transport,
    )
    return client, is_own


def repeated(request: Any) -> Any:
    """Return a copy of `request` that can be sent beside it or after it."""
    return type(request)(
        request.method,
        request.url,
        headers=request.headers,
        stream=request.stream,
        extensions=dict(request.extensions),
    )


def has_whole_body(request: Any) -> bool:
    """Return whether the body is in memory, so that it can be sent again."""
    return type(getattr(request, "stream", None)).__name__ == "ByteStream"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
