"""Reports from a class-based view whose rate limit sleeps in an asynchronous dependency."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI

router = APIRouter(prefix="/reports")


class Pace:
    """Lets a caller go on after a pause."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    async def __call__(self) -> float:
        time.sleep(self.pause)
        return self.pause


pace = Pace(0.2)


@router.get("/")
async def reports(paused: Annotated[float, Depends(pace)]) -> dict[str, float]:
    return {"paused": paused}


app = FastAPI()
app.include_router(router)


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}
