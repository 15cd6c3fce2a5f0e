"""The terms of one subscription: what a client gets, how much may wait for it, and until when."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from stormproof._core.asgi import Headers

from ._backlog import Policy
from ._published import Published
from ._wire import Wire

Filter: TypeAlias = Callable[[Published], bool | str | None]
"""Whether an event is sent; or the text that is sent in place of its data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What was agreed for one subscription.

    Attributes:
        name: Method and route, for logs and events.
        topics: What it gets.
        headers: Of the response.
        wire: How events look.
        last_event_id: Where the client resumes; None: with what is new.
        filter: Which events it gets, and in which words.
        policy: What happens when it is behind.
        queue_frames: Events that may wait for it.
        queue_bytes: Bytes they may have.
        send_timeout: Seconds that one send may take.
        heartbeat: Seconds without a send after which one is made.
        ends_at: The loop's time at which it ends.
        ends_because: Why it does: "age" or "expired".
        ends_on: The name of the event that completes it.
    """

    name: str
    topics: frozenset[str]
    headers: Headers
    wire: Wire
    last_event_id: str | None
    filter: Filter | None
    policy: Policy
    queue_frames: int
    queue_bytes: int
    send_timeout: float
    heartbeat: float
    ends_at: float
    ends_because: str
    ends_on: str | None
