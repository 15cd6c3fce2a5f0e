"""`overload-goodput`: with more requests than it can do, the app still does what it can."""

from stormproof.prove._audit import Audit, Fix, Judgement, Series, not_applicable, not_measured
from stormproof.prove._overload import (
    BEGUN,
    COLLAPSE,
    CPU_WORDS,
    ENDED,
    FILLED,
    LEAST_OVERLOAD,
    PATIENCE,
    Overload,
    overloaded,
)
from stormproof.prove._recording import AttackRecord, Recording, Request

LIMIT = 0.8
"""Of the capacity, answered in time."""

_STEP = 0.5


def _judge(recording: Recording) -> Judgement:
    found = overloaded(recording)
    if isinstance(found, Judgement):
        return found
    record, overload = found
    begun, ended = record.marks[BEGUN] + FILLED, record.marks[ENDED]
    if ended <= begun:
        return not_measured("the overload ended before a queue could have filled")
    answered = _answered(record, begun, ended)
    goodput = len(answered) / (ended - begun) / overload.capacity
    words = (
        f"{overload.words}: {_share(goodput)} of the capacity was answered within "
        f"{PATIENCE:.0f} s ({len(answered)} answers in {ended - begun:.1f} s)"
    )
    if overload.limited_by == "cpu":
        return not_applicable(f"{words}; {CPU_WORDS}")
    is_good = goodput >= LIMIT
    if is_good and overload.sent < LEAST_OVERLOAD * overload.capacity:
        return not_measured(_bottleneck(overload))
    if not is_good and overload.is_generator_late:
        return not_measured(_bottleneck(overload))
    if COLLAPSE <= goodput < LIMIT and overload.is_excused:
        return not_measured(f"{words}; {overload.excuse}")
    return Judgement(
        outcome="pass" if is_good else "fail",
        display=words,
        value=goodput,
        unit="of capacity",
        limit=LIMIT,
        losses=() if is_good else _losses(record, begun),
        series=(_series(record, overload),),
        routes=(overload.route,),
    )


def _answered(record: AttackRecord, begun: float, ended: float) -> list[Request]:
    return [
        request
        for request in record.of_group("overload")
        if request.is_good and begun <= (request.last_byte_at or 0.0) < ended
    ]


def _losses(record: AttackRecord, begun: float) -> tuple[str, ...]:
    lost = (
        request
        for request in record.of_group("overload")
        if not request.is_good and request.ended != "unsent" and request.intended_at >= begun
    )
    return tuple(_loss(request) for request, _ in zip(lost, range(5), strict=False))


def _loss(request: Request) -> str:
    if request.ended == "timeout":
        end = f"no answer within {PATIENCE:.0f} s, the client gave up"
    else:
        end = f"status {request.status}" if request.status else request.ended
    return f"{request.intended_at:.3f} s: {request.route}: {end}"


def _series(record: AttackRecord, overload: Overload) -> Series:
    begun, ended = record.marks[BEGUN], record.marks[ENDED]
    steps = max(1, round((ended - begun) / _STEP))
    points = tuple(
        (
            begun + step * _STEP,
            len(_answered(record, begun + step * _STEP, begun + (step + 1) * _STEP)) / _STEP,
        )
        for step in range(steps)
    )
    return Series(
        title=f"{overload.route}: answered in time (capacity {overload.capacity:,.0f}/s)",
        unit="1/s",
        points=points,
        marks={BEGUN: begun, ENDED: ended},
    )


def _bottleneck(overload: Overload) -> str:
    return (
        f"{overload.route} answers {overload.capacity:,.0f}/s, and the load generator was the "
        f"bottleneck: it sent {overload.sent:,.0f}/s of {overload.offered:,.0f}/s, up to "
        f"{overload.late:.2f} s late"
    )


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


AUDIT = Audit(
    id="overload-goodput",
    is_must=True,
    passing="Under overload the app still answers as many callers in time as it can",
    failing="Under overload almost nobody is answered in time, although the app works all the time",
    why="Callers queue without a bound. After a second of waiting each of them gives up, and the "
    "app then does the work of those who have gone: it is fully busy and nobody has an answer. "
    "A short peak becomes an outage.",
    fixes=(
        Fix(
            title="Refuse at once what cannot be answered in time, with plain FastAPI",
            before="""\
slots = asyncio.Semaphore(10)

@app.get("/query")
async def query():
    async with slots:  # the queue has no end
        return await run()
""",
            after="""\
slots = asyncio.Semaphore(10)
waiting = 0

@app.get("/query")
async def query():
    global waiting
    if waiting >= 20:  # 2 waiting for each slot
        raise HTTPException(503, headers={"Retry-After": "1"})
    waiting += 1
    try:
        await slots.acquire()
    finally:
        waiting -= 1
    try:
        return await run()
    finally:
        slots.release()
""",
        ),
        Fix(
            title="A limiter that sheds, with stormproof",
            before="""\
slots = asyncio.Semaphore(10)

@app.get("/query")
async def query():
    async with slots:
        return await run()
""",
            after="""\
slots = stormproof.Limiter(10, max_wait=0.5)  # 503 + Retry-After beyond it

@app.get("/query")
async def query():
    async with slots.slot():
        return await run()
""",
        ),
    ),
    attacks=("overload",),
    judge=_judge,
    is_timed=True,
    weight=5,
)
