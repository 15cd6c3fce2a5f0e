"""The same service with our two lines, our stream and our tasks."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import Response

import stormproof
from tests.faults.deploy_post import hang_and_clean_up, job, say


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    say("teardown reached")


tasks = stormproof.Tasks()
app = FastAPI(lifespan=lifespan)
stormproof.install(app, tasks)


@app.get("/stream")
async def stream() -> Response:
    async def generate() -> AsyncIterator[str]:
        for number in itertools.count():
            yield str(number)
            await asyncio.sleep(0.05)

    return stormproof.SSEResponse(generate())


@app.get("/stuck")
async def stuck() -> None:
    await hang_and_clean_up()


@app.post("/jobs/{number}")
async def start_job(number: int) -> dict[str, str]:
    tasks.spawn(job, number)
    return {"status": "accepted"}
