"""`slow-reader`: a client that stops reading costs the server neither memory nor a connection."""

import statistics
from collections.abc import Iterable, Sequence

from stormproof.prove._audit import Audit, Fix, Judgement, Series, not_applicable, not_measured
from stormproof.prove._recording import AttackRecord, Recording, Request

from ._served import held_for

_PER_READER = 2_000_000
_SLACK = 16_000_000
"""Bytes that memory may grow: for each stalled reader, and for what else goes on."""

_SLOWER = 5.0
_SLOW = 0.25
"""How much slower the others may become: this many times, and at least these seconds."""

_SERVED = 0.9
_MB = 1_000_000


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("clients")
    if record is None or record.problem:
        return not_measured("no client stopped reading: the attack clients was not played")
    routes = record.facts.get("stalled-routes", ())
    if not routes:
        return not_applicable("no route streams or answers more than 256 kB")
    readers = [
        request
        for request in record.of_group("stalled")
        if request.first_byte_at is not None and request.status < 400
    ]
    if not readers:
        return not_measured(f"no stalled reader got an answer from {routes[0]}")
    growth = _growth(record)
    limit = _allowed(record, readers)
    losses = [*_buffered(growth, limit, readers), *_held(record, readers), *_slowed(record)]
    return Judgement(
        outcome="fail" if losses else "pass",
        display=losses[0]
        if losses
        else f"{len(readers)} stalled readers cost {growth / _MB:.0f} MB and no database "
        "connection; others were served as before",
        value=growth / _MB,
        unit="MB",
        limit=limit / _MB,
        losses=tuple(losses[:5]),
        series=(_memory(record),),
        routes=tuple(dict.fromkeys(request.route for request in readers)),
    )


def _allowed(record: AttackRecord, readers: Iterable[Request]) -> float:
    """Return by how many bytes memory may grow.

    An answer of a given length is in memory as a whole, which has a bound: it may stay there. One
    that is streamed has to wait for its reader.
    """
    sizes = {row.route: row.size_bytes for row in record.of_group("readers") if not _streams(row)}
    return _SLACK + sum(_PER_READER + 2 * sizes.get(reader.route, 0) for reader in readers)


def _streams(request: Request) -> bool:
    return "chunked" in request.headers.get("transfer-encoding", "")


def _growth(record: AttackRecord) -> float:
    """Return by how many bytes memory grew beyond what the same answers took when read well."""
    begun, ended = record.marks["stalled"], record.marks["stalled-ended"]
    before = [sample.rss_bytes for sample in record.samples if sample.at <= begun]
    during = [sample.rss_bytes for sample in record.samples if begun < sample.at <= ended]
    return max(0.0, max(during) - max(before)) if before and during else 0.0


def _buffered(growth: float, limit: float, readers: Sequence[Request]) -> list[str]:
    if growth <= limit:
        return []
    return [
        f"memory grew by {growth / _MB:.0f} MB while {len(readers)} readers had stopped reading "
        f"(at most {limit / _MB:.0f} MB would be buffers)"
    ]


def _held(record: AttackRecord, readers: Sequence[Request]) -> list[str]:
    held = held_for(record.facts.get("census-stalled"), readers)
    if not held:
        return []
    longest = max(float(checkout["held"]) for checkout in held)
    return [
        f"{len(held)} database connections were held for {len(readers)} readers who had stopped "
        f"reading, for up to {longest:.1f} s ({held[0].get('route')})"
    ]


def _slowed(record: AttackRecord) -> list[str]:
    calm = _others(record, "calm", "leaving")
    stalled = _others(record, "stalled", "stalled-ended")
    if not calm or not stalled:
        return []
    good = sum(_is_served(request) for request in stalled)
    if good < _SERVED * len(stalled) and all(map(_is_served, calm)):
        return [
            f"{len(stalled) - good} of {len(stalled)} other requests were not served while "
            "readers had stopped reading"
        ]
    before, after = _median(calm), _median(stalled)
    if after < max(_SLOWER * before, _SLOW):
        return []
    return [
        f"others waited {1000 * after:.0f} ms instead of {1000 * before:.0f} ms while readers "
        "had stopped reading"
    ]


def _is_served(request: Request) -> bool:
    return request.is_good or request.status == 404


def _others(record: AttackRecord, first: str, last: str) -> list[Request]:
    begun, ended = record.marks[first], record.marks[last]
    return [row for row in record.of_group("others") if begun <= row.intended_at <= ended]


def _median(rows: Iterable[Request]) -> float:
    return statistics.median(row.latency or 0.0 for row in rows)


def _memory(record: AttackRecord) -> Series:
    return Series(
        title="Memory of the app",
        unit="MB",
        points=tuple((sample.at, sample.rss_bytes / _MB) for sample in record.samples),
        marks=record.marks,
    )


AUDIT = Audit(
    id="slow-reader",
    is_must=False,
    passing="A client that stops reading costs neither memory nor a database connection",
    failing="A client that stops reading costs the server memory or a database connection",
    why=(
        "A laptop that goes to sleep, a phone in a tunnel, a paused download: the connection "
        "stays open and nobody reads. A source that goes on without waiting fills a queue until "
        "the process is killed for its memory. A session that is open as long as the answer is "
        "sent keeps its connection: five sleeping laptops empty a pool of five."
    ),
    fixes=(
        Fix(
            title="Let the reader set the pace, and read the database in short pieces",
            before=(
                "@app.get('/export')\n"
                "async def export(session: Session) -> StreamingResponse:\n"
                "    return StreamingResponse(rows(session))  # held until the last byte is read\n"
            ),
            after=(
                "async def rows() -> AsyncIterator[bytes]:\n"
                "    last = 0\n"
                "    while page := await read_page(after=last):  # a short session of its own\n"
                "        last = page[-1].id\n"
                "        yield as_csv(page)  # waits here while nobody reads\n"
            ),
        ),
        Fix(
            title="With stormproof: rows by batches, and streams that drop a stalled reader",
            before="return StreamingResponse(rows(session))\n",
            after="return RowsResponse(pages(), format='csv')\n",
        ),
    ),
    attacks=("clients",),
    judge=_judge,
    weight=2,
)
