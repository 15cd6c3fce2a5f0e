"""`retry-amplification`: while a dependency is down, one request of ours is not many of theirs."""

from stormproof.prove._audit import Audit, Fix, Judgement, not_measured

from ._dependency import ATTACKS, Faced, first_lines, judged_with

LIMIT = 3.0
"""Attempts for each connection that the same request opens in good times."""


def _judge(found: list[Faced]) -> Judgement:
    worst: tuple[float, str, str] | None = None
    many: list[str] = []
    routes: list[str] = []
    for each in found:
        for route, counted in each.noted.get("retries", {}).items():
            if not counted["requests"]:
                continue
            per_request = counted["attempts"] / counted["requests"]
            factor = per_request / max(1.0, counted["fresh"])
            line = f"{route} tried {each.name} {per_request:.1f} times a request" + (
                f", {counted['fresh']:g} in good times" if counted["fresh"] > 1 else ""
            )
            if worst is None or factor > worst[0]:
                worst = (factor, line, route)
            if factor > LIMIT:
                many.append(line)
                routes.append(route)
    if worst is None:
        return not_measured("no request was counted while a dependency was down")
    return Judgement(
        outcome="fail" if many else "pass",
        display=f"while it was down, {worst[1]}",
        value=worst[0],
        unit="attempts",
        limit=LIMIT,
        losses=first_lines(many),
        routes=tuple(routes),
    )


AUDIT = Audit(
    id="retry-amplification",
    is_must=False,
    passing="A dependency that is down is not asked many times for each request",
    failing="A dependency that is down is asked many times for each request",
    why=(
        "Retries multiply: three tries in the client, three in the code around it and three in "
        "the service before yours make 27 requests of one. A dependency that has come down "
        "under its load is kept down by that, and the retries of a request whose caller has "
        "gone help nobody."
    ),
    fixes=(
        Fix(
            title="Retry in one place, once, and only while most calls succeed",
            before=(
                "for attempt in range(5):\n"
                "    try:\n"
                "        return await client.get(url)  # whose transport retries 3 times\n"
                "    except httpx2.TransportError:\n"
                "        await asyncio.sleep(0.1)\n"
            ),
            after=(
                "try:\n"
                "    return await client.get(url)  # AsyncHTTPTransport(retries=1) at most\n"
                "except httpx2.TransportError as error:\n"
                "    raise HTTPException(502, 'quotes are not available') from error\n"
            ),
        ),
        Fix(
            title="With stormproof: Upstream does not repeat of its own accord",
            before="client = httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(retries=5))\n",
            after="upstream = stormproof.Upstream(timeout=2.0)\n",
        ),
    ),
    attacks=ATTACKS,
    judge=judged_with(_judge),
    weight=2,
)
