"""`slow-sender`: a request of which only half comes is ended by a limit, and hinders nobody."""

from collections.abc import Sequence

from stormproof.prove._audit import Audit, Fix, Judgement, not_measured
from stormproof.prove._recording import AttackRecord, Recording, Request

from ._served import held_for

LIMIT = 20.0
"""Seconds: what Apache's mod_reqtimeout allows for a head, and for a body."""

_SERVED = 0.9
"""Share of the other clients that must be served meanwhile."""

_GROUPS = ("half-head", "half-body")


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("patience")
    halves = [] if record is None or record.problem else _sent(record)
    if record is None or not halves:
        return not_measured("no half request was sent: the attack patience was not played")
    records = [record, *recording.measured("clients")]
    kept = [request for request in halves if request.ended == "timeout"]
    hindered = [said for each in records for said in _hindered(each)]
    losses = [_kept_said(kept, halves)] if kept else []
    losses += hindered
    longest = max((request.latency or 0.0) for request in halves)
    return Judgement(
        outcome="fail" if losses else "pass",
        display=losses[0]
        if losses
        else f"{len(halves)} of {len(halves)} half-sent requests were ended, the last after "
        f"{longest:.1f} s; others were served meanwhile",
        value=longest,
        unit="s",
        limit=LIMIT,
        blame="server" if kept else "app",
        losses=tuple(losses[:5]),
    )


def _sent(record: AttackRecord) -> list[Request]:
    rows = record.of_group(*_GROUPS)
    return [request for request in rows if request.ended not in ("refused", "unsent", "left")]


def _kept_said(kept: Sequence[Request], halves: Sequence[Request]) -> str:
    heads = sum(request.group == "half-head" for request in kept)
    bodies = len(kept) - heads
    what = " and ".join(
        f"{count} half {name}" for count, name in ((heads, "heads"), (bodies, "bodies")) if count
    )
    return f"{what} of {len(halves)} half-sent requests were still waited for after {LIMIT:.0f} s"


def _hindered(record: AttackRecord) -> list[str]:
    """Return what half-sent requests took from others in that attack."""
    said = []
    name = "census-waiting" if record.name == "patience" else "census-half-sent"
    held = held_for(record.facts.get(name), record.of_group(*_GROUPS))
    if held:
        said.append(
            f"{len(held)} database connections were held by requests whose body had not come "
            f"({held[0].get('route')})"
        )
    rows = _others(record)
    good = [request for request in rows if request.is_good or request.status == 404]
    if rows and len(good) < _SERVED * len(rows):
        said.append(
            f"{len(rows) - len(good)} of {len(rows)} other requests were not served while "
            "half-sent ones were open"
        )
    return said


def _others(record: AttackRecord) -> list[Request]:
    first = record.marks.get("half-sent", record.marks.get("waiting"))
    if first is None:
        return []
    last = record.marks.get("half-sent-ended", record.marks.get("over", record.ended_at))
    rows = record.of_group("others")
    return [request for request in rows if first <= request.intended_at <= last]


AUDIT = Audit(
    id="slow-sender",
    is_must=False,
    passing="Half-sent requests are ended by a limit and hinder nobody",
    failing="Half-sent requests are waited for without a limit",
    why=(
        "Phones lose their network in mid-request, and some clients do it on purpose: a hundred "
        "lines of a script that send half a head each (Slowloris). A server that waits for the "
        "rest for ever keeps a descriptor and its buffers for each, and at the limit of "
        "descriptors nobody else gets in. A proxy before it takes much of this away, if there is "
        "one and if it buffers requests."
    ),
    fixes=(
        Fix(
            title="A proxy that reads requests whole, before plain uvicorn",
            before="uvicorn main:app --host 0.0.0.0\n",
            after=(
                "# nginx\n"
                "client_header_timeout 15s;\n"
                "client_body_timeout 15s;\n"
                "proxy_request_buffering on;\n"
            ),
        ),
        Fix(
            title="With stormproof: read limits in the server",
            before="uvicorn main:app --host 0.0.0.0\n",
            after="stormproof serve main:app --header-timeout 10 --body-timeout 15\n",
        ),
    ),
    attacks=("patience", "clients"),
    judge=_judge,
    weight=2,
)
