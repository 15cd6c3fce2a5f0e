"""Reports to render: a failing one in the shape of the seed, a passing, a hostile, a big one."""

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

from stormproof.prove._audit import Audit, Finding, Fix, Judgement, Report, Series, Verdict
from stormproof.prove._recording import (
    AgentEvent,
    AttackRecord,
    Ended,
    Exit,
    Probe,
    Recording,
    Request,
    Route,
    Sample,
)

HOSTILE = "<script>document.title='owned'</script>\x1b[31m]]>\x00\x07\u202e&|`</pre>\ud800"

LOST_WORK = Fix(
    title="Finish the work before the process ends (plain FastAPI)",
    before="""@app.post("/send-email")
async def send_email(email: str) -> dict[str, str]:
    asyncio.create_task(email_service.send(email))
    return {"status": "queued"}
""",
    after="""sending: set[asyncio.Task[None]] = set()

@app.post("/send-email")
async def send_email(email: str) -> dict[str, str]:
    task = asyncio.create_task(email_service.send(email))
    sending.add(task)
    task.add_done_callback(sending.discard)
    return {"status": "queued"}

@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    if sending:
        await asyncio.wait(sending, timeout=20)
""",
)
LOST_WORK_OURS = Fix(
    title="Let stormproof keep it",
    before="from fastapi import BackgroundTasks, FastAPI\n",
    after="from fastapi import FastAPI\nfrom stormproof import BackgroundTasks, install\n",
)

AUDITS: dict[str, tuple[bool, str, str, tuple[str, ...]]] = {
    "drain-streams": (
        True,
        "Streams end properly when the server is told to stop",
        "Streams are cut in the middle when the server is told to stop",
        ("drain-streams",),
    ),
    "drain-background": (
        True,
        "Work that was promised is done, also when the server is told to stop",
        "Work that was promised is lost when the server is told to stop",
        ("drain",),
    ),
    "overload-goodput": (
        True,
        "Under overload most of the capacity still answers in time",
        "Under overload almost nobody is answered in time",
        ("overload",),
    ),
    "commit-before-ack": (
        True,
        "A failed COMMIT is never answered as a success",
        "A failed COMMIT is answered as a success",
        ("commit",),
    ),
    "pool-hold": (
        True,
        "A database connection is held only while it works",
        "Database connections are held while no statement runs",
        ("overload",),
    ),
    "drain-in-flight": (
        True,
        "Requests in flight are answered when the server is told to stop",
        "Requests in flight are lost when the server is told to stop",
        ("drain",),
    ),
    "loop-blocking": (
        True,
        "Nothing blocks the event loop",
        "Something blocks the event loop, and everybody waits",
        ("baseline", "overload"),
    ),
    "dep-blackhole": (
        True,
        "A silent dependency makes no request wait for ever",
        "A silent dependency makes requests wait for ever",
        ("dependencies",),
    ),
    "overload-fast-reject": (
        False,
        "What cannot be served is refused at once",
        "What cannot be served waits before it is refused",
        ("overload",),
    ),
    "stream-heartbeat": (
        False,
        "Idle streams send a sign of life",
        "Idle streams are silent, so proxies cut them",
        ("drain-streams",),
    ),
    "concurrency-cliff": (
        True,
        "More callers never make the service much slower as a whole",
        "At a certain number of callers the service falls off a cliff",
        ("overload",),
    ),
    "task-hygiene": (
        True,
        "No task fails unseen",
        "Tasks fail and nobody looks",
        ("baseline",),
    ),
    "health-truth": (
        True,
        "The probes tell the truth",
        "The probes say all is well when it is not",
        ("health",),
    ),
}


def no_judge(recording: Recording) -> Judgement:
    raise AssertionError("a report is rendered, not judged again")


def audit(id: str, **changes: Any) -> Audit:
    is_must, passing, failing, attacks = AUDITS[id]
    fields: dict[str, Any] = {
        "id": id,
        "is_must": is_must,
        "passing": passing,
        "failing": failing,
        "why": "Each deploy sends SIGTERM. What is lost then is lost for a user who was told "
        "that it is done, and nobody notices: no error, no log line, no retry.",
        "fixes": (LOST_WORK, LOST_WORK_OURS),
        "attacks": attacks,
        "judge": no_judge,
    }
    return Audit(**(fields | changes))


def finding(id: str, verdict: Verdict, display: str, **judged: Any) -> Finding:
    outcome: Any = {"should": "fail", "unstable": "fail"}.get(verdict, verdict)
    return Finding(
        audit=audit(id),
        verdict=verdict,
        judgement=Judgement(outcome=outcome, display=display, **judged),
        repro=f"stormproof prove main:app --only {id} --runs 1",
    )


# --- recordings


def requests(
    dice: random.Random,
    *,
    began_at: float,
    seconds: float,
    rate: float,
    group: str,
    route: str = "GET /items",
    endings: Iterable[tuple[Ended, int, float]] = (("complete", 200, 1.0),),
    latency: float = 0.02,
) -> list[Request]:
    """Return requests at a constant rate; `endings` are how, status and share."""
    kinds = [(ended, status) for ended, status, _ in endings]
    shares = [share for _, _, share in endings]
    rows = []
    for number in range(int(seconds * rate)):
        intended = began_at + number / rate
        ended, status = dice.choices(kinds, shares)[0]
        took = 1.0 if ended == "timeout" else dice.lognormvariate(0, 0.6) * latency
        end = None if ended == "unsent" else intended + took
        rows.append(
            Request(
                id=number,
                route=route,
                group=group,
                intended_at=intended,
                sent_at=intended,
                first_byte_at=end if status else None,
                last_byte_at=end,
                status=status,
                ended=ended,
            )
        )
    return rows


def canary(dice: random.Random, *, began_at: float, seconds: float, dead_after: float) -> Any:
    probes = []
    for number in range(int(seconds * 20)):
        at = number / 20
        is_dead = at > dead_after
        took = 0.001 if is_dead else dice.lognormvariate(0, 0.4) * 0.003
        probes.append(Probe(began_at + at, took, 0 if is_dead else 200))
    return tuple(probes)


def samples(dice: random.Random, *, began_at: float, seconds: float) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            began_at + number / 10,
            60_000_000 + number * 90_000 + dice.randrange(400_000),
            6 + min(40, number // 3),
            24 + min(300, number * 2),
            number * 0.08,
            1,
        )
        for number in range(int(seconds * 10))
    )


def attack(dice: random.Random, name: str, *, began_at: float, seconds: float) -> AttackRecord:
    signal_at = began_at + seconds * 0.6
    rows = requests(dice, began_at=began_at, seconds=seconds * 0.6, rate=120, group="steady")
    rows += requests(
        dice,
        began_at=signal_at,
        seconds=seconds * 0.1,
        rate=120,
        group="late",
        endings=[("refused", 0, 2.0), ("reset", 0, 1.0), ("truncated", 200, 0.5)],
        latency=0.004,
    )
    return AttackRecord(
        name=name,
        began_at=began_at,
        ended_at=began_at + seconds,
        marks={"signal": signal_at, "listener closed": signal_at + 0.05},
        requests=tuple(rows),
        canary=canary(dice, began_at=began_at, seconds=seconds, dead_after=seconds * 0.62),
        samples=samples(dice, began_at=began_at, seconds=seconds * 0.68),
        facts={"rate": 120},
        exit=Exit(at=signal_at + 0.8, code=0, is_killed=False, tail="INFO: Shutting down\n"),
    )


def streams(*, began_at: float) -> AttackRecord:
    rows = [
        Request(
            id=number,
            route="GET /stream",
            group="stream",
            intended_at=began_at + 0.5 + number * 0.05,
            sent_at=began_at + 0.5,
            first_byte_at=began_at + 0.6,
            last_byte_at=began_at + (7.0 if number < 8 else 3.0),
            status=200,
            ended="truncated" if number < 8 else "complete",
        )
        for number in range(12)
    ]
    return AttackRecord(
        name="drain-streams",
        began_at=began_at,
        ended_at=began_at + 7.5,
        marks={"signal": began_at + 4.0},
        requests=tuple(rows),
    )


def overload(dice: random.Random, *, began_at: float) -> AttackRecord:
    rows = requests(dice, began_at=began_at, seconds=4, rate=150, group="before")
    rows += requests(
        dice,
        began_at=began_at + 4,
        seconds=6,
        rate=700,
        group="overload",
        endings=[
            ("complete", 200, 2.0),
            ("timeout", 0, 6.0),
            ("complete", 500, 1.0),
            ("complete", 429, 0.4),
            ("unsent", 0, 0.2),
            ("left", 0, 0.2),
        ],
        latency=0.6,
    )
    return AttackRecord(
        name="overload",
        began_at=began_at,
        ended_at=began_at + 14,
        marks={"overload begun": began_at + 4, "overload ended": began_at + 10},
        requests=tuple(rows),
        canary=canary(dice, began_at=began_at, seconds=14, dead_after=99),
        samples=samples(dice, began_at=began_at, seconds=14),
        events=(AgentEvent(began_at + 5.2, 7, "stall", {"seconds": 0.6, "route": "GET /items"}),),
    )


def recording(**changes: Any) -> Recording:
    dice = random.Random(7)
    fields: dict[str, Any] = {
        "app": "stormproof.demo.seed:app",
        "server": "uvicorn",
        "stormproof": "0.1.0",
        "started": "2026-03-01T09:30:00+00:00",
        "machine": {
            "cpu": "AMD EPYC 7B13",
            "cores": "2",
            "system": "Linux 6.8",
            "python": "CPython 3.11.9",
        },
        "profile": {"name": "k8s", "grace": 30.0, "lag": 2.0, "deadline": 10.0, "quick": False},
        "routes": (
            Route(id="GET /items", method="GET", path="/items", url="/items", seconds=0.004),
            Route(id="POST /send-email", method="POST", path="/send-email", url="/send-email"),
            Route(id="GET /stream", method="GET", path="/stream", url="/stream", kind="endless"),
        ),
        "attacks": (
            AttackRecord(
                name="baseline",
                began_at=0.4,
                ended_at=8.4,
                requests=tuple(
                    requests(dice, began_at=0.5, seconds=7.5, rate=40, group="light", latency=0.004)
                ),
                samples=samples(dice, began_at=0.4, seconds=8),
                facts={"capacity": 612.0},
            ),
            attack(dice, "drain", began_at=10.0, seconds=12.0),
            streams(began_at=24.0),
            overload(dice, began_at=35.0),
            AttackRecord(
                name="dependencies",
                began_at=52.0,
                ended_at=52.1,
                problem="no dependency was found in the environment",
            ),
        ),
    }
    return Recording(**(fields | changes))


# --- reports


def failing_report() -> Report:
    """Return what the seed's report looks like: the worst first."""
    found = recording()
    drain = found.attack("drain")
    assert drain is not None
    lost_work = finding(
        "drain-background",
        "fail",
        "12 of 60 e-mails that were answered with 200 were never sent: POST /send-email",
        value=12,
        unit="promises lost",
        limit=0,
        losses=(
            "POST /send-email: request 4711, answered 200 at 7.102 s, send_email_task cancelled",
            "POST /send-email: request 4712, answered 200 at 7.118 s, send_email_task cancelled",
            "POST /send-email: request 4714, answered 200 at 7.131 s, never started",
        ),
        stack=(
            "app/main.py:88 in send_email",
            "app/mail.py:31 in send_email_task",
            "app/mail.py:44 in EmailService.send",
        ),
        routes=("POST /send-email",),
    )
    goodput = finding(
        "overload-goodput",
        "fail",
        "9 % of the capacity (55 of 612 requests/s) was answered within 1 s at 2.5 times the load",
        value=9.0,
        unit="% of capacity",
        limit=80.0,
        blame="server",
        series=(
            Series(
                title="Requests answered in time",
                unit="requests/s",
                points=tuple((35.0 + t / 2, max(0.0, 150 - abs(t - 8) * 9)) for t in range(28)),
                marks={"overload begun": 39.0, "overload ended": 45.0},
            ),
        ),
    )
    return Report(
        recording=found,
        findings=(
            finding(
                "drain-in-flight",
                "fail",
                "12 of 60 requests were lost when the server was told to stop",
                value=12,
                unit="requests",
                limit=0,
                losses=tuple(
                    f"GET /items: request {n}, reset 0.{n} s after SIGTERM" for n in range(1, 6)
                ),
            ),
            lost_work,
            finding("drain-streams", "fail", "8 of 8 streams were cut without a final chunk"),
            goodput,
            finding(
                "pool-hold",
                "fail",
                "GET /stream held a connection for 6.2 s and ran statements for 0.1 s of it",
                value=6.1,
                unit="s idle",
                limit=0.25,
                stack=("app/main.py:152 in stream_data", "app/main.py:160 in generate"),
            ),
            finding("overload-fast-reject", "should", "refusals took 1.4 s (p50), limit 0.1 s"),
            replace(
                finding("concurrency-cliff", "unstable", "1 of 3 rounds fell below 70 %"), rounds=3
            ),
            finding("dep-blackhole", "not-measured", "no dependency was found"),
            finding("stream-heartbeat", "n-a", "no stream is ever idle"),
            finding("loop-blocking", "pass", "longest stall 41 ms, limit 100 ms", value=41),
            finding("task-hygiene", "pass", "0 tasks failed unseen"),
            finding("commit-before-ack", "pass", "0 of 12 failed COMMITs were answered 2xx"),
        ),
        score=41,
        notes=("The load generator was at its limit in the attack overload.",),
    )


def passing_report() -> Report:
    return Report(
        recording=recording(app="stormproof.demo.service:app", server="serve"),
        findings=tuple(
            finding(id, "n-a" if id == "stream-heartbeat" else "pass", "0 of 60 lost")
            for id in AUDITS
        ),
        score=100,
    )


def hostile_report() -> Report:
    """Return a report of an app whose every word is an attempt to break out of the page."""
    route = f"GET /{HOSTILE}"
    dice = random.Random(1)
    rows = requests(dice, began_at=0, seconds=2, rate=50, group=HOSTILE, route=route)
    rows += requests(
        dice, began_at=2, seconds=1, rate=20, group="x", route=route, endings=[("reset", 0, 1)]
    )
    hostile = AttackRecord(
        name="drain",
        ended_at=3.0,
        requests=tuple(rows),
        marks={HOSTILE: 2.0},
        facts={HOSTILE: [HOSTILE]},
        exit=Exit(at=2.9, code=-9, is_killed=True, tail=HOSTILE * 3),
    )
    broken = AttackRecord(name="overload", problem=HOSTILE)
    evil = Fix(title=HOSTILE, before=HOSTILE, after=HOSTILE + "\nmore")
    found = Finding(
        audit=audit("drain-in-flight", failing=HOSTILE, why=HOSTILE, fixes=(evil,)),
        verdict="fail",
        judgement=Judgement(
            outcome="fail",
            display=HOSTILE,
            value=1,
            unit=HOSTILE,
            limit=0,
            losses=(HOSTILE, HOSTILE),
            stack=(HOSTILE,),
            routes=(route,),
            series=(
                Series(title=HOSTILE, unit=HOSTILE, points=((0, 1), (1, 2)), marks={HOSTILE: 1}),
            ),
        ),
        repro=HOSTILE,
    )
    return Report(
        recording=recording(
            app=HOSTILE,
            machine={HOSTILE: HOSTILE, "cpu": HOSTILE},
            routes=(Route(id=route, method="GET", path=HOSTILE, url=HOSTILE),),
            attacks=(hostile, broken),
        ),
        findings=(found,),
        score=0,
        notes=(HOSTILE,),
    )


def silent_report() -> Report:
    """Return a report of an app that answered nothing but 401."""
    dice = random.Random(1)
    rows = requests(
        dice, began_at=0, seconds=2, rate=50, group="light", endings=[("complete", 401, 1.0)]
    )
    light = AttackRecord(name="baseline", ended_at=2.0, requests=tuple(rows))
    return Report(
        recording=recording(attacks=(light,)),
        findings=(finding("drain-in-flight", "not-measured", "no request was answered 2xx"),),
        score=None,
    )


@cache
def big_report() -> Report:
    """Return a report with 100,000 requests in one attack."""
    dice = random.Random(3)
    endings: list[tuple[Ended, int, float]] = [
        ("complete", 200, 6.0),
        ("complete", 503, 3.0),
        ("timeout", 0, 2.0),
        ("reset", 0, 1.0),
    ]
    rows = requests(
        dice, began_at=0, seconds=100, rate=1000, group="flood", endings=endings, latency=0.2
    )
    flood = AttackRecord(
        name="overload",
        ended_at=102.0,
        requests=tuple(rows),
        canary=canary(dice, began_at=0, seconds=102, dead_after=80),
        samples=samples(dice, began_at=0, seconds=102),
    )
    return replace(failing_report(), recording=recording(attacks=(flood,)))
