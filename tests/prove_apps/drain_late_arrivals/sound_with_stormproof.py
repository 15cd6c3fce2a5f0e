"""Sound: a lame duck before the listener closes."""

from fastapi import FastAPI

import stormproof

app = FastAPI()
stormproof.install(app, grace=9, prestop=2)


@app.get("/numbers")
async def numbers() -> list[int]:
    return list(range(10))
