"""Load: an open loop, closed loops, rude clients and a canary, and the ledger of all they did."""

from ._ask import KeptConnection as KeptConnection
from ._ask import ask as ask
from ._canary import canary as canary
from ._closed_loop import closed_loop as closed_loop
from ._ledger import Ledger as Ledger
from ._ledger import LoadReport as LoadReport
from ._open_loop import open_loop as open_loop
from ._rude import leave_early as leave_early
from ._rude import read_slowly as read_slowly
from ._rude import send_half_body as send_half_body
from ._rude import send_half_head as send_half_head
from ._shot import Shot as Shot
from ._sse import StreamEvent as StreamEvent
from ._stream import StreamReader as StreamReader

__all__ = (
    "KeptConnection",
    "Ledger",
    "LoadReport",
    "Shot",
    "StreamEvent",
    "StreamReader",
    "ask",
    "canary",
    "closed_loop",
    "leave_early",
    "open_loop",
    "read_slowly",
    "send_half_body",
    "send_half_head",
)
