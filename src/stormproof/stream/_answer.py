"""The answer to one request: a delivery, counted among the open streams, and told of."""

from collections.abc import Container
from contextlib import nullcontext
from typing import NoReturn

from stormproof._core.asgi import LIFECYCLE_KEY, Receive, Scope, Send
from stormproof._core.events import StreamEnded, StreamOpened
from stormproof._core.lifecycle import Lifecycle

from ._delivery import Delivery, Plan, close_sources


async def deliver(
    plan: Plan, scope: Scope, receive: Receive, send: Send, *, leaves_on_drain: bool
) -> None:
    """Deliver `plan`, count it among the open streams if it leaves at a drain, and tell of it.

    Waits, ends and raises as `Delivery.run`. Without a lifecycle in the scope nothing is
    counted or told, and no drain ends it. While the service drains already, a stream that
    leaves on drain is asked to leave at once.
    """
    lifecycle: Lifecycle | None = scope.get(LIFECYCLE_KEY)
    if lifecycle is None:
        await _run(Delivery(plan, receive, send), scope)
        return
    opened_at = lifecycle.clock.now()
    lifecycle.events.emit(StreamOpened(plan.name))
    with lifecycle.stream(plan.name) if leaves_on_drain else nullcontext() as place:
        if place is not None and lifecycle.is_draining:
            place.leave.set()  # the drain may have asked the others already
        delivery = Delivery(plan, receive, send, place)
        try:
            await _run(delivery, scope)
        finally:
            age = lifecycle.clock.now() - opened_at
            lifecycle.events.emit(StreamEnded(plan.name, delivery.reason, age))


async def answer_head(plan: Plan, send: Send) -> None:
    """Answer HEAD with the headers alone, and close the source, which is never asked."""
    try:
        await send(plan.start)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await close_sources(plan.name, plan.source)


async def _run(delivery: Delivery, scope: Scope) -> None:
    """Run `delivery`; a failure before anything was sent may still be answered by the app."""
    try:
        await delivery.run()
    except Exception as exc:
        if not delivery.has_started:
            raise
        raise_reported(exc, scope)


def raise_reported(exc: Exception, scope: Scope) -> NoReturn:
    """Raise what a response under way has failed with; called while `exc` is handled.

    One of a class that the app has a handler for is told in one line: Starlette would try to
    answer it, find the response under way, and raise a second exception.
    """
    handlers: Container[type] = scope.get("starlette.exception_handlers", [()])[0]
    if any(kind in handlers for kind in type(exc).__mro__):
        raise RuntimeError(f"the response was cut: {type(exc).__name__}: {exc}") from None
    raise exc
