"""`drain-background`: work that was acknowledged is done, or handed over, before the end."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from stormproof.prove._audit import Audit, Fix, Judgement, not_applicable, not_measured
from stormproof.prove._recording import AgentEvent, AttackRecord, Recording, Request

from ._departure import listed, moment, signal_at
from ._promises import both, judged, promises_of

_DONE = frozenset({"finished", "handed-over", "handed_over"})
_ONCE_OF = 3
"""A task that one of at least so many requests of a route started is a service of the app."""


@dataclass(slots=True)
class _Piece:
    """One piece of background work: what happened to it, in order."""

    request: Request
    name: str
    where: str
    is_task: bool
    events: list[AgentEvent] = field(default_factory=list)

    @property
    def fate(self) -> str:
        """What became of it, in words; "" when it was done."""
        last = self.events[-1].facts
        whats = [event.facts.get("what") for event in self.events]
        error = str(last.get("error") or "")
        if any(what in _DONE for what in whats) or error in _DONE:
            return ""
        if "failed" in whats:
            return f"failed with {_type_of(error)}" if error else "failed"
        if "cancelled" in whats:
            is_early = not self.is_task and "started" not in whats
            return "dropped before it began" if is_early else "cancelled"
        if self.is_task or "started" in whats:
            return "unfinished when the process ended"
        return "never begun"


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("drain")
    signal = None if record is None else signal_at(record)
    if record is None or signal is None:
        return not_measured("no SIGTERM was sent under load")
    promises = promises_of(record)
    watched = _watched(recording, record, signal)
    return both(judged(promises, signal), watched) if promises else watched


def _watched(recording: Recording, record: AttackRecord, signal: float) -> Judgement:
    """Return what the agent saw become of the work."""
    if not recording.has_agent:
        return not_measured(
            "needs the agent inside the app, or a scenario that says how promises are kept"
        )
    pieces = list(_pieces(record))
    if not pieces:
        routes = [route for route in recording.routes if {"background", "task"} & set(route.uses)]
        if routes:
            return not_measured(f"{routes[0].id} acknowledged no background work under load")
        return not_applicable(
            "no request was seen to start background work; writes are asked only with "
            "--writes or a scenario"
        )
    lost = [piece for piece in pieces if piece.fate]
    if not lost:
        display = f"all {len(pieces)} acknowledged pieces of background work were done"
    else:
        names = Counter(f"{piece.name} from {piece.request.route}" for piece in lost)
        fates = listed(Counter(piece.fate for piece in lost))
        what = ", ".join(f"{name} {count}" for name, count in names.most_common(3))
        display = (
            f"{len(lost)} of {len(pieces)} acknowledged pieces of background work were not done "
            f"({fates}): {what}"
        )
    return Judgement(
        outcome="fail" if lost else "pass",
        display=display,
        value=float(len(lost)),
        unit="pieces",
        limit=0.0,
        losses=tuple(_line(piece, signal) for piece in lost[:5]),
        stack=tuple(dict.fromkeys(piece.where for piece in lost if piece.where))[:5],
        routes=tuple(dict.fromkeys(piece.request.route for piece in lost)),
    )


def _pieces(record: AttackRecord) -> Iterator[_Piece]:
    """Yield the pieces whose request was answered 2xx, without the services that requests begin."""
    requests = {request.id: request for request in record.requests}
    found: dict[tuple[int, str], _Piece] = {}
    for event in record.of_kind("background", "task"):
        key = (event.pid, f"{event.kind} {event.facts.get('key')}")
        if (piece := found.get(key)) is not None:
            piece.events.append(event)
            continue
        request = requests.get(event.facts.get("id") or -1)
        # the warm-up counts its requests too: an event before this one was sent is not of it
        if request is None or event.at < request.intended_at or not _is_acknowledged(request):
            continue
        facts = event.facts
        found[key] = _Piece(
            request=request,
            name=str(facts.get("name") or "a task"),
            where=f"{facts['file']}:{facts['line']}" if facts.get("file") else "",
            is_task=event.kind == "task",
            events=[event],
        )
    services = _services(record, list(found.values()))
    supervised = {_work(piece) for piece in found.values() if _is_supervised(piece)}
    for piece in found.values():
        # a supervisor runs its work as a task: that is one piece, and the supervisor knows more
        if piece.is_task and (_place(piece) in services or _work(piece) in supervised):
            continue
        yield piece


def _is_supervised(piece: _Piece) -> bool:
    """Whether stormproof's own tasks took it; the agent's keys say so, "b" is Starlette's."""
    return not piece.is_task and str(piece.events[0].facts.get("key")).startswith("s")


def _work(piece: _Piece) -> tuple[int, int, str]:
    return (piece.events[0].pid, piece.request.id, piece.name)


def _services(record: AttackRecord, pieces: list[_Piece]) -> set[tuple[str, str]]:
    """Return the places that began one task for all requests of their route: a pool, a poller."""
    asked = Counter(request.route for request in record.requests if _is_acknowledged(request))
    begun = Counter(_place(piece) for piece in pieces if piece.is_task)
    return {
        _place(piece)
        for piece in pieces
        if piece.is_task and begun[_place(piece)] == 1 and asked[piece.request.route] >= _ONCE_OF
    }


def _place(piece: _Piece) -> tuple[str, str]:
    return (piece.request.route, piece.where or piece.name)


def _is_acknowledged(request: Request) -> bool:
    return request.ended == "complete" and 200 <= request.status < 300


def _type_of(error: str) -> str:
    """Return the exception's name from its repr, `ConnectionError('no mail server')`."""
    return error.partition("(")[0] or error


def _line(piece: _Piece, signal: float) -> str:
    request = piece.request
    answered = moment(request.last_byte_at or signal, signal)
    line = f"{piece.name} from {request.route}: answered {request.status} {answered}, {piece.fate}"
    error = str(piece.events[-1].facts.get("error") or "")
    return f"{line}: {error[:120]}" if piece.fate.startswith("failed") and error else line


AUDIT = Audit(
    id="drain-background",
    is_must=True,
    passing="Acknowledged background work is done before the service stops",
    failing="Acknowledged background work is lost when the service stops",
    why=(
        "`202 Accepted` is a promise: the mail, the export, the payment will be done. A task "
        "without an owner dies with the process, and so does what waits behind a task that "
        "raised. Nobody sees it, because the answer was good."
    ),
    fixes=(
        Fix(
            title="Plain FastAPI: own the tasks, and wait for them before the end",
            before=('asyncio.create_task(send_mail(address))\nreturn {"status": "queued"}'),
            after=(
                "@asynccontextmanager\n"
                "async def lifespan(app):\n"
                "    async with asyncio.TaskGroup() as app.state.work:\n"
                "        yield  # leaving the group waits for what is in it\n\n"
                "# in the endpoint; send_mail catches its own errors, or one ends the group\n"
                "request.app.state.work.create_task(send_mail(address))"
            ),
        ),
        Fix(
            title="With stormproof: supervised tasks, finished or handed over in the drain",
            before="background_tasks.add_task(send_mail, address)",
            after=(
                "tasks = stormproof.Tasks()\n"
                "stormproof.install(app, tasks, grace=25)\n\n"
                "# in the endpoint\n"
                "tasks.spawn(send_mail, address)"
            ),
        ),
    ),
    attacks=("drain",),
    judge=_judge,
    weight=5,
)
