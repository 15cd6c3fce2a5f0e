"""The brokers that jobs are forwarded to, in memory; each can be away, or lose its answer."""

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from faststream import BaseMiddleware
from faststream.rabbit import RabbitBroker, TestRabbitBroker
from faststream.rabbit.annotations import RabbitMessage
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.memory import Channel, Transport
from taskiq import InMemoryBroker
from taskiq.message import BrokerMessage


@dataclass(frozen=True)
class Received:
    """A message as the other side sees it."""

    id: str
    order: int
    trace: str | None
    header: str | None


@dataclass
class Wire:
    """One broker: what to forward to, what has arrived, and how it is broken now."""

    to: Any = None
    received: list[Received] = field(default_factory=list)
    is_away: bool = False
    is_deaf: bool = False
    tries: int = 0

    def before(self) -> None:
        self.tries += 1
        if self.is_away:
            raise ConnectionError("no route to the broker")

    def after(self) -> None:
        if self.is_deaf:
            raise TimeoutError("the confirmation was lost")


@asynccontextmanager
async def taskiq() -> AsyncIterator[Wire]:
    wire = Wire()

    class Broker(InMemoryBroker):
        async def kick(self, message: BrokerMessage) -> None:
            wire.before()
            told = self.formatter.loads(message.message)
            trace, header = told.labels.get("traceparent"), told.labels["message-id"]
            wire.received.append(Received(told.task_id, told.kwargs["order"], trace, header))
            wire.after()

    broker = Broker()

    @broker.task(task_name="ship")
    async def ship(order: int) -> None: ...

    wire.to = ship
    await broker.startup()
    yield wire
    await broker.shutdown()


@asynccontextmanager
async def celery() -> AsyncIterator[Wire]:
    wire = Wire()

    class BreakableChannel(Channel):
        def _put(self, queue: str, message: Any, **options: Any) -> None:
            wire.before()
            told = message["headers"]
            _, kwargs, _ = json.loads(b64decode(message["body"]))
            trace, header = told.get("traceparent"), told["message-id"]
            wire.received.append(Received(told["id"], kwargs["order"], trace, header))
            wire.after()

    class Breakable(Transport):
        Channel = BreakableChannel

    scheme = f"breakable{id(wire)}"  # kombu keeps what it has found for a name
    TRANSPORT_ALIASES[scheme] = lambda: Breakable
    app = Celery("test", broker=f"{scheme}://", set_as_current=False)

    @app.task(name="ship")
    def ship(order: int) -> None: ...

    wire.to = ship
    yield wire
    app.close()
    del TRANSPORT_ALIASES[scheme]


@asynccontextmanager
async def faststream() -> AsyncIterator[Wire]:
    wire = Wire()

    class Breakable(BaseMiddleware):
        async def publish_scope(self, call_next: Any, command: Any) -> Any:
            wire.before()
            result = await call_next(command)
            wire.after()
            return result

    broker = RabbitBroker(middlewares=[Breakable])

    @broker.subscriber("orders")
    async def arrives(order: int, message: RabbitMessage) -> None:
        assert message.correlation_id == message.message_id
        trace, header = message.headers.get("traceparent"), message.headers["message-id"]
        wire.received.append(Received(str(message.message_id), order, trace, header))

    wire.to = broker.publisher("orders")
    async with TestRabbitBroker(broker):
        yield wire


BROKERS: dict[str, Callable[[], Any]] = {
    "taskiq": taskiq,
    "celery": celery,
    "faststream": faststream,
}
