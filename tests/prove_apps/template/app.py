"""The well-known project template: sync endpoints, a session dependency, a user dependency."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+psycopg://", 1)
)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    token: Mapped[str] = mapped_column(unique=True)


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int]
    title: Mapped[str]


class UserPublic(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    email: str


class ItemPublic(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    title: str


class ItemsPublic(BaseModel):
    data: list[ItemPublic]
    count: int


def get_db() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_db)]
TokenDep = Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="/api/v1/login/access-token"))]


def get_current_user(session: SessionDep, token: TokenDep) -> User:
    user = session.scalars(select(User).where(User.token == token)).first()
    if user is None:
        raise HTTPException(403, "Could not validate credentials")
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]
api = APIRouter(prefix="/api/v1")


@api.get("/items/")
def read_items(
    session: SessionDep, current_user: CurrentUser, skip: int = 0, limit: int = 100
) -> ItemsPublic:
    own = Item.owner_id == current_user.id
    count = session.scalar(select(func.count()).select_from(Item).where(own)) or 0
    items = session.scalars(select(Item).where(own).offset(skip).limit(limit)).all()
    return ItemsPublic(data=[ItemPublic.model_validate(item) for item in items], count=count)


@api.get("/users/me")
def read_user_me(current_user: CurrentUser) -> UserPublic:
    return UserPublic.model_validate(current_user)


@api.get("/utils/health-check/")
async def health_check() -> bool:
    return True


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        if session.get(User, 1) is None:
            session.add(User(id=1, email="ada@example.com", token="ada"))
            session.add_all(Item(owner_id=1, title=f"item {number}") for number in range(20))
            session.commit()
    yield
    engine.dispose()


app = FastAPI(title="template", lifespan=lifespan)
app.include_router(api)
