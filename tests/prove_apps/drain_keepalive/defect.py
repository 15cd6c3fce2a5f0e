"""Defect: the server closes all kept connections at SIGTERM; the app has middleware of its own."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response

app = FastAPI()


@app.middleware("http")
async def with_version(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    response.headers["x-version"] = "1"
    return response


@app.get("/items/{id}")
async def item(id: int) -> dict[str, int]:
    return {"id": id}
