"""A request is called by its method and its route's whole template."""

from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient

from stormproof._core.asgi import request_name


def test_the_prefixes_of_included_routers_are_in_the_name() -> None:
    named = []
    inner, outer = APIRouter(prefix="/orders"), APIRouter(prefix="/shop")

    @inner.get("/{number}")
    async def order(number: int, request: Request) -> None:
        named.append(request_name(request.scope))

    outer.include_router(inner)
    app = FastAPI()
    app.include_router(outer, prefix="/v1")
    app.include_router(inner)
    client = TestClient(app)
    client.get("/v1/shop/orders/7")
    client.get("/orders/7")
    assert named == ["GET /v1/shop/orders/{number}", "GET /orders/{number}"]
