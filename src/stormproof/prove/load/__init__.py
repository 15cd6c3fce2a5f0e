"""Load: an open loop, closed loops, rude clients and a canary, and the ledger of all they did."""

from ._ask import KeptConnection as KeptConnection
from ._ask import ask as ask
from ._canary import canary as canary
from ._closed_loop import closed_loop as closed_loop
from ._ledger import Ledger as Ledger
from ._ledger import LoadReport as LoadReport
from ._open_loop import open_loop as open_loop
from ._shot import Shot as Shot

__all__ = (
    "KeptConnection",
    "Ledger",
    "LoadReport",
    "Shot",
    "ask",
    "canary",
    "closed_loop",
    "open_loop",
)
