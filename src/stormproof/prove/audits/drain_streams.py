"""`drain-streams`: streams that are open at SIGTERM end properly inside the grace."""

from stormproof.prove._audit import Audit, Fix, Judgement, not_applicable, not_measured
from stormproof.prove._recording import AttackRecord, Recording, Request

from ._departure import by_route, counted, sent_at, signal_at, still_open, told


def _judge(recording: Recording) -> Judgement:
    if not any(route.kind in ("stream", "endless") for route in recording.routes):
        return not_applicable("the app has no stream among the routes that were asked")
    record = recording.attack("drain-streams")
    signal = None if record is None else signal_at(record)
    if record is None or signal is None:
        return not_measured("no SIGTERM was sent while streams were open")
    streams = _open_at(record, signal)
    if not streams:
        if any(request.ended == "complete" for request in record.of_group("stream")):
            return not_applicable("each stream had ended by itself before SIGTERM")
        return not_measured("no stream was open at SIGTERM")
    grace = float(recording.profile.get("grace", 30.0))
    lost = [stream for stream in streams if not _is_proper(stream, signal + grace)]
    display = _lost_words(streams, lost, signal) if lost else _ended_words(streams, record, signal)
    return Judgement(
        outcome="fail" if lost else "pass",
        display=display,
        value=float(len(lost)),
        unit="streams",
        limit=0.0,
        losses=told(lost, signal),
        series=(still_open(record, record.of_group("stream"), signal, what="streams"),),
        routes=tuple(dict.fromkeys(stream.route for stream in lost)),
        stack=_where(recording, lost),
    )


def _open_at(record: AttackRecord, signal: float) -> list[Request]:
    return [
        request
        for request in record.of_group("stream")
        if request.first_byte_at is not None and request.first_byte_at <= signal
        if 200 <= request.status < 300 and sent_at(request) <= signal
        if request.last_byte_at is None or request.last_byte_at > signal
    ]


def _is_proper(stream: Request, until: float) -> bool:
    ended_at = stream.last_byte_at
    return stream.ended == "complete" and ended_at is not None and ended_at <= until


def _lost_words(streams: list[Request], lost: list[Request], signal: float) -> str:
    cut = [stream for stream in lost if stream.ended != "complete"]
    last = max((stream.last_byte_at or signal) for stream in lost)
    how = counted(cut) if cut else "ended after the grace"
    return (
        f"{len(lost)} of {len(streams)} streams open at SIGTERM did not end properly ({how}), "
        f"the last {last - signal:.1f} s after it: {by_route(lost)}"
    )


def _ended_words(streams: list[Request], record: AttackRecord, signal: float) -> str:
    ends = sorted(stream.last_byte_at or signal for stream in streams)
    words = (
        f"all {len(streams)} streams open at SIGTERM ended with a final chunk, "
        f"{ends[0] - signal:.1f} to {ends[-1] - signal:.1f} s after it"
    )
    told_when = record.facts.get("sse")
    if told_when:
        with_retry = record.facts.get("sse-retry", 0)
        words += f"; {with_retry} of {told_when} event streams said when to come back (retry:)"
    return words


def _where(recording: Recording, lost: list[Request]) -> tuple[str, ...]:
    routes = (recording.route(id) for id in dict.fromkeys(stream.route for stream in lost))
    return tuple(route.where for route in routes if route is not None and route.where)


AUDIT = Audit(
    id="drain-streams",
    is_must=True,
    passing="Open streams end properly when the service stops",
    failing="Open streams are cut when the service stops",
    why=(
        "No server can end a stream that goes on for ever: plain uvicorn waits for it until the "
        "platform kills the process. Then every subscriber is cut in mid-chunk at once, the "
        "lifespan teardown never runs, and each deploy takes the whole grace period."
    ),
    fixes=(
        Fix(
            title="Plain FastAPI: end each stream by age; EventSource comes back by itself",
            before=(
                "async def events():\n"
                "    while True:\n"
                "        yield ServerSentEvent(data=await next_item())"
            ),
            after=(
                "async def events():\n"
                "    yield ServerSentEvent(retry=random.randint(1_000, 5_000))\n"
                "    ends_at = time.monotonic() + 15  # below the platform's grace\n"
                "    while time.monotonic() < ends_at:\n"
                "        with suppress(TimeoutError):\n"
                "            yield ServerSentEvent(data=await asyncio.wait_for(next_item(), 1))"
            ),
        ),
        Fix(
            title="With stormproof: a last event, a retry of its own for each, a final chunk",
            before="return StreamingResponse(events(), media_type='text/event-stream')",
            after=(
                "from stormproof.stream import SSEResponse\n\n"
                "stormproof.install(app, grace=25)\n\n"
                '@app.get("/events")\n'
                "async def stream() -> SSEResponse:\n"
                "    return SSEResponse(events())"
            ),
        ),
    ),
    attacks=("drain-streams",),
    judge=_judge,
    weight=5,
)
