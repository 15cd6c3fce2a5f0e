"""An exchange: one request on its way, and the row it becomes in the ledger when it ends."""

from collections.abc import Callable

from stormproof.prove._recording import Ended, Request

from ._answer import AnswerParser, Sink
from ._ledger import Ledger
from ._shot import Shot


class Exchange:
    """One request from its intended sending to its end; `end()` writes the row, once.

    Attributes:
        deadline: When its client gives up, in the recording's time.
        remark: Asked for the row's note at the end; it is given how it ended.
        row: The row, from the end on.
        abandon: Ends it early, with its connection; None until it has one.
        dispatched_at: When the generator took it in hand: sent it, or connected for it.
        on_end: Called with the exchange, after the row was written.
    """

    __slots__ = (
        "abandon",
        "connection",
        "deadline",
        "dispatched_at",
        "first_byte_at",
        "group",
        "id",
        "intended_at",
        "is_reused",
        "ledger",
        "on_end",
        "on_first_byte",
        "remark",
        "row",
        "sent_at",
        "shot",
        "sink",
    )

    def __init__(
        self,
        ledger: Ledger,
        shot: Shot,
        *,
        group: str,
        intended_at: float,
        timeout: float,
        on_end: Callable[["Exchange"], None] | None = None,
        on_first_byte: Callable[[], object] | None = None,
        sink: Sink | None = None,
    ) -> None:
        self.ledger = ledger
        self.shot = shot
        self.group = group
        self.id = ledger.next_id()
        self.intended_at = intended_at
        self.deadline = intended_at + timeout
        self.on_end = on_end
        self.on_first_byte = on_first_byte
        self.sink = sink
        self.sent_at: float | None = None
        self.first_byte_at: float | None = None
        self.abandon: Callable[[Ended, str], None] | None = None
        self.dispatched_at: float | None = None
        self.connection = 0
        self.is_reused = False
        self.remark: Callable[[Ended], str] | None = None
        self.row: Request | None = None

    def end(self, ended: Ended, *, answer: AnswerParser | None = None, note: str = "") -> None:
        """Write the row; a second call does nothing."""
        if self.row is not None:
            return
        self.row = Request(
            id=self.id,
            route=self.shot.route,
            group=self.group,
            intended_at=self.intended_at,
            sent_at=self.sent_at,
            first_byte_at=self.first_byte_at,
            last_byte_at=None if ended == "unsent" else self.ledger.now(),
            status=answer.status if answer else 0,
            ended=ended,
            size_bytes=answer.size_bytes if answer else 0,
            connection=self.connection,
            is_reused=self.is_reused,
            headers=answer.headers if answer else {},
            note=note if self.remark is None else self.remark(ended),
        )
        self.ledger.rows.append(self.row)
        if self.on_end is not None:
            self.on_end(self)
