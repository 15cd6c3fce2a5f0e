"""Defect: one background task raises, and Starlette drops the one behind it."""

from fastapi import BackgroundTasks, FastAPI
from pydantic import BaseModel

app = FastAPI()
sent: list[str] = []


class Order(BaseModel):
    item: str


class Mail:
    """Sends mail, where there is a mail server."""

    def tell_warehouse(self, item: str) -> None:
        raise ConnectionError("no mail server")

    def confirm(self, item: str) -> None:
        sent.append(item)


mail = Mail()


@app.post("/orders", status_code=202)
def order(order: Order, background_tasks: BackgroundTasks) -> dict[str, str]:
    background_tasks.add_task(mail.tell_warehouse, order.item)
    background_tasks.add_task(mail.confirm, order.item)
    return {"status": "queued"}


@app.get("/sent")
async def count() -> int:
    return len(sent)
