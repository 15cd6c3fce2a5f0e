"""`dep-blackhole`: when a dependency is silent, every request still ends inside the deadline."""

from stormproof.prove._audit import Audit, Fix, Judgement

from ._dependency import ATTACKS, Faced, death, first_lines, judged_with, routes_of, told

_SLACK = 0.5
"""Seconds beyond the deadline that are the machine's and not the app's."""


def _judge(found: list[Faced]) -> Judgement:
    if died := death(found, {"blackhole": "was silent"}):
        return died
    asked, late = [], []
    longest = limit = 0.0
    for each in found:
        limit = float(each.noted["deadline"])
        for request in each.group("blackhole"):
            asked.append(request)
            latency = request.latency
            has_ended = request.ended in ("complete", "truncated")
            if has_ended and latency is not None and latency <= limit + _SLACK:
                longest = max(longest, latency)
            else:
                late.append((each.name, request))
    if not asked:
        return Judgement(outcome="not-measured", display="no request was sent while one was silent")
    if not late:
        return Judgement(
            outcome="pass",
            display=f"with a silent dependency, {len(asked)} of {len(asked)} requests ended, the "
            f"last after {longest:.1f} s",
            value=longest,
            unit="s",
            limit=limit,
        )
    name, first = late[0]
    return Judgement(
        outcome="fail",
        display=f"with {name} silent, {len(late)} of {len(asked)} requests had not ended "
        f"after {limit:g} s: {told(first)}",
        value=float(len(late)),
        unit="requests",
        limit=0.0,
        losses=first_lines(f"{name} silent: {told(request)}" for name, request in late),
        routes=routes_of(request for _, request in late),
    )


AUDIT = Audit(
    id="dep-blackhole",
    is_must=True,
    passing="When a dependency goes silent, every request ends inside the deadline",
    failing="When a dependency goes silent, requests hang",
    why=(
        "A firewall that drops packets, a host that lost its power, a connection that a NAT has "
        "forgotten: nothing is refused, nothing answers, and TCP itself gives up after minutes. "
        "Without a limit of your own each request waits for that long and holds its connection, "
        "its slot and its caller. The platform's own limits (30 or 60 s) are the caller's then, "
        "and by that time every worker is waiting."
    ),
    fixes=(
        Fix(
            title="Give each client a total timeout, and each query one",
            before=(
                "session = aiohttp.ClientSession()  # 5 minutes\n"
                "pool = await asyncpg.create_pool(url)  # for ever\n"
            ),
            after=(
                "session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3))\n"
                "pool = await asyncpg.create_pool(url, timeout=3, command_timeout=3)\n"
                "# psycopg cannot time a query out on the client: keep its connections alive\n"
                "url += '?connect_timeout=3&keepalives_idle=5&tcp_user_timeout=3000'\n"
            ),
        ),
        Fix(
            title="With stormproof: one deadline for the whole request, answered from outside",
            before="app = FastAPI()\n",
            after="app = FastAPI()\nstormproof.install(app, database, deadline=8.0)  # then 504\n",
        ),
    ),
    attacks=ATTACKS,
    judge=judged_with(_judge),
    weight=5,
)
