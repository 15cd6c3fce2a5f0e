"""`drain-budget`: the service is gone inside the grace period, its teardown run."""

from dataclasses import dataclass

from stormproof.prove._audit import Audit, Blame, Fix, Judgement, not_measured
from stormproof.prove._recording import AttackRecord, Exit, Recording, Request

from ._departure import by_route, phases, sent_at, signal_at

_AT_THE_END = 0.5
"""A request that ended so shortly before the process, or later, was still open at its end."""

_WITH_PARENT = ("hypercorn", "granian", "gunicorn")


@dataclass(frozen=True, slots=True)
class _End:
    """How one attack's server ended: seconds after SIGTERM, and what was wrong, "" if nothing."""

    attack: str
    seconds: float
    fault: str
    blame: Blame = "app"
    losses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


def _judge(recording: Recording) -> Judgement:
    grace = float(recording.profile.get("grace", 30.0))
    ends = []
    for record in recording.measured("drain", "drain-streams"):
        signal = signal_at(record)
        if signal is not None and record.exit is not None:
            ends.append(_end(recording, record, record.exit, signal, grace))
    if not ends:
        return not_measured("no SIGTERM was sent")
    worst = max(ends, key=lambda end: (bool(end.fault), end.seconds))
    if worst.fault:
        display = worst.fault
    else:
        display = f"gone {worst.seconds:.1f} s after SIGTERM, of {grace:g} s it has"
        display += ", its teardown run" if _saw_teardown(recording) else ""
    return Judgement(
        outcome="fail" if worst.fault else "pass",
        display=display,
        value=round(worst.seconds, 2),
        unit="s",
        limit=grace,
        blame=worst.blame,
        losses=tuple(line for end in ends for line in end.losses)[:5],
        stack=_where(recording, worst.routes),
        routes=worst.routes,
    )


def _end(
    recording: Recording, record: AttackRecord, exit: Exit, signal: float, grace: float
) -> _End:
    seconds = exit.at - signal
    if exit.is_killed or seconds > grace:
        return _late_end(recording, record, exit, seconds, grace)
    missing = phases(record, "started") - phases(record, "stopped")
    errors = _teardown_errors(record)
    if not missing and not errors:
        return _End(record.name, seconds, "")
    if errors:
        fault = f"its lifespan teardown raised: {errors[0]}"
        return _End(record.name, seconds, fault, losses=errors)
    was_begun = bool(missing & phases(record, "stopping"))
    fault = (
        f"it was gone {seconds:.1f} s after SIGTERM with its lifespan teardown "
        f"{'begun and not ended' if was_begun else 'never begun'}"
    )
    is_servers = recording.server in _WITH_PARENT and not was_begun
    return _End(record.name, seconds, fault, blame="server" if is_servers else "app")


def _late_end(
    recording: Recording, record: AttackRecord, exit: Exit, seconds: float, grace: float
) -> _End:
    """Say what held a server that did not end in time, from what was still open."""
    start = f"it was not gone {grace:g} s after SIGTERM and had to be killed"
    if not exit.is_killed:
        start = f"it was gone {seconds:.1f} s after SIGTERM, of {grace:g} s it has"
    held = [row for row in record.requests if _is_open_at(row, exit.at)]
    if held:
        is_stream = all(request.group == "stream" for request in held)
        what = "streams" if is_stream else "requests"
        routes = tuple(dict.fromkeys(request.route for request in held))
        losses = tuple(
            f"{row.route}: open for {exit.at - sent_at(row):.1f} s when the process ended"
            for row in sorted(held, key=sent_at)[:5]
        )
        fault = f"{start}: held by {len(held)} {what}, {by_route(held)}"
        return _End(record.name, seconds, fault, losses=losses, routes=routes)
    fault, blame = _hold_without_requests(recording, record)
    return _End(record.name, seconds, f"{start}: {fault}", blame=blame)


def _hold_without_requests(recording: Recording, record: AttackRecord) -> tuple[str, Blame]:
    if not recording.has_agent:
        return "no request held it", "server"
    stopping, stopped = phases(record, "stopping"), phases(record, "stopped")
    if stopping - stopped:
        return "its lifespan teardown had begun and did not end", "app"
    if stopped:
        return "its teardown had ended, and a thread or a child process went on", "app"
    begun = {event.facts.get("key") for event in record.of_kind("background")}
    ended = {
        event.facts.get("key")
        for event in record.of_kind("background")
        if event.facts.get("what") in ("finished", "failed", "cancelled")
    }
    if begun - ended:
        return f"{len(begun - ended)} background tasks of answered requests went on", "app"
    if recording.server == "uvicorn":
        return "no request held it, and its lifespan teardown never began", "app"
    return "no request held it, and its server never began the teardown", "server"


def _is_open_at(request: Request, end: float) -> bool:
    if request.sent_at is None or request.ended in ("refused", "unsent", "left"):
        return False
    return request.last_byte_at is None or request.last_byte_at >= end - _AT_THE_END


def _saw_teardown(recording: Recording) -> bool:
    return any(phases(record, "stopped") for record in recording.measured("drain"))


def _teardown_errors(record: AttackRecord) -> tuple[str, ...]:
    return tuple(
        str(event.facts["error"])
        for event in record.of_kind("lifespan")
        if event.facts.get("phase") == "stopped" and event.facts.get("error")
    )


def _where(recording: Recording, ids: tuple[str, ...]) -> tuple[str, ...]:
    routes = (recording.route(id) for id in ids)
    return tuple(route.where for route in routes if route is not None and route.where)


AUDIT = Audit(
    id="drain-budget",
    is_must=True,
    passing="The service stops inside its grace period, its teardown run",
    failing="The service does not stop inside its grace period",
    why=(
        "A platform waits for the grace period, then kills. What is killed flushes nothing, "
        "closes nothing and hands nothing over: metrics, buffered writes and locks are lost, "
        "and every deploy takes as long as the longest grace. One request, thread or teardown "
        "without an end is enough."
    ),
    fixes=(
        Fix(
            title="Plain FastAPI: give what waits an end, and the server a limit",
            before=(
                '@app.get("/report")\n'
                "def report():\n"
                "    return build()  # minutes, in a thread that nobody can stop"
            ),
            after=(
                '@app.get("/report")\n'
                "async def report():\n"
                "    async with asyncio.timeout(10):\n"
                "        return await build()\n\n"
                "# uvicorn app:app --timeout-graceful-shutdown 20   (grace 30)"
            ),
        ),
        Fix(
            title="Plain FastAPI: cancel what never ends before the teardown waits for it",
            before="yield\nawait consumer",
            after=(
                "yield\n"
                "consumer.cancel()\n"
                "with suppress(asyncio.CancelledError):\n"
                "    await consumer"
            ),
        ),
        Fix(
            title="With stormproof: one deadline for the whole drain",
            before="app = FastAPI()",
            after=(
                "app = FastAPI()\n"
                "stormproof.install(app, stormproof.Tasks(), grace=25, deadline=10)\n"
                "# stormproof serve app:app ends what ignores its cancellation"
            ),
        ),
    ),
    attacks=("drain", "drain-streams"),
    judge=_judge,
    weight=5,
)
