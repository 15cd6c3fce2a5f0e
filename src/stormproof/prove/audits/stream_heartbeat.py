"""`stream-heartbeat`: a stream on which nothing happens says so before a proxy cuts it."""

from collections.abc import Mapping, Sequence
from typing import Any

from stormproof.prove._audit import Audit, Fix, Judgement, not_applicable, not_measured
from stormproof.prove._recording import Recording

LIMIT = 20.0
"""Seconds without a byte: a third of what nginx and an ALB wait (60 s; Heroku 55 s)."""


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("patience")
    if record is None or record.problem:
        return not_measured("no stream was waited for: the attack patience was not played")
    streams: Sequence[Mapping[str, Any]] = record.facts.get("streams", ())
    seen = [stream for stream in streams if 200 <= stream["status"] < 300]
    if not seen:
        return not_applicable("the app has no stream that stays open")
    # One that ended within the limit needs no heartbeat.
    silent = [stream for stream in seen if stream["silence"] >= LIMIT]
    longest = max(stream["silence"] for stream in seen)
    losses = [
        f"{stream['route']}: no byte for {stream['silence']:.0f} s, {stream['pieces']} pieces"
        for stream in silent
    ]
    return Judgement(
        outcome="fail" if silent else "pass",
        display=f"{len(silent)} of {len(seen)} streams were silent for {LIMIT:.0f} s: {losses[0]}"
        if silent
        else f"{len(seen)} of {len(seen)} streams sent something at least every {longest:.1f} s",
        value=longest,
        unit="s",
        limit=LIMIT,
        losses=tuple(losses[:5]),
        routes=tuple(stream["route"] for stream in silent),
    )


AUDIT = Audit(
    id="stream-heartbeat",
    is_must=False,
    passing="An idle stream sends a heartbeat before a proxy would cut it",
    failing="An idle stream is silent until a proxy cuts it",
    why=(
        "A proxy takes a silent connection for a dead one: nginx and an AWS load balancer close "
        "it after 60 s, Heroku after 55 s, Cloudflare after 100 s. The browser comes again and "
        "has missed what happened in between, every minute, at quiet times. And a server that "
        "never writes does not notice that a client is gone (a phone in a tunnel), and keeps it "
        "as a subscriber."
    ),
    fixes=(
        Fix(
            title="FastAPI's own event stream, which sends a comment every 15 s",
            before=(
                "@app.get('/events')\n"
                "async def events() -> StreamingResponse:\n"
                "    return StreamingResponse(lines(), media_type='text/event-stream')\n"
            ),
            after=(
                "@app.get('/events', response_class=EventSourceResponse)\n"
                "async def events() -> AsyncIterator[Event]:\n"
                "    async for event in hub.subscribe():\n"
                "        yield event\n"
            ),
        ),
        Fix(
            title="With stormproof: a heartbeat, and an end for readers who stalled",
            before="return StreamingResponse(lines(), media_type='text/event-stream')\n",
            after="return SSEResponse(events(), heartbeat=15.0)\n",
        ),
    ),
    attacks=("patience",),
    judge=_judge,
    weight=2,
)
