"""Items: the one table of the demo and its shapes on the wire, shared by both demo services."""

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

MAX_INTEGER = 2**31 - 1
"""The largest value of PostgreSQL's `integer`; SQLite would take more."""

ItemId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
"""An item's number, as it stands in a path."""


class Base(DeclarativeBase):
    """The declarative base that knows the demo's tables."""


class Item(Base):
    """One row of the table `items`."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    quantity: Mapped[int] = mapped_column(default=0)


class ItemIn(BaseModel):
    """What a client sends to make an item."""

    # PostgreSQL's text cannot hold NUL: answer 422 rather than the driver's 500.
    name: str = Field(max_length=200, pattern=r"^[^\x00]+$")
    quantity: int = Field(default=0, ge=0, le=MAX_INTEGER)


class ItemOut(BaseModel):
    """What a client gets back: the item and its number."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    quantity: int
