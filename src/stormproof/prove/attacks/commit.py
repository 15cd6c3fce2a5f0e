"""Commit: every COMMIT of a transaction is made to fail, and requests that write are sent."""

from stormproof.prove._attack import Attack, Grounds, Scene
from stormproof.prove.load import Shot, ask

_EACH = 4
"""How often each route is asked."""

_MOST_ROUTES = 25
_LIMIT = 6.0
"""Seconds after which no further route is asked."""


async def _run(scene: Scene) -> None:
    if scene.agent is None:
        return
    routes = sorted(scene.of_kind("plain", "stream"), key=lambda route: not route.is_promise)
    await scene.agent.fail_commits(on=True)
    scene.mark("commits-fail")
    try:
        for route in routes[:_MOST_ROUTES]:
            for _ in range(_EACH):
                await ask(
                    scene.port,
                    Shot.of(route),
                    timeout=scene.options.deadline,
                    ledger=scene.ledger,
                    group="commit",
                )
            if scene.ledger.now() - scene.marks["commits-fail"] > _LIMIT:
                break
    finally:
        await scene.agent.fail_commits(on=False)
        scene.mark("commits-work")
    await scene.agent.census()  # its answer comes after all that happened before


def _fits(grounds: Grounds) -> str:
    return "" if grounds.has_agent else "needs the agent inside the app, which was not there"


ATTACK = Attack(
    name="commit",
    title="every COMMIT fails",
    seconds=4.0,
    run=_run,
    fits=_fits,
    has_canary=False,
)
