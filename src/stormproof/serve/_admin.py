"""The admin listener: health, metrics and a rehearsal of the drain, answered from a thread."""

import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Protocol

from stormproof.errors import InvalidSetting, PortInUse

from ._jobs import LONGEST_BODY, Ask
from ._jobs import answer as answer_jobs
from ._snapshot import WorkerSnapshot

STUCK_AFTER = 1.0
"""Seconds without a heartbeat after which a loop counts as stuck."""

_LOOPBACK = "127.0.0.1"
_IDLE = 5.0
"""Seconds that a client of this listener has to send its request."""

_JSON = "application/json"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

_Answer = tuple[int, str, str]
_Answers = Callable[[str, str, bytes, str], _Answer | None]


class Snapshots(Protocol):
    """Who knows the workers: an `Observer` of one, or a supervisor of many."""

    def __call__(self, *, with_open: bool) -> Sequence[WorkerSnapshot]:
        """Return each worker's state; `with_open` asks for what a SIGTERM would find."""
        ...


def parse_admin(text: str) -> tuple[str, int]:
    """Return host and port of `PORT`, which means loopback, or of `HOST:PORT`.

    Raises:
        InvalidSetting: It is neither.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise InvalidSetting(
            f"--admin must be PORT (then on {_LOOPBACK}) or HOST:PORT; got {text!r}"
        )
    return host.strip("[]") or _LOOPBACK, int(port)


class AdminServer:
    """Answers GET /livez, /readyz, /metrics, /primitives, /drain and /jobs from its own threads.

    It speaks also while the event loop is stuck, which is what it is for. Everything it tells
    is meant for operators: bind it to loopback, or to a network that only they reach.

    Args:
        snapshots: Where the workers' states come from; called in a thread, for each request.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        jobs: Whom to ask about durable jobs.
        may_change_jobs: Whether POST /jobs/retry and /jobs/cancel do something.

    Raises:
        PortInUse: The address cannot be listened on.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        *,
        host: str = _LOOPBACK,
        port: int = 0,
        jobs: Ask = lambda _: None,
        may_change_jobs: bool = False,
    ) -> None:
        def answer(method: str, path: str, body: bytes, kind: str) -> _Answer | None:
            if path.startswith("/jobs"):
                told = answer_jobs(method, path, body, kind, jobs, may_change=may_change_jobs)
                return told and (told[0], _JSON, json.dumps(told[1], indent=2) + "\n")
            return _answer(path, snapshots) if method == "GET" else None

        try:
            self._server = _Listener((host, port), answer)
        except OSError as exc:
            reason = exc.strerror or exc
            raise PortInUse(
                f"the admin listener cannot have {host}:{port}: {reason}; give another --admin"
            ) from exc
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="stormproof admin",
            daemon=True,
        )

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """The address for a browser."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> "AdminServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop to listen; answers under way are not waited for."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], answer: _Answers) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.answer = answer
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the resolver for this machine's name.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that leaves early is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    server_version = "stormproof"
    sys_version = ""
    timeout = _IDLE

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._refuse()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._refuse()

    do_DELETE = do_PATCH = do_OPTIONS = do_PUT

    def log_message(self, *args: Any) -> None:
        """Nothing: probes are not worth a line."""

    def _answer(self) -> None:
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LONGEST_BODY:
            self._send(413, _JSON, json.dumps({"detail": f"at most {LONGEST_BODY} bytes"}))
            return
        body, kind = self.rfile.read(int(length)), self.headers.get("content-type", "")
        told = self.server.answer(self.command, self.path.partition("?")[0], body, kind)
        if told is None:
            self._refuse()
        else:
            self._send(*told)

    def _refuse(self) -> None:
        self._send(405, _JSON, json.dumps({"detail": "the admin listener only answers GET"}))

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.send_header("connection", "close")
        if status == 405:
            self.send_header("allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _answer(path: str, snapshots: Snapshots) -> _Answer:
    match path:
        case "/livez":
            return _health(live(snapshots(with_open=False)))
        case "/readyz":
            return _health(ready(snapshots(with_open=False)))
        case "/metrics":
            return 200, _PROMETHEUS, metrics(snapshots(with_open=False))
        case "/primitives":
            return 200, _JSON, json.dumps(counts(snapshots(with_open=False)), indent=2) + "\n"
        case "/drain":
            report = rehearsal(snapshots(with_open=True))
            return 200, _JSON, json.dumps(report, indent=2) + "\n"
    paths = ["/livez", "/readyz", "/metrics", "/primitives", "/drain", "/jobs"]
    return 404, _JSON, json.dumps({"detail": f"no {path} here", "paths": paths})


def _health(report: dict[str, Any]) -> _Answer:
    return (200 if report["status"] == "ok" else 503), _JSON, json.dumps(report)


def live(workers: Sequence[WorkerSnapshot]) -> dict[str, Any]:
    """Say "ok" unless no worker's loop has beaten within `STUCK_AFTER`.

    With several workers one stuck loop is no reason to restart all of them.
    """
    workers = _present(workers)
    stuck = [_stuck(worker) for worker in workers if _is_stuck(worker)]
    is_good = not workers or len(stuck) < len(workers)
    return {"status": "ok" if is_good else "unavailable", "stuck": stuck}


def ready(workers: Sequence[WorkerSnapshot]) -> dict[str, Any]:
    """Say "ok" when at least one worker is ready as it says itself, and its loop beats."""
    workers = _present(workers)
    count = sum(
        worker.phase == "ready" and not worker.unready and not _is_stuck(worker)
        for worker in workers
    )
    status = "ok" if count else "unavailable"
    answer = {"status": status, "ready": count, "phases": [worker.phase for worker in workers]}
    reasons = sorted({reason for worker in workers for reason in worker.unready})
    return {**answer, "reasons": reasons} if reasons else answer


def counts(workers: Sequence[WorkerSnapshot]) -> dict[str, Any]:
    """Return the limits, pools and quotas of each worker, with their counts."""
    return {
        "workers": [
            {"pid": worker.pid, "primitives": [asdict(one) for one in worker.primitives]}
            for worker in _present(workers)
        ]
    }


def rehearsal(workers: Sequence[WorkerSnapshot]) -> dict[str, Any]:
    """Say what a SIGTERM now would find open, the oldest first, worker by worker.

    What is named would be lost only if it outlasts the grace: requests, streams and supervised
    tasks are waited for. Of kind "other" are tasks that no drain waits for, unless the request
    that started one waits for it.
    """
    workers = _present(workers)
    return {
        "open": {
            kind: sum(loss.kind == kind for worker in workers for loss in worker.open)
            for kind in ("request", "stream", "task", "other")
        },
        "workers": [
            {
                "pid": worker.pid,
                "phase": worker.phase,
                "grace_seconds": worker.grace,
                "open": [
                    {**asdict(loss), "age": round(loss.age, 3)}
                    for loss in sorted(worker.open, key=lambda loss: -loss.age)
                ],
            }
            for worker in workers
        ],
    }


def metrics(workers: Sequence[WorkerSnapshot]) -> str:
    """Return the Prometheus text for all `workers` together: sums, and the worst lag.

    A supervisor keeps its counters from falling by adding one snapshot of phase "gone" with
    the sums of workers that have ended.
    """
    present = _present(workers)
    phases = sorted({worker.phase for worker in present})
    classes = sorted({name for worker in workers for name in worker.responses})
    lines: list[str] = []

    def add(name: str, kind: str, what: str, samples: Mapping[str, float]) -> None:
        lines.extend([f"# HELP {name} {what}", f"# TYPE {name} {kind}"])
        lines.extend(f"{name}{labels} {value}" for labels, value in samples.items())

    def total(name: str, among: Sequence[WorkerSnapshot]) -> dict[str, float]:
        return {"": sum(getattr(worker, name) for worker in among)}

    def worst(name: str) -> dict[str, float]:
        return {"": max((getattr(worker, name) for worker in present), default=0.0)}

    counts = {f'{{phase="{p}"}}': sum(w.phase == p for w in present) for p in phases}
    responses = {f'{{class="{c}"}}': sum(w.responses.get(c, 0) for w in workers) for c in classes}
    add("stormproof_workers", "gauge", "Worker processes by phase.", counts)
    add("stormproof_requests_in_flight", "gauge", "Requests in flight.", total("requests", present))
    add("stormproof_streams_open", "gauge", "Streams open.", total("streams", present))
    add("stormproof_losses_total", "counter", "What drains have cut.", total("losses", workers))
    add("stormproof_responses_total", "counter", "Responses by class of status.", responses)
    add("stormproof_loop_lag_seconds", "gauge", "Worst lag of 10 s.", worst("loop_lag"))
    add("stormproof_loop_beat_age_seconds", "gauge", "Oldest heartbeat.", worst("beat_age"))
    add("process_resident_memory_bytes", "gauge", "Resident memory.", total("rss_bytes", present))
    return "\n".join(lines) + "\n"


def _present(workers: Sequence[WorkerSnapshot]) -> list[WorkerSnapshot]:
    return [worker for worker in workers if worker.phase != "gone"]


def _is_stuck(worker: WorkerSnapshot) -> bool:
    return worker.beat_age > STUCK_AFTER or worker.phase == "silent"


def _stuck(worker: WorkerSnapshot) -> dict[str, Any]:
    return {"pid": worker.pid, "seconds": round(worker.beat_age, 3), "at": worker.stuck_at}
