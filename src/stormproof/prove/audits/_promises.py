"""Promises that were looked up after a restart: what of them was kept."""

from collections import Counter
from dataclasses import replace

from stormproof.prove._audit import Judgement, not_measured
from stormproof.prove._promises import FACT, Promise
from stormproof.prove._recording import AttackRecord

from ._departure import moment


def promises_of(record: AttackRecord) -> list[Promise]:
    """Return the promises that the attack looked up; empty where no request says how."""
    return [Promise.of(facts) for facts in record.facts.get(FACT, ())]


def judged(promises: list[Promise], signal: float) -> Judgement:
    """Return what the lookups say by themselves."""
    clear = [promise for promise in promises if not promise.unclear]
    if not clear:
        return not_measured(promises[0].unclear)
    broken = [promise for promise in clear if not promise.is_kept]
    if not broken:
        display = f"all {len(clear)} promises were kept when looked up after a restart"
    else:
        routes = Counter(promise.route for promise in broken)
        which = ", ".join(f"{route} {count}" for route, count in routes.most_common(3))
        display = (
            f"{len(broken)} of {len(clear)} promises were not kept when looked up after a "
            f"restart: {which}"
        )
    return Judgement(
        outcome="fail" if broken else "pass",
        display=display,
        value=float(len(broken)),
        unit="pieces",
        limit=0.0,
        losses=tuple(
            f"{promise.route}: answered {promise.status} {moment(promise.at, signal)}; "
            f"after a restart {promise.seen}"
            for promise in broken[:5]
        ),
        routes=tuple(dict.fromkeys(promise.route for promise in broken)),
    )


def both(looked_up: Judgement, watched: Judgement) -> Judgement:
    """Return the two judgements as one: what was lost by either is lost."""
    if watched.outcome in ("n-a", "not-measured"):
        return looked_up
    if looked_up.outcome == "not-measured":
        return replace(watched, display=f"{watched.display}; {looked_up.display}")
    worse, other = (looked_up, watched) if looked_up.outcome == "fail" else (watched, looked_up)
    return replace(
        worse,
        display=f"{worse.display}; {other.display}",
        value=(worse.value or 0.0) + (other.value or 0.0),
        losses=(*worse.losses, *other.losses)[:5],
        stack=tuple(dict.fromkeys((*worse.stack, *other.stack))),
        routes=tuple(dict.fromkeys((*worse.routes, *other.routes))),
    )
