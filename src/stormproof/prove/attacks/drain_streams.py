"""The drain with streams: SIGTERM while they are open, and how each of them ends."""

import asyncio
from itertools import cycle, islice

from stormproof.prove._attack import Attack, Grounds, Scene
from stormproof.prove.load import Shot, StreamReader

from ._departure import patience, send_signal, wait_for_end

_STREAMS = 40
"""Below 50, where it would be fair to ask that their ends are spread over time."""

_OPEN_WITHIN = 3.0
_WATCH = 0.5


async def _run(scene: Scene) -> None:
    """Open streams, send SIGTERM, and read on until each has ended or the grace is over."""
    shots = scene.shots("endless", "stream")
    count = max(round(_STREAMS * max(scene.scale, 0.5)), len(shots))
    told = asyncio.Event()
    readers: list[StreamReader] = []
    tasks = [
        asyncio.ensure_future(_keep_open(scene, shot, told, readers))
        for shot in islice(cycle(shots), count)
    ]
    try:
        await _all_begun(scene, readers, count)
        signal = await send_signal(scene)
        told.set()
        await wait_for_end(scene, signal)
        await asyncio.gather(*tasks)  # the server has gone, so each has come to its end
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    _note_events(scene, readers, signal)


async def _keep_open(
    scene: Scene, shot: Shot, told: asyncio.Event, readers: list[StreamReader]
) -> None:
    """Read a stream to its end, and open it again as long as the server was not told to stop."""
    while not told.is_set():
        async with StreamReader(scene.port, shot, ledger=scene.ledger, group="stream") as reader:
            readers.append(reader)
            await reader.wait_end(patience(scene) + _OPEN_WITHIN)
        if not 200 <= reader.status < 300:
            return


async def _all_begun(scene: Scene, readers: list[StreamReader], count: int) -> None:
    """Wait until so many streams have sent something, for some seconds at most."""
    ends_at = scene.ledger.now() + _OPEN_WITHIN
    while scene.ledger.now() < ends_at:
        if sum(bool(reader.chunks) for reader in readers) >= count:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(_WATCH)


def _note_events(scene: Scene, readers: list[StreamReader], signal: float) -> None:
    """Note how many of the event streams that were open said when to come back."""
    open_then = [
        reader
        for reader in readers
        if reader.chunks and (reader.ended_at is None or reader.ended_at > signal)
        if "event-stream" in reader.headers.get("content-type", "")
    ]
    scene.facts["sse"] = len(open_then)
    scene.facts["sse-retry"] = sum(reader.retry_ms is not None for reader in open_then)


def _fits(grounds: Grounds) -> str:
    return "" if grounds.of_kind("endless", "stream") else "the app has no stream"


ATTACK = Attack(
    name="drain-streams",
    title="SIGTERM while streams are open",
    seconds=6.0,
    run=_run,
    fits=_fits,
)
