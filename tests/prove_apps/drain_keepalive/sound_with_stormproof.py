"""Sound: the lame duck says `Connection: close`, and idle connections are closed after it."""

from fastapi import FastAPI

import stormproof

app = FastAPI()
stormproof.install(app, grace=9, prestop=2)


@app.get("/items/{id}")
async def item(id: int) -> dict[str, int]:
    return {"id": id}
