"""Sound: SIGTERM is left to the server; `def` endpoints behind a router."""

import time

from fastapi import APIRouter, FastAPI

router = APIRouter(prefix="/reports")


@router.get("/daily")
def daily() -> dict[str, str]:
    time.sleep(0.3)
    return {"report": "daily"}


app = FastAPI()
app.include_router(router)
