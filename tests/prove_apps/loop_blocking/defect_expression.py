"""A middleware with a regular expression that backtracks: one C call that holds the GIL."""

import re

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

WORDS = re.compile(r"^(\w+\s?)*$")


class CheckAgent:
    """Refuses clients whose name is not made of words."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/names":
            WORDS.match("a" * 22 + "!")
        await self.app(scope, receive, send)


app = FastAPI()
app.add_middleware(CheckAgent)


@app.get("/names")
async def names(request: Request) -> list[str]:
    return ["Ada", "Grace"]


@app.get("/menu")
def menu() -> list[str]:
    return ["tea", "coffee"]
