"""Listening sockets: opened here, or taken over from systemd."""

import errno
import os
import socket
from collections.abc import MutableMapping, Sequence

from stormproof.errors import InvalidSetting, PortInUse

from ._options import ServeOptions

_BACKLOG = 2048

_UNSENT_BYTES = 16384
"""What a stalled reader may leave unsent in the kernel: 0.2 MB in all instead of 4 MB."""

_FIRST_INHERITED = 3
"""The first file descriptor that systemd hands over (sd_listen_fds(3))."""


def open_listeners(
    options: ServeOptions, environ: MutableMapping[str, str] | None = None
) -> list[socket.socket]:
    """Return the sockets to serve on: systemd's if it passed any, else one for `options`.

    The variables of the hand-over (`LISTEN_FDS` and its kin) are taken out of `environ`, so
    that no child process takes them for its own. The caller closes the sockets.

    Raises:
        PortInUse: The address is taken, unknown here, or needs more rights.
        InvalidSetting: systemd passed something that nobody can be served on.
    """
    inherited = _inherited(os.environ if environ is None else environ)
    listeners = inherited or [_bind(options)]
    for listener in listeners:
        # The flag belongs to the socket, which all workers share: it is set once, here.
        listener.setblocking(False)
        _limit_unsent(listener)
    return listeners


def addresses_of(listeners: Sequence[socket.socket], options: ServeOptions) -> str:
    """Return the addresses in words, for example `http://127.0.0.1:8000`."""
    scheme = "http" if options.ssl_certfile is None else "https"
    return ", ".join(_address_of(listener, scheme) for listener in listeners)


def _address_of(listener: socket.socket, scheme: str) -> str:
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name if isinstance(name, str) else name.decode(errors='replace')}"
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _bind(options: ServeOptions) -> socket.socket:
    try:
        return _listen(options.host, options.port)
    except (OSError, OverflowError) as exc:
        is_taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
        if is_taken and options.is_port_flexible:
            return _listen(options.host, 0)
        raise _why_not(exc, options) from exc


def _listen(host: str, port: int) -> socket.socket:
    # IPPROTO_TCP by name: asyncio sets TCP_NODELAY only where it sees this protocol.
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _limit_unsent(listener: socket.socket) -> None:
    """Let each accepted connection keep little unsent; it inherits this from its listener."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)


def _why_not(exc: OSError | OverflowError, options: ServeOptions) -> PortInUse:
    place = f"{options.host}:{options.port}"
    code = exc.errno if isinstance(exc, OSError) else None
    if code == errno.EADDRINUSE:
        return PortInUse(f"{place} is in use; stop what listens there or give another --port")
    if code in (errno.EACCES, errno.EPERM):
        return PortInUse(f"{place} may not be used by this user; give a --port above 1023")
    return PortInUse(f"cannot listen on {place}: {exc}; give another --host or --port")


def _inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Take over what systemd's socket unit holds open for this process, if it is meant for us."""
    pid, count = environ.get("LISTEN_PID"), environ.get("LISTEN_FDS")
    if pid != str(os.getpid()) or count is None:
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if not count.isdecimal() or int(count) == 0:
        raise InvalidSetting(f"LISTEN_FDS must be a number of sockets, 1 or more; got {count!r}")
    return [_adopt(number) for number in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count))]


def _adopt(number: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=number)
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise InvalidSetting(f"LISTEN_FDS: descriptor {number} is no socket ({exc})") from exc
    if not is_listening or listener.type != socket.SOCK_STREAM:
        raise InvalidSetting(
            f"LISTEN_FDS: descriptor {number} does not listen for streams; "
            "set ListenStream= and Accept=no in the socket unit"
        )
    listener.set_inheritable(False)
    return listener
