"""`drain-keepalive`: a kept connection is not closed under a client that is using it."""

from stormproof.prove._audit import Audit, Fix, Judgement, not_measured
from stormproof.prove._recording import Recording

from ._departure import by_route, counted, judged_by_losses, on_kept_connections, signal_at


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("drain")
    signal = None if record is None else signal_at(record)
    if record is None or signal is None:
        return not_measured("no SIGTERM was sent under load")
    requests = on_kept_connections(record, signal)
    sent = [request for request in requests if request.ended != "unsent"]
    if not sent:
        return not_measured("no request was sent on a kept connection after SIGTERM")
    lost = [request for request in sent if request.ended not in ("complete", "refused")]
    away = len(requests) - len(sent)
    if lost:
        trip = float(record.facts.get("trip", 0.0)) * 1000
        display = (
            f"{len(lost)} of {len(sent)} requests sent on kept connections after SIGTERM were "
            f"lost ({counted(lost)}), by clients {trip:.0f} ms away: {by_route(lost)}"
        )
        display += f"; {away} clients saw the closing in time" if away else ""
    else:
        words = f"; {away} connections had been closed before" if away else ""
        display = f"all {len(sent)} requests sent on kept connections were answered{words}"
    return judged_by_losses(lost, signal, display=display, blame="server")


AUDIT = Audit(
    id="drain-keepalive",
    is_must=False,
    passing="Kept connections are closed without losing a request",
    failing="Kept connections are closed while clients are sending on them",
    why=(
        "Load balancers and HTTP clients keep connections open and send the next request on "
        "them. A server that closes them all at SIGTERM closes some while a request is on its "
        "way: the client sees a reset, and may not repeat a write. Clients that get "
        "`Connection: close` with an answer first go elsewhere by themselves."
    ),
    fixes=(
        Fix(
            title="Plain FastAPI: tell clients to leave before the server closes",
            before="app = FastAPI()",
            after=(
                "class LeaveTold:  # app.add_middleware(LeaveTold)\n"
                "    def __init__(self, app):\n"
                "        self.app = app\n\n"
                "    async def __call__(self, scope, receive, send):\n"
                "        async def told(message):\n"
                '            if leaving.is_set() and message["type"] == "http.response.start":\n'
                '                message["headers"] += [(b"connection", b"close")]\n'
                "            await send(message)\n"
                "        await self.app(scope, receive, told)\n\n"
                "# and at SIGTERM: leaving.set(); loop.call_later(5, server_handler, SIGTERM, None)"
            ),
        ),
        Fix(
            title="With stormproof: the lame duck says `Connection: close`, then waits",
            before="app = FastAPI()",
            after="app = FastAPI()\nstormproof.install(app, grace=25, prestop=5)",
        ),
    ),
    attacks=("drain",),
    judge=_judge,
)
