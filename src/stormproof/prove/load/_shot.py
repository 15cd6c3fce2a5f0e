"""Shots: what is sent, encoded once, so that one sending costs a few hundred nanoseconds."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import quote

from stormproof.prove._promises import NUMBER
from stormproof.prove._recording import Route

ID_HEADER = "X-Stormproof-Id"
HOST = "127.0.0.1"
_ID_FIELD = f"\r\n{ID_HEADER}: ".encode()

_OURS = {"connection", "content-length", "transfer-encoding", ID_HEADER.lower()}
_URL_SAFE = "%/:=&?~+!$,;'@()*[]"
_LONGEST_ROUND = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One request as it is sent, but for the number it gets each time.

    Attributes:
        route: Id of its route, for the ledger.
        url: Path and query; what a request line cannot hold is percent-encoded.
        headers: Added to ours; `Host` (127.0.0.1) and, for a body, `Content-Type`
            (application/json) can be replaced, the framing cannot.
        weight: Share among the shots of a load.
    """

    route: str
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    weight: float = 1.0
    _before_id: bytes = field(init=False, repr=False, compare=False)
    _after_id: bytes = field(init=False, repr=False, compare=False)
    _after_id_close: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tail = b"\r\n\r\n" + self.body
        set_ = object.__setattr__  # the dataclass is frozen, and these are part of its making
        set_(self, "_before_id", self._head().encode("latin-1") + _ID_FIELD)
        set_(self, "_after_id", tail)
        set_(self, "_after_id_close", b"\r\nConnection: close" + tail)

    @classmethod
    def of(cls, route: Route, *, number: str = "") -> "Shot":
        """Return what to send to that route; `{n}` in it becomes `number`, or one not used yet."""
        number = number or str(time.time_ns())
        return cls(
            route=route.id,
            method=route.method,
            url=route.url.replace(NUMBER, number),
            headers=route.headers,
            body=route.body.replace(NUMBER, number).encode(),
            weight=route.weight,
        )

    def encoded(self, id: int, *, close: bool = False) -> bytes:
        """Return the bytes of the request with that number.

        Args:
            id: Sent as `X-Stormproof-Id`; 0: without that header, so the agent looks away.
            close: Ask for the end of the connection after the answer.
        """
        if not id:
            head = self._before_id.removesuffix(_ID_FIELD)
            return head + (self._after_id_close if close else self._after_id)
        return b"%b%d%b" % (self._before_id, id, self._after_id_close if close else self._after_id)

    def _head(self) -> str:
        fields = {"host": ("Host", HOST), "accept": ("Accept", "*/*")}
        if self.body:
            fields["content-type"] = ("Content-Type", "application/json")
        for name, value in self.headers.items():
            if name.lower() not in _OURS:
                fields[name.lower()] = (name, " ".join(value.split()))
        if self.body or self.method in {"POST", "PUT", "PATCH"}:
            fields["content-length"] = ("Content-Length", str(len(self.body)))
        url = quote(self.url.partition("#")[0], safe=_URL_SAFE) or "/"
        lines = [f"{self.method} {url} HTTP/1.1"]
        return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in fields.values())])


def in_turns(shots: Iterable[Shot]) -> Iterator[Shot]:
    """Yield the shots for ever, each by its weight, evenly spread (nginx's smooth round robin).

    Raises:
        ValueError: There is none, or no weight is above 0.
    """
    choices = [shot for shot in shots if shot.weight > 0]
    if not choices:
        raise ValueError("a load needs at least one shot with a weight above 0")
    total = sum(shot.weight for shot in choices)
    least = min(shot.weight for shot in choices)
    length = min(_LONGEST_ROUND, max(len(choices), round(total / least)))
    credits = [0.0] * len(choices)
    turns = []
    for _ in range(length):
        credits = [credit + shot.weight for credit, shot in zip(credits, choices, strict=True)]
        chosen = max(range(len(choices)), key=credits.__getitem__)
        credits[chosen] -= total
        turns.append(choices[chosen])
    return cycle(turns)
