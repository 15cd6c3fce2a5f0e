"""Health: what `/livez`, `/readyz` and `/startupz` say in each phase."""

import json

from stormproof._core.lifecycle import Lifecycle, Phase

HEALTH_PATHS = ("/livez", "/readyz", "/startupz")


def health_answer(path: str, lifecycle: Lifecycle) -> tuple[int, bytes]:
    """Return status and JSON body for one of `HEALTH_PATHS`.

    Liveness is 200 as long as the loop answers, through the whole drain, so that no platform
    kills a service that is finishing its work.
    Readiness is 200 in phase "ready" only.
    Start-up is 503 before that phase was reached and 200 ever after.
    """
    phase = lifecycle.phase
    is_good = {
        "/livez": True,
        "/readyz": phase is Phase.READY,
        "/startupz": phase is not Phase.STARTING,
    }[path]
    body = json.dumps({"status": "ok" if is_good else "unavailable", "phase": phase.value})
    return (200 if is_good else 503), body.encode()
