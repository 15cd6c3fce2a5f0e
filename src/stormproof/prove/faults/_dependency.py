"""What the app depends on, read from its environment, and the way around through the proxies."""

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from stormproof.errors import InvalidSetting

from ._place import Place, places
from ._proxy import FaultProxy

_URL_NAME = re.compile(r"(?i)(?:.*_)?(?:URL|URI|DSN)S?")

# Read by tools that build and install, by the platform or by browsers, not by a service at work.
_NOT_THE_APPS = re.compile(
    r"(?i).*_PROXY|.*_PORT(?:_\d+_\w+)?|(?:.*_)?ORIGINS?"
    r"|(?:PIP|UV|NPM_CONFIG|CONDA|POETRY|CARGO|RUSTUP|HOMEBREW|GIT|GITHUB|GITLAB|CI|BUILDKIT"
    r"|DOCKER|KUBERNETES|SSH|DBUS|XDG|VSCODE|PYENV|NVM|GOPROXY|GOSUMDB)(?:_.*)?"
)


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something the app reaches over TCP on this machine, by a URL in its environment.

    Attributes:
        name: The variable; `UPSTREAMS[0]` where its value names several.
        url: As the app would read it, passwords included: not for printing.
        host: Where it is.
        port: From the URL, or its scheme's own.
        variable: The environment variable.
        value: All of the variable's value.
        span: Where in `value` host and port are written.
        url_at: Where in `value` the URL begins.
    """

    name: str
    url: str = field(repr=False)
    host: str
    port: int
    variable: str
    value: str = field(repr=False)
    span: tuple[int, int]
    url_at: int

    def url_through(self, port: int) -> str:
        """Return the URL with a port on 127.0.0.1 in place of its own."""
        begin, end = (place - self.url_at for place in self.span)
        return f"{self.url[:begin]}127.0.0.1:{port}{self.url[end:]}"


def dependencies(
    environ: Mapping[str, str],
    given: Mapping[str, str],
    *,
    allow_remote: Collection[str] = (),
) -> tuple[Dependency, ...]:
    """Return what the app depends on, as far as URLs in its environment say.

    Variables whose value is a URL, or several with commas between them, whose host is this
    machine. SQLite, Unix sockets and what tools alone read (`PIP_*`, `HTTP_PROXY`) are none.

    Args:
        environ: The app's environment.
        given: Name to URL; becomes part of the environment.
        allow_remote: Names that may lead elsewhere; those are left alone.

    Raises:
        InvalidSetting: A URL leads to another machine, or a given one cannot be read.
    """
    found: list[Dependency] = []
    for name, value in sorted({**environ, **given}.items()):
        if name not in given and _NOT_THE_APPS.fullmatch(name):
            continue
        named = places(value)
        if name in given and not named:
            raise InvalidSetting(f"dependency {name!r} is no URL with a host and a port")
        for number, place in enumerate(named):
            label = f"{name}[{number}]" if len(named) > 1 else name
            if not {name, label} & set(allow_remote) and _is_dependency(name, label, place):
                found.append(_dependency(name, label, value, place))
    return tuple(found)


@asynccontextmanager
async def rerouted(
    dependencies: Sequence[Dependency],
) -> AsyncIterator[tuple[dict[str, FaultProxy], dict[str, str]]]:
    """Put a proxy before each dependency, while the context is open.

    Yields:
        The proxies by name, and the environment variables that lead to them.
    """
    async with AsyncExitStack() as stack:
        proxies: dict[str, FaultProxy] = {}
        for one in dependencies:
            before = FaultProxy.before(one.name, one.host, one.port)
            proxies[one.name] = proxy = await stack.enter_async_context(before)
            proxy.url = one.url_through(proxy.port)
        yield proxies, _environment(dependencies, proxies)


def _environment(
    dependencies: Sequence[Dependency], proxies: Mapping[str, FaultProxy]
) -> dict[str, str]:
    """Return the variables with the proxies' addresses; written from the end, so spans hold."""
    environment: dict[str, str] = {}
    for one in sorted(dependencies, key=lambda one: one.span, reverse=True):
        value = environment.get(one.variable, one.value)
        begin, end = one.span
        there = f"127.0.0.1:{proxies[one.name].port}"
        environment[one.variable] = value[:begin] + there + value[end:]
    return environment


def _is_dependency(name: str, label: str, place: Place) -> bool:
    """Return whether to stand before this place; raises InvalidSetting when it is elsewhere."""
    if place.port is None and not _URL_NAME.fullmatch(name):
        return False
    if not place.is_here:
        raise InvalidSetting(
            f"{label} leads to {place.host}, and prove overloads what it finds: "
            f"point it at this machine, or leave it alone by --allow-remote {name}"
        )
    return place.port is not None and not place.is_fixed


def _dependency(name: str, label: str, value: str, place: Place) -> Dependency:
    assert place.port is not None
    return Dependency(
        name=label,
        url=place.url,
        host=place.host,
        port=place.port,
        variable=name,
        value=value,
        span=place.span,
        url_at=place.url_at,
    )
