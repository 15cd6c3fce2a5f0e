"""Health: what `/livez`, `/readyz` and `/startupz` say in each phase."""

import json

from stormproof._core.lifecycle import Lifecycle, Phase

HEALTH_PATHS = ("/livez", "/readyz", "/startupz")


def health_answer(path: str, lifecycle: Lifecycle) -> tuple[int, bytes]:
    """Return status and JSON body for one of `HEALTH_PATHS`.

    Liveness is 200 as long as the loop answers, through the whole drain, so that no platform
    kills a service that is finishing its work.
    Readiness is 200 in phase "ready" only, and while nothing has declared itself unready; the
    reasons are in the body.
    Start-up is 503 before that phase was reached and 200 ever after.
    """
    phase = lifecycle.phase
    is_good = {
        "/livez": True,
        "/readyz": lifecycle.is_ready,
        "/startupz": phase is not Phase.STARTING,
    }[path]
    answer: dict[str, object] = {
        "status": "ok" if is_good else "unavailable",
        "phase": phase.value,
    }
    if path == "/readyz" and lifecycle.unready:
        answer["reasons"] = lifecycle.unready
    return (200 if is_good else 503), json.dumps(answer).encode()
