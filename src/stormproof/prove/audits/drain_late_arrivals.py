"""`drain-late-arrivals`: who comes before the load balancer has noticed is answered."""

from stormproof.prove._audit import Audit, Fix, Judgement, not_applicable, not_measured
from stormproof.prove._recording import Recording

from ._departure import arrived_late, by_route, counted, judged_by_losses, signal_at


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("drain")
    signal = None if record is None else signal_at(record)
    if record is None or signal is None:
        return not_measured("no SIGTERM was sent under load")
    lag = float(recording.profile.get("lag", 0.0))
    if lag <= 0:
        name = recording.profile.get("name", "this platform")
        return not_applicable(f"{name} has no load balancer that sends on after SIGTERM")
    requests = arrived_late(record, signal, lag)
    if not requests:
        return not_measured(f"no new connection was tried within {lag:g} s of SIGTERM")
    lost = [request for request in requests if request.ended != "complete"]
    within = f"within {lag:g} s of SIGTERM"
    if lost:
        display = (
            f"{len(lost)} of {len(requests)} requests that came {within} on new connections "
            f"were lost ({counted(lost)}): {by_route(lost)}"
        )
    else:
        turned = sum(request.status == 503 for request in requests)
        words = f", {turned} of them with 503" if turned else ""
        display = f"all {len(requests)} requests that came {within} were answered{words}"
    return judged_by_losses(lost, signal, display=display, blame="server")


AUDIT = Audit(
    id="drain-late-arrivals",
    is_must=False,
    passing="Requests that arrive shortly after SIGTERM are answered",
    failing="Requests that arrive shortly after SIGTERM are refused",
    why=(
        "A load balancer hears of a leaving instance later than the instance itself: Kubernetes "
        "sends SIGTERM and tells its proxies at the same moment. Until they have noticed, new "
        "requests still come; a server that closes its listener at once refuses them, and users "
        "see 502 in every deploy."
    ),
    fixes=(
        Fix(
            title="Plain FastAPI: let the platform wait before it sends SIGTERM",
            before="containers:\n  - name: app",
            after=(
                "containers:\n"
                "  - name: app\n"
                "    lifecycle:\n"
                "      preStop:\n"
                "        sleep: { seconds: 5 }  # the proxies notice first"
            ),
        ),
        Fix(
            title="Plain FastAPI: hand the signal to the server a little later",
            before="app = FastAPI()",
            after=(
                "@asynccontextmanager\n"
                "async def lifespan(app):\n"
                "    loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)\n"
                "    loop.add_signal_handler(\n"
                "        signal.SIGTERM, loop.call_later, 5, stop, signal.SIGTERM, None\n"
                "    )\n"
                "    yield\n\n"
                "app = FastAPI(lifespan=lifespan)"
            ),
        ),
        Fix(
            title="With stormproof: a lame duck before the listener closes",
            before="app = FastAPI()",
            after="app = FastAPI()\nstormproof.install(app, grace=25, prestop=5)",
        ),
    ),
    attacks=("drain",),
    judge=_judge,
)
