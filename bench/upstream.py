"""What a fan-out to three upstreams costs and how late it is, beside the blog post's way.

`python bench/upstream.py` takes about 3 minutes; with `tail` or `cpu`, half of that. An upstream
server runs in a process of its own and answers after 2 ms, and one answer in a hundred after 1 s,
by a fixed seed. The ways run in turns, so that a busy machine slows all of them.

- tail: p99 of the aggregate, requests that the upstream got, and complete answers.
- cpu: user and system time of this process for each aggregate, all answers quick.

With `uvloop` on that loop instead of asyncio's.
"""

# ruff: noqa: T201

import asyncio
import multiprocessing
import platform
import random
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import uvloop

from stormproof import AiohttpTransport, Budget, Hedge, Upstream

TAIL_RATE = 40
CPU_RATE = 80
TAIL_SECONDS = 9
CPU_SECONDS = 3
ROUNDS = 3
WARM_UP_SECONDS = 2
PATHS = ("1", "2", "3")
SLOW_SHARE = 0.01
SLOW = 1.0
USUAL = 0.002
PARTS = {"tail": ("/slow", TAIL_RATE, TAIL_SECONDS), "cpu": ("", CPU_RATE, CPU_SECONDS)}
FLOOR = "the same, all answers quick"
"""What this machine does at its best at this moment: no hedge can be earlier than that."""
P99_TARGET, LOAD_TARGET, COMPLETE_TARGET, CPU_TARGET = 0.050, 1.02, 0.99, 0.1

Aggregate = Callable[[str], Awaitable[int]]
Way = Callable[[], AbstractAsyncContextManager[Aggregate]]


@dataclass
class Turn:
    """What one way did in one turn."""

    seconds: list[float] = field(default_factory=list)
    complete: int = 0
    asked: int = 0
    cpu: float = 0.0


def serve(listener: socket.socket) -> None:
    """Answer for ever: `/<n>/slow` is slow at times, anything else is quick; `/asked` counts."""
    draw = random.Random(42)
    asked = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
                if path == b"/asked":
                    body = b"%d" % asked
                else:
                    asked += 1
                    is_slow = path.endswith(b"/slow") and draw.random() < SLOW_SHARE
                    await asyncio.sleep(SLOW if is_slow else USUAL)
                    body = b'{"ok": true}'
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                writer.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(converse, sock=listener)
        await server.serve_forever()

    asyncio.run(main())


def ways(base_url: str) -> dict[str, Way]:
    """Return the ways to ask three upstreams, each built as it is meant to be."""

    @asynccontextmanager
    async def post() -> AsyncIterator[Aggregate]:
        async def aggregate(suffix: str) -> int:
            async with httpx2.AsyncClient() as client:
                urls = [f"{base_url}/{path}{suffix}" for path in PATHS]
                answers = await asyncio.gather(*(client.get(url) for url in urls))
            return len([answer.json() for answer in answers])

        yield aggregate

    @asynccontextmanager
    async def one_client() -> AsyncIterator[Aggregate]:
        async with httpx2.AsyncClient() as client:

            async def aggregate(suffix: str) -> int:
                urls = [f"{base_url}/{path}{suffix}" for path in PATHS]
                answers = await asyncio.gather(*(client.get(url) for url in urls))
                return len([answer.json() for answer in answers])

            yield aggregate

    @asynccontextmanager
    async def ours(transport: httpx2.AsyncBaseTransport | None) -> AsyncIterator[Aggregate]:
        async with Upstream(
            base_url=base_url, timeout=2.0, transport=transport, hedge=Hedge(), budget=Budget(0.02)
        ) as upstream:

            async def aggregate(suffix: str) -> int:
                gathered = await upstream.gather(*(f"/{path}{suffix}" for path in PATHS))
                return len(gathered.json())

            yield aggregate

    return {
        "client per request (post)": post,
        "one httpx2 client": one_client,
        "Upstream, httpx2": lambda: ours(None),
        "Upstream, aiohttp": lambda: ours(AiohttpTransport()),
    }


async def turn(
    way: Way, suffix: str, rate: int, seconds: int, asked: Callable[[], Awaitable[int]]
) -> Turn:
    """Warm a way up at the same rate, then count what it does."""
    done = Turn()
    async with way() as aggregate:

        async def once() -> None:
            began_at = time.perf_counter()
            try:
                answers = await aggregate(suffix)
                done.complete += answers == len(PATHS)
            except Exception as exc:
                print(f"    {type(exc).__name__}: {exc}", file=sys.stderr)
            done.seconds.append(time.perf_counter() - began_at)

        await paced(rate, WARM_UP_SECONDS, once)
        done = Turn()
        asked_before, cpu_before = await asked(), time.process_time()
        await paced(rate, seconds, once)
        done.cpu = (time.process_time() - cpu_before) / len(done.seconds)
        done.asked = await asked() - asked_before
    return done


async def paced(rate: int, seconds: int, once: Callable[[], Coroutine[None, None, None]]) -> None:
    """Begin `rate` a second, whether the earlier ones are done or not, and wait for the last."""
    began_at = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        for number in range(rate * seconds):
            due_at = began_at + number / rate
            await asyncio.sleep(max(0.0, due_at - asyncio.get_running_loop().time()))
            group.create_task(once())


def p99(seconds: list[float]) -> float:
    """Return what 99 of 100 took at most."""
    return statistics.quantiles(seconds, n=100)[98]


def spread(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Return "median (lowest to highest)"."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return " ".join(
        (
            f"{middle * scale:.{digits}f}",
            f"({low * scale:.{digits}f}",
            f"to {high * scale:.{digits}f})",
        )
    )


def verdict(name: str, value: float, target: float, *, at_least: bool = False) -> None:
    """Print whether the target is met."""
    is_met = value >= target if at_least else value <= target
    sign = ">=" if at_least else "<="
    print(f"  {name}: {value:.4g}, target {sign} {target:g}: {'met' if is_met else 'MISSED'}")


async def main(base_url: str, wanted: list[str]) -> None:
    """Play the wanted parts, or all, and print them."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
    print(f"{ROUNDS} rounds in turns, three calls for each aggregate")
    async with httpx2.AsyncClient(timeout=None) as counter:

        async def asked() -> int:
            return int((await counter.get(f"{base_url}/asked")).text)

        for part, (suffix, rate, seconds) in PARTS.items():
            if set(wanted) & set(PARTS) and part not in wanted:
                continue
            turns: dict[str, list[Turn]] = {}
            for _ in range(ROUNDS):
                for name, way in ways(base_url).items():
                    if part == "cpu" or "post" not in name:
                        turns.setdefault(name, []).append(
                            await turn(way, suffix, rate, seconds, asked)
                        )
                if part == "tail":
                    way = ways(base_url)["Upstream, aiohttp"]
                    turns.setdefault(FLOOR, []).append(await turn(way, "", rate, seconds, asked))
            (print_tail if part == "tail" else print_cpu)(turns)


def print_tail(turns: dict[str, list[Turn]]) -> None:
    """Print how late, how complete, and how much was asked for."""
    print(f"\ntail at {TAIL_RATE}/s, {SLOW_SHARE:.0%} of the answers after {SLOW:g} s;", end=" ")
    print("median (lowest to highest)")
    for name, done in turns.items():
        late = spread([p99(turn.seconds) for turn in done], 1000)
        middle = spread([statistics.median(turn.seconds) for turn in done], 1000)
        load = [turn.asked / (len(turn.seconds) * len(PATHS)) for turn in done]
        whole = [turn.complete / len(turn.seconds) for turn in done]
        print(f"  {name:26} p50 {middle} ms, p99 {late} ms")
        print(f"  {'':26} upstream load {spread(load, 1, 4)}, complete {spread(whole, 1, 4)}")
        if name.startswith("Upstream"):
            verdict("p99, s", statistics.median(p99(turn.seconds) for turn in done), P99_TARGET)
            verdict("load", statistics.median(load), LOAD_TARGET)
            verdict("complete", statistics.median(whole), COMPLETE_TARGET, at_least=True)


def print_cpu(turns: dict[str, list[Turn]]) -> None:
    """Print the CPU for each aggregate, and the ratio to the post's, round by round."""
    print(f"\ncpu at {CPU_RATE}/s, for each aggregate; median (lowest to highest)")
    posts = next(iter(turns.values()))
    for name, done in turns.items():
        ratios = [ours.cpu / post.cpu for ours, post in zip(done, posts, strict=True)]
        cost = spread([turn.cpu for turn in done], 1000, 2)
        print(f"  {name:26} {cost} ms, of the post's {spread(ratios, 1, 3)}")
        if name.startswith("Upstream"):
            verdict("of the post's", statistics.median(ratios), CPU_TARGET)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(listener,), daemon=True
    )
    server.start()
    run = uvloop.run if "uvloop" in sys.argv else asyncio.run
    run(main(f"http://127.0.0.1:{listener.getsockname()[1]}", sys.argv[1:]))
    server.terminate()
