"""A slow `def` report beside async prices, which have one `def` dependency."""

import time
from typing import Annotated

from fastapi import Depends, FastAPI

app = FastAPI()


def currency() -> str:
    return "EUR"


@app.get("/report")
def report() -> dict[str, str]:
    time.sleep(0.8)
    return {"report": "long"}


@app.get("/prices")
async def prices(currency: Annotated[str, Depends(currency)]) -> dict[str, str]:
    return {"apple": f"3 {currency}"}
