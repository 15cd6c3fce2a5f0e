"""The places that the value of an environment variable names: hosts and ports in its URLs."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

_PORTS: Mapping[str, int] = {
    "amqp": 5672,
    "amqps": 5671,
    "cockroachdb": 26257,
    "http": 80,
    "https": 443,
    "kafka": 9092,
    "mariadb": 3306,
    "memcached": 11211,
    "mongodb": 27017,
    "mssql": 1433,
    "mysql": 3306,
    "nats": 4222,
    "oracle": 1521,
    "postgres": 5432,
    "postgresql": 5432,
    "redis": 6379,
    "rediss": 6379,
    "smtp": 25,
    "smtps": 465,
    "valkey": 6379,
    "valkeys": 6379,
    "ws": 80,
    "wss": 443,
}

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"


def _url(stop: str) -> "re.Pattern[str]":
    """Return what finds URLs that end before one of these characters, or where the next begins."""
    other = rf"(?!\s*,\s*{_SCHEME}://)[^{stop}"
    return re.compile(
        rf"(?P<scheme>{_SCHEME})://(?P<authority>(?:{other}/?#])*)"
        rf"(?:/(?:{other}?#])*)?(?:\?(?P<query>(?:{other}#])*))?(?:#(?:{other}])*)?"
    )


_PLAIN = _url(r"\s")
_QUOTED = _url(r"\s\"'")
_BETWEEN = " \t\r\n,;"
_AROUND = _BETWEEN + "[]\"'"
_NAME = r"(?:\[[0-9A-Fa-f:.%]+\]|[\w.%-]+)"
_HOST = re.compile(rf"(?P<host>{_NAME})(?::(?P<port>\d+))?")
_HOSTS = re.compile(rf"(?:{_NAME}(?::\d+)?,?)*")


@dataclass(frozen=True, slots=True)
class Place:
    """One host and port.

    Attributes:
        url: The URL that names it, passwords included: not for printing.
        host: Without brackets; "" for this machine's own default, such as a Unix socket.
        port: As written, or its scheme's own; None: unknown.
        span: Where in the variable's value host and port are written.
        url_at: Where in the value the URL begins.
        is_fixed: Whether it is named where no proxy's address could stand.
    """

    url: str = field(repr=False)
    host: str
    port: int | None
    span: tuple[int, int]
    url_at: int
    is_fixed: bool = False

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        name = self.host.lower().rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or address.is_unspecified


def places(value: str) -> tuple[Place, ...]:
    """Return what a value names: a URL, several with commas between, or a JSON list of them.

    Unix sockets and empty hosts (SQLite, `file:`) are no places.
    """
    is_quoted = value.lstrip().startswith(("[", '"', "'"))  # a list as pydantic-settings reads it
    url, between = (_QUOTED, _AROUND) if is_quoted else (_PLAIN, _BETWEEN)
    found: list[Place] = []
    at = 0
    for match in url.finditer(value):
        if value[at : match.start()].strip(between):
            return ()
        found += _places_of(match)
        at = match.end()
    return () if value[at:].strip(between) else tuple(found)


def _places_of(match: "re.Match[str]") -> Iterator[Place]:
    hosts = parse_qs(match["query"] or "").get("host", [])
    default = _PORTS.get(match["scheme"].split("+")[0].lower())
    for host in hosts:  # as libpq reads it: it replaces the authority's
        if not host.startswith(("/", "@")):
            name = host.partition(":")[0]
            span = match.span("query")
            yield Place(match[0], name, default, span, match.start(), is_fixed=True)
    if hosts:
        return
    begin, end = match.span("authority")
    begin += match["authority"].rfind("@") + 1
    if _HOSTS.fullmatch(match.string, begin, end) is None:
        begin, end = _behind_password(match)
    for piece in _HOST.finditer(match.string, begin, end):
        host = unquote(piece["host"]).strip("[]")
        if host and not host.startswith("/"):
            port = int(piece["port"]) if piece["port"] else default
            yield Place(match[0], host, port, piece.span(), match.start())


def _behind_password(match: "re.Match[str]") -> tuple[int, int]:
    """Return where the hosts are when a password holds a bare `/`, `?` or `#`.

    No URL by the standard, but SQLAlchemy reads it; what is not read here would not be refused.
    """
    begin = match.string.rfind("@", match.start(), match.end()) + 1
    hosts = _HOSTS.match(match.string, begin, match.end()) if begin else None
    return hosts.span() if hosts is not None else (0, 0)
