"""What the drain asks of a running uvicorn, reached through its signal handler's owner."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any


class Uvicorn:
    """A running `uvicorn.Server` (0.54); its attributes are foreign, hence `Any`."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._adoptions: set[asyncio.Task[None]] = set()

    @staticmethod
    def owns(handler: object) -> Any | None:
        """Return the server that the signal handler `handler` is bound to, if it is uvicorn's."""
        owner = getattr(handler, "__self__", None)
        return owner if hasattr(owner, "should_exit") and hasattr(owner, "server_state") else None

    def stop_listening(self) -> None:
        """Close the listener, and take in who had connected by then; the rest goes on."""
        # uvicorn only looks at should_exit every 0.1 s, and who connects in that gap, or is
        # still in the kernel's queue when the socket closes, is reset: 6 to 12 clients under
        # 1500 new connections a second.
        waiting: list[socket.socket] = []
        for server in getattr(self._server, "servers", ()):
            listeners = [_duplicate(listener) for listener in server.sockets]
            server.close()
            for listener in listeners:
                with listener:
                    waiting += _accept_all(listener)
        for connected in waiting:
            adoption = asyncio.create_task(self._adopt(connected), name="stormproof adoption")
            self._adoptions.add(adoption)
            adoption.add_done_callback(self._adoptions.discard)

    def begin_shutdown(self) -> None:
        """Close the idle connections now, and let uvicorn go on to the end of the lifespan."""
        for connection in list(self._server.server_state.connections):
            connection.shutdown()
        # Not its handle_exit(): that records the signal and raises it again at the end, so a
        # clean shutdown would leave with status -15 instead of 0.
        self._server.should_exit = True

    def has_connections(self) -> bool:
        """Return whether any client is connected."""
        return bool(self._server.server_state.connections)

    def has_new_connections(self) -> bool:
        """Return whether a client has connected whose first request has not arrived."""
        connections = self._server.server_state.connections
        return bool(self._adoptions) or any(
            getattr(connection, "cycle", connection) is None for connection in connections
        )

    def abort_connections(self, tasks: Iterable["asyncio.Task[object]"]) -> None:
        """Drop the connections that are left, and wait for none of `tasks`."""
        # uvicorn waits for each connection and task without a limit (0.54).
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        for task in tasks:
            self._server.server_state.tasks.discard(task)

    def note_loss(self) -> None:
        """Let the `uvicorn` and `fastapi run` commands exit with 3."""
        # uvicorn.run() looks at `started` when its server has ended, and exits with 3 if it is
        # not set (0.54). With workers the parent's 0 stands; gunicorn would take a worker's 3
        # for an app that does not start, and stop all the others.
        if self._server.config.workers == 1 and not is_under_gunicorn():
            self._server.started = False

    async def _adopt(self, connected: socket.socket) -> None:
        """Serve a connection that uvicorn's own listener did not come to accept."""
        config = self._server.config
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # the client has left again
            await loop.connect_accepted_socket(
                lambda: config.http_protocol_class(
                    config=config,
                    server_state=self._server.server_state,
                    app_state=self._server.lifespan.state,
                ),
                connected,
                ssl=config.ssl,
            )


def is_under_gunicorn() -> bool:
    """Return whether a gunicorn arbiter started this process: it gives exit codes a meaning."""
    return "gunicorn.arbiter" in sys.modules


def _duplicate(listener: Any) -> socket.socket:
    """Return another handle of the same listening socket: the loop's own has no `accept`."""
    copy = socket.socket(fileno=os.dup(listener.fileno()))
    copy.setblocking(False)
    return copy


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """Accept what the kernel has ready."""
    accepted: list[socket.socket] = []
    with suppress(OSError):  # BlockingIOError: nobody is left
        while True:
            connected, _ = listener.accept()
            connected.setblocking(False)
            accepted.append(connected)
    return accepted
