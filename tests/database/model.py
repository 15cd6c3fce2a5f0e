"""Tables for the tests, and statements that are slow on each kind of database."""

from sqlalchemy import ForeignKey, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from stormproof.database import Database

_ENDLESS = text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) "
    "SELECT count(*) FROM n"
)


class Model(DeclarativeBase):
    pass


class Item(Model):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Tag(Model):
    """Its item is looked for only at the COMMIT."""

    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(
        ForeignKey("items.id", deferrable=True, initially="DEFERRED")
    )


def is_sqlite(database: Database) -> bool:
    return database.engine.dialect.name == "sqlite"


async def run_slow(session: AsyncSession, database: Database) -> None:
    """A statement of many seconds."""
    if is_sqlite(database):
        await session.execute(_ENDLESS)
    else:
        await session.execute(text("SELECT pg_sleep(20)"))


async def names(database: Database) -> list[str]:
    async with database.read_session() as session:
        return list(await session.scalars(select(Item.name).order_by(Item.name)))


async def count(session: AsyncSession) -> int:
    return (await session.execute(select(func.count()).select_from(Item))).scalar_one()
