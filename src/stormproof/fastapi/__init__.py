"""Where the rooms meet a FastAPI app: `install()` and the dependencies."""

from ._background import BackgroundTasks as BackgroundTasks
from ._background import SupervisedBackgroundTasks as SupervisedBackgroundTasks
from ._background import background as background
from ._bounds import rate_limit as rate_limit
from ._bounds import route_deadline as route_deadline
from ._install import deadline_statistics as deadline_statistics
from ._install import install as install
from ._install import installed_drain as installed_drain
from ._install import installed_lifecycle as installed_lifecycle
from ._sessions import read_session as read_session
from ._sessions import session as session
from ._sessions import sync_read_session as sync_read_session
from ._sessions import sync_session as sync_session
from ._streams import event_stream as event_stream
from ._streams import row_stream as row_stream

__all__ = (
    "BackgroundTasks",
    "SupervisedBackgroundTasks",
    "background",
    "deadline_statistics",
    "event_stream",
    "install",
    "installed_drain",
    "installed_lifecycle",
    "rate_limit",
    "read_session",
    "route_deadline",
    "row_stream",
    "session",
    "sync_read_session",
    "sync_session",
)
