"""`thread-headroom`: one slow `def` route does not stop the others."""

from statistics import median

from stormproof.prove._audit import Audit, Fix, Judgement, Series, not_measured
from stormproof.prove._recording import Recording, Request

LIMIT_TIMES = 10.0
"""Times the median answer time without the slow route's callers."""

LIMIT_SECONDS = 0.25
"""Seconds that are always allowed."""

_EXPLAINED = 0.5
"""Of the slow route's time, at most 1 s: who waits less does not wait for its threads."""


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("threads")
    if record is None or record.problem:
        return not_measured("the slow def route could not be asked")
    slow = record.facts.get("threads", {})
    before = _by_route(record.of_group("before"))
    during = _by_route(record.of_group("during"))
    common = [id for id in during if id in before]
    if not common:
        return not_measured("no other route was answered")
    worst = max(common, key=lambda id: during[id] / _limit(before[id]))
    explained = min(1.0, _EXPLAINED * slow.get("seconds", 0.0))
    late = [id for id in common if during[id] > max(_limit(before[id]), explained)]
    words = (
        f"{slow.get('route')} ({slow.get('seconds', 0.0):.2f} s, {slow.get('limit')} threads) "
        f"full: {worst} took {during[worst]:.3f} s (median), {before[worst]:.3f} s before"
    )
    if late:
        words += f"; {len(late)} of {len(common)} other routes were held up"
    return Judgement(
        outcome="fail" if late else "pass",
        display=words,
        value=during[worst],
        unit="s",
        limit=_limit(before[worst]),
        losses=tuple(f"{id}: {before[id]:.3f} s before, {during[id]:.3f} s" for id in late[:5]),
        series=(
            Series(
                title="answer time of the other routes",
                unit="s",
                points=tuple(
                    (request.intended_at, request.latency or 0.0)
                    for request in record.of_group("before", "during")
                ),
                marks=record.marks,
            ),
        ),
        routes=tuple(late),
    )


def _limit(before: float) -> float:
    return max(LIMIT_TIMES * before, LIMIT_SECONDS)


def _by_route(requests: tuple[Request, ...]) -> dict[str, float]:
    """Return for each route its median answer time, seconds.

    Threads that are held delay each request; a late one now and then is the machine's.
    """
    latencies: dict[str, list[float]] = {}
    for request in requests:
        if request.latency is not None and request.ended in ("complete", "timeout"):
            latencies.setdefault(request.route, []).append(request.latency)
    return {id: median(found) for id, found in latencies.items()}


AUDIT = Audit(
    id="thread-headroom",
    is_must=True,
    passing="While one slow def route has all the callers it can have, the others answer",
    failing="One slow def route holds every thread, and the other routes wait for it",
    why="All def endpoints, def dependencies, file responses and sync background tasks share one "
    "limit of 40 threads. When one slow route has 40 callers, everything that needs a thread "
    "stands still behind it, an async route with one def dependency included.",
    fixes=(
        Fix(
            title="Threads of its own for what is slow, with plain FastAPI",
            before="""\
@app.get("/report")
def report():
    return slow_report()
""",
            after="""\
from anyio import CapacityLimiter, to_thread

report_threads = CapacityLimiter(10)

@app.get("/report")
async def report():
    return await to_thread.run_sync(slow_report, limiter=report_threads)
""",
        ),
        Fix(
            title="And callers beyond them refused, with stormproof",
            before="""\
@app.get("/report")
def report():
    return slow_report()
""",
            after="""\
report_slots = stormproof.Limiter(10, max_wait=0.5)

@app.get("/report")
async def report():
    async with report_slots.slot():  # 10 of the 40 threads at most
        return await run_in_threadpool(slow_report)
""",
        ),
    ),
    attacks=("threads",),
    judge=_judge,
    is_timed=True,
    needs_agent=True,
    weight=4,
)
