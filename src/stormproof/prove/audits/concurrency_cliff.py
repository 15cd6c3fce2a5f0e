"""`concurrency-cliff`: more callers at once do not make the app answer less."""

from collections import Counter

from stormproof.prove._audit import Audit, Fix, Judgement, Series, not_measured
from stormproof.prove._overload import COLLAPSE, STARVED
from stormproof.prove._recording import AttackRecord, Recording
from stormproof.prove._sweep import CLIFF, PATIENCE, Step, Sweep

CPU_CLIFF = 0.5
"""The same where all CPU is in use: every waiting caller costs some, and the load generator too."""


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("concurrency")
    if record is None or record.problem:
        return not_measured("the sweep of callers could not be run")
    sweep = Sweep.of(record)
    if sweep is None or not sweep.steps or not sweep.peak.rate:
        return not_measured("nothing was answered during the sweep")
    later = [step for step in sweep.steps if step.callers >= sweep.peak.callers]
    lowest = min(later, key=lambda step: step.share)
    share = lowest.share
    errors = sum(step.errors for step in sweep.steps)
    waits = record.of_kind("pool-timeout")
    limit = CPU_CLIFF if lowest.is_cpu_limited else CLIFF
    if limit > share >= COLLAPSE and lowest.starved > STARVED and not errors and not waits:
        return not_measured(
            f"{_fall(sweep, lowest)}; the machine was too busy to say more: "
            f"{100 * lowest.starved:.0f} % of the time the server waited for a core"
        )
    is_good = share >= limit and not errors and not waits
    words = [_fall(sweep, lowest) if share < limit else _hold(sweep)]
    words += [f"{errors} answers were status 500"] if errors else []
    words += [f"{len(waits)} waits for a connection ended in a time-out"] if waits else []
    return Judgement(
        outcome="pass" if is_good else "fail",
        display="; ".join(words) + f" ({_limits(sweep)})",
        value=share,
        unit="of the best",
        limit=limit,
        losses=() if is_good else _losses(record, lowest),
        series=(
            Series(
                title="good answers per second, by callers at once",
                unit="1/s",
                points=tuple((float(step.callers), step.rate) for step in sweep.steps),
            ),
        ),
        routes=sweep.routes,
    )


def _fall(sweep: Sweep, lowest: Step) -> str:
    words = (
        f"{sweep.peak.callers} callers had {sweep.peak.rate:,.0f} answers/s, "
        f"{lowest.callers} callers had {lowest.rate:,.0f}"
    )
    if lowest.unanswered:
        words += f": {lowest.unanswered} of {lowest.asked} requests had none within {PATIENCE} s"
    return words


def _hold(sweep: Sweep) -> str:
    last = sweep.steps[-1]
    return (
        f"{last.callers} callers had {last.rate:,.0f} answers/s, the best were "
        f"{sweep.peak.rate:,.0f} with {sweep.peak.callers}"
    )


def _limits(sweep: Sweep) -> str:
    pool = f", {sweep.pool} connections" if sweep.pool else ""
    return f"{sweep.threads} threads{pool}"


def _losses(record: AttackRecord, lowest: Step) -> tuple[str, ...]:
    bad = [each for each in record.requests if each.ended != "complete" or each.status == 500]
    counts = Counter(
        f"{each.group.replace('-', ' ')}: {each.route}: {each.status or each.ended}" for each in bad
    )
    return tuple(f"{words}, {count} times" for words, count in counts.most_common(5))


AUDIT = Audit(
    id="concurrency-cliff",
    is_must=True,
    passing="With four times as many callers as threads or connections the app works as before",
    failing="With more callers at once the app hardly answers any: it falls off a cliff",
    why="Each request holds one thing (a database connection) while it waits for another (a "
    "thread), and others hold that one while they wait for the first. Up to some number of "
    "callers nothing shows; with a few more everybody waits for everybody, until a time-out of "
    "30 s. A constant health route says all is well meanwhile.",
    fixes=(
        Fix(
            title="Let in as many as there are connections, with plain FastAPI",
            before="""\
engine = create_engine(url)  # 15 connections; FastAPI has 40 threads

def get_db():
    with Session(engine) as session:
        yield session

@app.get("/items")
def items(user: CurrentUser, db: Session = Depends(get_db)):
    return db.scalars(select(Item)).all()
""",
            after="""\
engine = create_engine(url, pool_size=15, max_overflow=0)
places = asyncio.Semaphore(15)

async def place():  # async: it waits without a thread and without a connection
    async with places:
        yield

def get_db(place: None = Depends(place)):
    with Session(engine) as session:
        yield session
""",
        ),
        Fix(
            title="Async sessions, which need no thread, with stormproof",
            before="""\
def get_db():
    with Session(engine) as session:
        yield session
""",
            after="""\
database = stormproof.Database(url, pool_size=20, max_wait=0.5)  # 503 when none is free
DB = Annotated[AsyncSession, stormproof.session(database)]

@app.get("/items")
async def items(user: CurrentUser, db: DB):
    return (await db.scalars(select(Item))).all()
""",
        ),
    ),
    attacks=("concurrency",),
    judge=_judge,
    is_timed=True,
    weight=5,
)
