"""Orders whose mail is a task that nobody keeps and that fails: its exception is lost."""

import asyncio

from fastapi import FastAPI

app = FastAPI()


class Mailer:
    async def send(self, order: int) -> None:
        await asyncio.sleep(0.01)
        raise ConnectionError(f"no mail server for order {order}")


mailer = Mailer()


@app.get("/orders/{order}")
async def read_order(order: int) -> dict[str, int]:
    asyncio.create_task(mailer.send(order))  # noqa: RUF006
    return {"order": order}
