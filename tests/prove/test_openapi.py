"""Requests made up from an OpenAPI document fit what the app accepts."""

from datetime import date
from enum import Enum
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Header, Path, Query
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from stormproof.prove._openapi import routes_of, wrong_url


class Colour(Enum):
    RED = "red"


class Part(BaseModel):
    name: Annotated[str, Field(min_length=3)]
    colour: Colour
    made: date
    parts: Annotated[list["Part"], Field(max_length=2)] = []


app = FastAPI()


@app.get("/items/{id}")
async def item(id: Annotated[int, Path(ge=5, le=9)]) -> int:
    return id


@app.get("/search")
async def search(
    q: Annotated[str, Query(min_length=4)],
    colour: Colour,
    ratio: Annotated[float, Query(gt=0, lt=0.5)],
    is_new: bool,
    owner: UUID | None = None,
    trace: Annotated[str, Header()] = "",
) -> str:
    return q


@app.get("/who")
async def who(x_user: Annotated[str, Header()]) -> str:
    return x_user


@app.get("/example")
async def example(code: Annotated[str, Query(examples=["E-7"], pattern="^E-")]) -> str:
    return code


@app.post("/parts")
async def make(part: Part) -> str:
    return part.name


def test_made_up_requests_are_accepted() -> None:
    client = TestClient(app)
    routes = routes_of(app.openapi(), with_writes=True)
    assert {route.id for route in routes} == {
        "GET /items/{id}",
        "GET /search",
        "GET /who",
        "GET /example",
        "POST /parts",
    }
    for route in routes:
        answer = client.request(
            route.method, route.url, headers=dict(route.headers), content=route.body or None
        )
        assert answer.status_code == 200, (route, answer.text)


def test_writes_are_left_out_unless_asked_for_and_are_promises() -> None:
    document = app.openapi()
    assert not [route for route in routes_of(document, with_writes=False) if route.is_promise]
    (write,) = [route for route in routes_of(document, with_writes=True) if route.is_promise]
    assert write.id == "POST /parts"


def test_wrong_value_is_refused_with_422() -> None:
    client = TestClient(app)
    wrong = {
        route.id: wrong_url(app.openapi(), route)
        for route in routes_of(app.openapi(), with_writes=False)
    }
    assert wrong.pop("GET /who") is None
    assert wrong.pop("GET /example") is None
    assert {client.get(str(url)).status_code for url in wrong.values()} == {422}
