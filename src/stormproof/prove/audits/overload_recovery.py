"""`overload-recovery`: when the peak is over, the app is soon as quick as before it."""

from stormproof.prove._audit import Audit, Fix, Judgement, Series, not_applicable, not_measured
from stormproof.prove._overload import (
    COLLAPSE,
    CPU_WORDS,
    ENDED,
    PATIENCE,
    RECOVERY_STEP,
    Overload,
    overloaded,
    p90,
    recovered_after,
    recovery_limit,
)
from stormproof.prove._recording import AttackRecord, Recording, Request

LIMIT = 5.0
"""Seconds after the last request of the overload."""


def _judge(recording: Recording) -> Judgement:
    found = overloaded(recording)
    if isinstance(found, Judgement):
        return found
    record, overload = found
    after = record.of_group("after")
    if not after:
        return not_measured("nothing was asked after the overload")
    if record.facts.get("late-after", 0.0) > PATIENCE / 4:
        return not_measured("the load generator was too late after the overload")
    ended = record.marks[ENDED]
    limit = recovery_limit(overload.before)
    seconds = recovered_after(after, ended_at=ended, limit=limit)
    words = _display(overload, after, seconds, ended, limit)
    if overload.limited_by == "cpu":
        return not_applicable(f"{words}; {CPU_WORDS}")
    is_good = seconds is not None and seconds <= LIMIT
    served = sum(request.is_good for request in after) / len(after)
    if not is_good and served >= COLLAPSE and overload.is_excused:
        return not_measured(f"{words}; {overload.excuse}")
    return Judgement(
        outcome="pass" if is_good else "fail",
        display=words,
        value=seconds,
        unit="s",
        limit=LIMIT,
        losses=() if is_good else _losses(after, limit),
        series=(_series(record, overload),),
        routes=(overload.route,),
    )


def _display(
    overload: Overload,
    after: tuple[Request, ...],
    seconds: float | None,
    ended: float,
    limit: float,
) -> str:
    words = f"{overload.route}, p90 {overload.before:.3f} s before the overload, "
    if seconds is not None:
        return f"{words}was back to {limit:.3f} s within {seconds:.1f} s after it"
    watched = max(request.intended_at for request in after) - ended
    good = sum(request.is_good for request in after)
    return (
        f"{words}was not back to {limit:.3f} s {watched:.1f} s after it: "
        f"{good} of {len(after)} later requests were answered in time"
    )


def _losses(after: tuple[Request, ...], limit: float) -> tuple[str, ...]:
    late = (each for each in after if not each.is_good or (each.latency or 0.0) > limit)
    return tuple(
        f"{each.intended_at:.3f} s: {each.route}: {each.status or each.ended} "
        f"after {each.latency or 0.0:.3f} s"
        for each, _ in zip(late, range(5), strict=False)
    )


def _series(record: AttackRecord, overload: Overload) -> Series:
    steps: dict[int, list[float]] = {}
    for request in record.of_group("before", "overload", "after"):
        if request.latency is not None and request.ended in ("complete", "timeout"):
            steps.setdefault(int(request.intended_at / RECOVERY_STEP), []).append(request.latency)
    return Series(
        title=f"{overload.route}: answer time, p90 of each half second",
        unit="s",
        points=tuple(
            (step * RECOVERY_STEP, p90(latencies)) for step, latencies in sorted(steps.items())
        ),
        marks=record.marks,
    )


AUDIT = Audit(
    id="overload-recovery",
    is_must=True,
    passing="After a peak the app is soon as quick as before it",
    failing="After a peak the app stays slow, although the load is long back to normal",
    why="The work of those who gave up is still in the queue. Every later caller waits behind it, "
    "gives up as well, and adds to it: the outage goes on after its cause has gone, until somebody "
    "restarts the service.",
    fixes=(
        Fix(
            title="A queue that ends, with plain FastAPI",
            before="""\
slots = asyncio.Semaphore(10)

@app.get("/query")
async def query():
    async with slots:
        return await run()
""",
            after="""\
slots = asyncio.Semaphore(10)

@app.get("/query")
async def query():
    try:
        async with asyncio.timeout(0.5):  # nobody who waits longer still needs it
            await slots.acquire()
    except TimeoutError:
        raise HTTPException(503, headers={"Retry-After": "1"}) from None
    try:
        return await run()
    finally:
        slots.release()
""",
        ),
        Fix(
            title="A limiter, with stormproof",
            before="""\
async with asyncio.Semaphore(10):
    return await run()
""",
            after="""\
slots = stormproof.Limiter(10, max_wait=0.5)

async with slots.slot():
    return await run()
""",
        ),
    ),
    attacks=("overload",),
    judge=_judge,
    is_timed=True,
    weight=4,
)
