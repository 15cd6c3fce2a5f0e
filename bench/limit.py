"""What a limiter costs: a free slot, a waiter, a cancellation, and a refusal, beside its peers.

Run it with `python bench/limit.py`; it takes about a minute. `python bench/limit.py storm` shows
what is kept useful at five times the load instead, beside a gate that only refuses, in 80 s;
`storm all` beside the seed and the peers, too, in four minutes. Peers are measured as far as they
are installed (`uv sync --group bench`). All are timed in turns in one process, in CPU
time of the thread, so that a busy machine disturbs all alike; ratios are taken pair by pair.
"""

# ruff: noqa: T201

import asyncio
import importlib.util
import json
import platform
import random
import socket
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from time import monotonic, sleep, thread_time_ns
from typing import Any

import limit_storm

from stormproof._core.asgi import send_answer
from stormproof._core.deadline import Deadline, in_force
from stormproof.limit import Admission, AdmissionRule, Limiter

PAIRS = 200
CALLS = 500
WAITERS = 10_000
SHEDS = 100
CLIENTS = 32
SHEDDINGS = 8

Gate = Callable[[], AbstractAsyncContextManager[Any]]


def peers() -> dict[str, Gate]:
    """Return a gate of ten for each peer that is installed."""
    makers: dict[str, Callable[[Any], Gate]] = {
        "anyio": lambda module: _same(module.CapacityLimiter(10)),
        "aiolimiter": lambda module: _same(module.AsyncLimiter(1e9, 1.0)),
        "nopanic": lambda module: module.bulkhead(10, max_wait=0.5).guard,
        "hyx.bulkhead": lambda module: _same(module.bulkhead(10, 100)),
        "pyresilience": lambda module: _pyresilience(module),
    }
    found: dict[str, Gate] = {}
    for name, make in makers.items():
        try:
            found[name] = make(importlib.import_module(name))
        except ImportError:
            print(f"  ({name} is not installed)")
    return found


def _same(gate: AbstractAsyncContextManager[Any]) -> Gate:
    return lambda: gate


def _pyresilience(module: Any) -> Gate:
    inner = importlib.import_module("pyresilience._bulkhead")
    bulkhead = inner.AsyncBulkhead(module.BulkheadConfig(max_concurrent=10, max_wait=0.5))

    class Held:
        async def __aenter__(self) -> None:
            if not await bulkhead.acquire():
                raise TimeoutError("no slot")

        async def __aexit__(self, *error: object) -> None:
            bulkhead.release()

    return _same(Held())


async def cost_ns(gate: Gate) -> float:
    """Return the nanoseconds of one enter + exit."""
    began = thread_time_ns()
    for _ in range(CALLS):
        async with gate():
            pass
    return (thread_time_ns() - began) / CALLS


async def semaphore_ns(semaphore: asyncio.Semaphore) -> float:
    """Return the nanoseconds of one enter + exit, without the call that makes a gate."""
    began = thread_time_ns()
    for _ in range(CALLS):
        async with semaphore:
            pass
    return (thread_time_ns() - began) / CALLS


def ratio_of(pairs: list[tuple[float, float]]) -> str:
    """Return "median (first to third quartile)" of second / first, and the median of second."""
    low, middle, high = statistics.quantiles([mine / theirs for theirs, mine in pairs], n=4)
    nanoseconds = statistics.median(mine for _, mine in pairs)
    return f"{middle:6.2f} ({low:.2f} to {high:.2f}) {nanoseconds:8.0f} ns"


async def free_slot(others: dict[str, Gate]) -> None:
    """Print what a free slot costs, against asyncio.Semaphore in the same moment."""
    semaphore = asyncio.Semaphore(10)
    gates: dict[str, Gate] = {"Limiter.slot()": Limiter(10).slot}
    keyed = Limiter(10)
    gates["Limiter.slot(key)"] = lambda: keyed.slot("tenant", 1)
    print(f"a free slot against asyncio.Semaphore, {PAIRS} pairs of {CALLS}; target 0.6")
    for name, gate in (gates | others).items():
        pairs = [(await semaphore_ns(semaphore), await cost_ns(gate)) for _ in range(PAIRS)]
        print(f"  {name:22}{ratio_of(pairs)}")
    gate = Limiter(10).slot
    with in_force(Deadline(asyncio.get_running_loop().time() + 600)):
        pairs = [(await semaphore_ns(semaphore), await cost_ns(gate)) for _ in range(PAIRS)]
    print(f"  {'... inside a deadline':22}{ratio_of(pairs)}")


async def waiters() -> None:
    """Print what a waiter with a time limit keeps in memory, and what cancelling one costs."""
    semaphore, never = asyncio.Semaphore(0), asyncio.Event()
    limiter = Limiter(2000, max_wait=600.0)
    for _ in range(limiter.capacity):
        await limiter.slot().__aenter__()

    async def in_limiter() -> None:
        async with limiter.slot():
            pass

    async def in_semaphore() -> None:
        await asyncio.wait_for(semaphore.acquire(), 600.0)

    async def nowhere() -> None:
        await asyncio.get_running_loop().create_future()

    print(f"{WAITERS} waiters with a time limit; targets 700 bytes, 30 µs")
    bare = (await waiting_cost(nowhere))[0]
    for name, call in (("Limiter", in_limiter), ("wait_for(Semaphore)", in_semaphore)):
        size, cancel = await waiting_cost(call)
        print(f"  {name:22}{size - bare:6.0f} bytes more than a bare task, cancel {cancel:.1f} µs")
    never.set()


async def waiting_cost(call: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Return bytes for each waiting task, and µs to cancel one of many, task included."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.ensure_future(call()) for _ in range(WAITERS)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    size = (tracemalloc.get_traced_memory()[0] - before) / WAITERS
    tracemalloc.stop()
    random.Random(1).shuffle(tasks)
    began = thread_time_ns()
    for start in range(0, WAITERS, 100):
        for task in tasks[start : start + 100]:
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    return size, (thread_time_ns() - began) / WAITERS / 1000


def refusing_app() -> Any:
    """Return an app that refuses at /shed in front of it, and at /route in an endpoint.

    At /server nothing but the server has anything to do.
    """
    from fastapi import FastAPI

    import stormproof

    limiter = Limiter(1, name="closed")
    limiter.close()
    app = FastAPI()

    @app.get("/route")
    async def route() -> None:
        async with limiter.slot():
            pass

    rules = [AdmissionRule(prefix="/shed", limiter=limiter)]
    stormproof.install(app, admission=Admission(rules=rules))
    body = b"{" + b" " * 150 + b"}"  # as long as what the others say

    async def alone_or_app(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != "/server":
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
        await send_answer(send, 503, headers, body)

    return alone_or_app


def refusals() -> None:
    """Print the CPU of a 503 from the admission against the same 503 from a route.

    On a server that has more requests waiting than it can answer, as under overload: between
    single requests its core is slowed down and its caches are cold, for 40 us more a request.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, "serve", str(port)])
    try:
        with ExitStack() as stack:
            connections = [stack.enter_context(connected(port)) for _ in range(CLIENTS)]
            paths = ("/server", "/route", "/shed")
            for path in paths:
                cpu_ns(server, connections, path)
            rounds = [
                [cpu_ns(server, connections, path) for path in paths] for _ in range(SHEDDINGS)
            ]
    finally:
        server.terminate()
        server.wait()
    print(f"a 503 from the admission against one from a route, uvicorn; {SHEDDINGS} rounds")
    print(f"  target 0.5            {ratio_of([(route, shed) for _, route, shed in rounds])}")
    less = [(route - server, shed - server) for server, route, shed in rounds]
    print(f"  less the server's     {ratio_of(less)}")


def connected(port: int) -> socket.socket:
    """Return a connection to the server, which may still be starting."""
    give_up_at = monotonic() + 30.0
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if monotonic() > give_up_at:
                raise
            sleep(0.1)


def cpu_ns(server: "subprocess.Popen[bytes]", connections: list[socket.socket], path: str) -> float:
    """Return the CPU of the server's process for one request, with one on each connection."""
    began = _cpu_seconds(server.pid)
    for _ in range(SHEDS):
        for connection in connections:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        for connection in connections:
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503"), answer[:100]
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
    return (_cpu_seconds(server.pid) - began) / SHEDS / len(connections) * 1e9


def _cpu_seconds(pid: int) -> float:
    """Return the time that the process was on a core, its first thread alone; Linux only."""
    with open(f"/proc/{pid}/schedstat") as stat:
        return int(stat.read().split()[0]) / 1e9


async def main() -> None:
    """Measure all on the running loop."""
    loop = type(asyncio.get_running_loop())
    print(f"{platform.python_implementation()} {platform.python_version()}, {loop.__module__}")
    await free_slot(peers())
    await waiters()


def storm_gate(name: str) -> Gate:
    """Return a gate of ten by its name, with what it needs to shed where it can."""
    if name == "Limiter":
        return Limiter(10).slot
    if name == "nothing":  # how late this machine is by itself
        closed = Limiter(1)
        closed.close()
        return closed.slot
    if name == "seed":
        return _same(asyncio.Semaphore(10))
    if name == "hyx":  # its queue has to be chosen: twice the slots is the best for this load
        return _same(importlib.import_module("hyx.bulkhead").bulkhead(10, 30))
    if name == "aiolimiter":
        return _same(importlib.import_module("aiolimiter").AsyncLimiter(10, 0.05))
    return peers()[name]


async def one_storm(name: str, seconds: float) -> None:
    """Let one gate have its storm on the running loop, and print what came of it."""
    print(json.dumps(await limit_storm.storm(storm_gate(name), seconds)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["storm"]:
        names, rounds, seconds = ["nothing", "Limiter"], 3, 4.0
        if sys.argv[2:] == ["all"]:
            names += ["seed", "nopanic", "pyresilience", "hyx", "aiolimiter", "anyio"]
            rounds, seconds = 2, 5.0
        limit_storm.compare(names, __file__, rounds, seconds)
        sys.exit()
    if sys.argv[1:2] == ["storm-one"]:
        run = importlib.import_module(sys.argv[3]).run
        run(one_storm(sys.argv[2], float(sys.argv[4])))
        sys.exit()
    if sys.argv[1:2] == ["serve"]:
        import uvicorn

        uvicorn.run(refusing_app(), port=int(sys.argv[2]), log_level="warning", access_log=False)
        sys.exit()
    asyncio.run(main())
    if importlib.util.find_spec("uvloop"):
        import uvloop

        uvloop.run(main())
    refusals()
