"""`drain-in-flight`: what was being served at SIGTERM is answered."""

from stormproof.prove._audit import Audit, Fix, Judgement, not_measured
from stormproof.prove._recording import Recording, Request

from ._departure import (
    LATE_GROUPS,
    ailing_routes,
    by_route,
    counted,
    in_flight,
    judged_by_losses,
    phases,
    signal_at,
    still_open,
)


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("drain")
    signal = None if record is None else signal_at(record)
    if record is None or signal is None:
        return not_measured("no SIGTERM was sent under load")
    requests = in_flight(record, signal)
    if not requests:
        return not_measured("no request was in flight at SIGTERM")
    ailing = ailing_routes(record, signal)

    def is_lost(request: Request) -> bool:
        if request.ended != "complete":
            return True
        return request.status >= 500 and request.route not in ailing

    lost = [request for request in requests if is_lost(request)]
    total = len(requests)
    if not lost:
        display = f"all {total} requests in flight at SIGTERM were answered"
    else:
        display = (
            f"{len(lost)} of {total} requests in flight at SIGTERM were lost "
            f"({counted(lost)}): {by_route(lost)}"
        )
    is_killed = record.exit is not None and record.exit.is_killed
    went_down = not record.events or bool(phases(record, "stopping"))
    answered = any(request.ended == "complete" for request in lost)
    own = recording.server in ("uvicorn", "serve") or is_killed or answered or not went_down
    series = still_open(record, record.of_group(*LATE_GROUPS), signal, what="requests")
    return judged_by_losses(
        lost, signal, display=display, blame="app" if own else "server", series=(series,)
    )


AUDIT = Audit(
    id="drain-in-flight",
    is_must=True,
    passing="Requests in flight at SIGTERM are answered",
    failing="Requests in flight at SIGTERM are lost",
    why=(
        "Every deploy, every scale-down and every node that is replaced sends SIGTERM to a "
        "service that is at work. What it was working on belongs to users: a lost request is an "
        "error page, and for a write nobody knows whether it happened."
    ),
    fixes=(
        Fix(
            title="Plain FastAPI: close what requests use after the last request, not at SIGTERM",
            before=(
                "async def close(*_):\n"
                "    await client.aclose()  # requests in flight still use it\n"
                "    os._exit(0)\n\n"
                "loop.add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(close()))"
            ),
            after=(
                "@asynccontextmanager\n"
                "async def lifespan(app):\n"
                "    yield\n"
                "    await client.aclose()  # the server comes here when requests have ended\n\n"
                "app = FastAPI(lifespan=lifespan)"
            ),
        ),
        Fix(
            title="With stormproof: parts close after the requests, inside one deadline",
            before="app = FastAPI()",
            after=(
                "app = FastAPI()\n"
                'prices = stormproof.Upstream(name="prices")\n'
                "stormproof.install(app, prices, grace=25, deadline=10)"
            ),
        ),
    ),
    attacks=("drain",),
    judge=_judge,
    weight=5,
)
