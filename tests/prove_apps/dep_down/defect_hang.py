"""Orders through psycopg: tried again for as long as the database is away."""

import asyncio
import os
from typing import Any

import psycopg
from fastapi import FastAPI

app = FastAPI()


@app.get("/orders/count")
async def count() -> dict[str, Any]:
    while True:
        try:
            url = os.environ["DATABASE_URL"]
            async with await psycopg.AsyncConnection.connect(url, connect_timeout=2) as connection:
                row = await (await connection.execute("SELECT 7")).fetchone()
                return {"orders": row and row[0]}
        except psycopg.OperationalError:
            await asyncio.sleep(0.5)
