"""`overload-fast-reject`: what is refused is refused at once, and told when to come again."""

from collections import Counter
from collections.abc import Iterable
from statistics import median

from stormproof.prove._audit import Audit, Fix, Judgement, not_applicable, not_measured
from stormproof.prove._overload import COLLAPSE, CPU_WORDS, PATIENCE, overloaded
from stormproof.prove._recording import Recording, Request

LIMIT = 0.95
"""Of those that were not served: refused with 503 or 429, Retry-After, in time."""

QUICK = 0.75 * PATIENCE
"""Seconds a refusal may take: the caller must have time left to do something else."""

_FEW = 0.05


def _judge(recording: Recording) -> Judgement:
    found = overloaded(recording)
    if isinstance(found, Judgement):
        return found
    record, overload = found
    if overload.limited_by == "cpu":
        return not_applicable(f"{overload.words}: {CPU_WORDS}")
    came = [each for each in record.of_group("overload") if each.ended != "unsent"]
    unserved = [request for request in came if not request.is_good]
    if len(unserved) <= _FEW * len(came):
        return not_applicable(f"nothing had to be refused: {overload.words}")
    if overload.is_generator_late:
        return not_measured(f"the load generator was up to {overload.late:.2f} s late")
    refused = [request for request in unserved if not _fault(request)]
    faults = [(request, fault) for request in unserved if (fault := _fault(request))]
    share = len(refused) / len(unserved)
    words = _display(refused, faults, len(unserved)) + f"; {overload.words}"
    if COLLAPSE <= share < LIMIT and overload.is_excused:
        return not_measured(f"{words}; {overload.excuse}")
    return Judgement(
        outcome="pass" if share >= LIMIT else "fail",
        display=words,
        value=share,
        unit="of those not served",
        limit=LIMIT,
        losses=tuple(
            f"{request.intended_at:.3f} s: {request.route}: {fault}"
            for request, fault in faults[:5]
        )
        if share < LIMIT
        else (),
        routes=(overload.route,),
    )


def _fault(request: Request) -> str:
    """Return what is wrong with how a request was turned away, or nothing."""
    if request.ended == "timeout":
        return f"no answer within {PATIENCE:.0f} s"
    if request.ended != "complete":
        return request.ended
    if request.status not in (503, 429):
        return f"status {request.status}"
    if "retry-after" not in request.headers:
        return f"{request.status} without Retry-After"
    if (request.latency or 0.0) > QUICK:
        return f"{request.status} after more than {QUICK:.2f} s"
    return ""


def _display(refused: list[Request], faults: Iterable[tuple[Request, str]], unserved: int) -> str:
    words = f"{len(refused):,} of {unserved:,} callers that were not served were refused properly"
    if refused:
        words += f", half of them within {median(each.latency or 0.0 for each in refused):.3f} s"
    counts = Counter(fault for _, fault in faults)
    others = ", ".join(f"{count:,} {fault}" for fault, count in counts.most_common(3))
    return f"{words}; the others: {others}" if others else words


AUDIT = Audit(
    id="overload-fast-reject",
    is_must=False,
    passing="What the app cannot serve it refuses at once, with 503 or 429 and Retry-After",
    failing="Callers the app cannot serve are left waiting instead of being told at once",
    why="A caller who is refused in a millisecond can ask another replica, show what it has, or "
    "come again later. One who is left to wait has lost its time as well, and it holds its own "
    "callers up: overload travels upwards. Without Retry-After everybody comes again at once.",
    fixes=(
        Fix(
            title="503 and Retry-After on arrival, with plain FastAPI",
            before="""\
slots = asyncio.Semaphore(10)

@app.get("/query")
async def query():
    async with slots:
        return await run()
""",
            after="""\
slots = asyncio.Semaphore(10)
waiting = 0

async def slot():
    global waiting
    if waiting >= 20:
        raise HTTPException(503, headers={"Retry-After": "1"})
    waiting += 1
    try:
        await slots.acquire()
    finally:
        waiting -= 1
    try:
        yield
    finally:
        slots.release()

@app.get("/query", dependencies=[Depends(slot, scope="function")])
async def query():
    return await run()
""",
        ),
        Fix(
            title="A limiter that answers so by itself, with stormproof",
            before="""\
async with asyncio.Semaphore(10):
    return await run()
""",
            after="""\
slots = stormproof.Limiter(10)  # LimitExceeded: 503 with Retry-After

async with slots.slot():
    return await run()
""",
        ),
    ),
    attacks=("overload",),
    judge=_judge,
    is_timed=True,
    weight=2,
)
