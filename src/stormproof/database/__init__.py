"""Databases: bounded pools, and units of work that commit before the answer or raise."""

from importlib.util import find_spec as _find_spec

from stormproof.errors import MissingExtra

# Without greenlet SQLAlchemy imports, and fails at the first await.
for _package in ("sqlalchemy", "greenlet"):
    if _find_spec(_package) is None:
        raise MissingExtra(
            f"stormproof.database needs the package {_package!r}; "
            "install it with: pip install 'stormproof[database]'"
        )

from ._database import Database as Database  # noqa: E402
from ._ledger import Holder as Holder  # noqa: E402
from ._ledger import UseTime as UseTime  # noqa: E402
from ._pool import PoolStatistics as PoolStatistics  # noqa: E402
from ._replica_statistics import ReplicaStatistics as ReplicaStatistics  # noqa: E402
from ._rolled_back import rolled_back as rolled_back  # noqa: E402
from ._session import DatabaseSession as DatabaseSession  # noqa: E402
from ._stream import RowStream as RowStream  # noqa: E402
from ._sync_session import SyncSession as SyncSession  # noqa: E402

__all__ = (
    "Database",
    "DatabaseSession",
    "Holder",
    "PoolStatistics",
    "ReplicaStatistics",
    "RowStream",
    "SyncSession",
    "UseTime",
    "rolled_back",
)
