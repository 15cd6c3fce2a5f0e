"""`overload-liveness`: the platform's liveness probe is answered while the app is overloaded."""

from stormproof.prove._audit import Audit, Fix, Judgement, Series, not_applicable, not_measured
from stormproof.prove._overload import BEGUN, CPU_WORDS, ENDED, overloaded
from stormproof.prove._recording import Probe, Recording

LIMIT = 0.2
"""Share of the moments of the overload at which a probe would have missed `SECONDS`.

A platform restarts after several misses in a row (Kubernetes: three), so one late answer is no
restart; at a fifth, three in a row are one in a hundred.
"""

SECONDS = 1.0
"""What Kubernetes allows a probe by default."""


def _judge(recording: Recording) -> Judgement:
    live = next((route for route in recording.routes if route.health in ("live", "both")), None)
    if live is None:
        return not_applicable("the app has no liveness route")
    found = overloaded(recording)
    if isinstance(found, Judgement):
        return found
    record, overload = found
    begun, ended = record.marks[BEGUN], record.marks[ENDED]
    probes = [probe for probe in record.canary if begun <= probe.at < ended]
    if not probes:
        return not_measured("the liveness probe was not asked during the overload")
    share = _missed(probes, ended) / (ended - probes[0].at)
    bad = [probe for probe in probes if _is_bad(probe) or probe.seconds > SECONDS]
    words = (
        f"{live.id}: {len(bad)} of {len(probes)} probes took more than {SECONDS:.0f} s or were not "
        f"2xx, the slowest {max(probe.seconds for probe in probes):.2f} s; {overload.words}"
    )
    if overload.limited_by == "cpu" and not any(_is_bad(probe) for probe in bad):
        return not_applicable(f"{words}: {CPU_WORDS}")
    return Judgement(
        outcome="pass" if share <= LIMIT else "fail",
        display=words,
        value=share,
        unit="of the overload",
        limit=LIMIT,
        losses=tuple(_loss(probe) for probe in bad[:5]),
        series=(
            Series(
                title=f"{live.id}: seconds until it answered",
                unit="s",
                points=tuple((probe.at, probe.seconds) for probe in record.canary),
                marks=record.marks,
            ),
        ),
        routes=(live.id,),
    )


def _missed(probes: list[Probe], ended: float) -> float:
    """Return for how long a probe would have been missed, had it been asked then, in seconds.

    Whoever asks while the app is stuck is answered when it is free again: late are those who
    ask more than `SECONDS` before that. An answer that is not 2xx is wrong until the next one.
    """
    missed = 0.0
    ends = [probe.at for probe in probes[1:]] + [ended]
    for probe, next_at in zip(probes, ends, strict=True):
        until = max(probe.at, min(next_at, ended))
        late_until = min(probe.at + probe.seconds - SECONDS, until)
        missed += until - probe.at if _is_bad(probe) else max(0.0, late_until - probe.at)
    return missed


def _is_bad(probe: Probe) -> bool:
    return not 200 <= probe.status < 400


def _loss(probe: Probe) -> str:
    end = f"status {probe.status}" if probe.status else "no answer"
    return f"{probe.at:.3f} s: {end} after {probe.seconds:.2f} s"


AUDIT = Audit(
    id="overload-liveness",
    is_must=True,
    passing="The liveness probe is answered while the app is overloaded",
    failing="Under overload the liveness probe fails, and the platform restarts a working app",
    why="A failed liveness probe is a restart. Under overload every replica fails it at the same "
    "time: the platform kills the ones that are left, those that start again get the whole load "
    "at once, and fail it as well.",
    fixes=(
        Fix(
            title="A probe that waits for nothing, with plain FastAPI",
            before="""\
app = FastAPI(dependencies=[Depends(slot)])  # for every route, the probe included

@app.get("/livez")
def livez():  # a def: it waits for a thread as well
    return {"status": "ok"}
""",
            after="""\
app = FastAPI()
work = APIRouter(dependencies=[Depends(slot)])

@app.get("/livez")
async def livez():
    return {"status": "ok"}

app.include_router(work)
""",
        ),
        Fix(
            title="Probes in front of the app and its middleware, with stormproof",
            before="""\
app = FastAPI(dependencies=[Depends(slot)])
""",
            after="""\
app = FastAPI(dependencies=[Depends(slot)])
stormproof.install(app)  # answers /livez and /readyz before the app is asked
""",
        ),
    ),
    attacks=("overload",),
    judge=_judge,
    is_timed=True,
    weight=4,
)
