"""The listening socket: what it passes on to its connections, and what systemd may pass to us."""

import os
import socket

import pytest

from stormproof.errors import InvalidSetting, PortInUse
from stormproof.serve._listen import addresses_of, open_listeners
from stormproof.serve._options import ServeOptions

HERE = ServeOptions(port=0)


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="not on this system")
def test_connections_keep_little_unsent_and_know_that_they_are_tcp() -> None:
    """asyncio sets TCP_NODELAY only on a socket whose protocol is TCP by name."""
    (listener,) = open_listeners(HERE, {})
    with listener, socket.create_connection(listener.getsockname()):
        listener.settimeout(5.0)
        connected, _ = listener.accept()
        with connected:
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 16384
            assert connected.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}]
)
def test_sockets_passed_to_another_process_are_left_alone(environ: dict[str, str]) -> None:
    before = dict(environ)
    (listener,) = open_listeners(HERE, environ)
    with listener:
        assert addresses_of([listener], HERE).startswith("http://127.0.0.1:")
        assert environ == before


@pytest.mark.parametrize("count", ["", "none", "0", "-1"])
def test_nonsense_from_systemd_is_a_wrong_setting(count: str) -> None:
    environ = {"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid())}
    with pytest.raises(InvalidSetting, match="LISTEN_FDS"):
        open_listeners(HERE, environ)
    assert environ == {}


def test_address_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ServeOptions(port=taken.getsockname()[1])
        with pytest.raises(PortInUse, match="is in use"):
            open_listeners(options, {})
