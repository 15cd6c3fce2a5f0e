"""Sound: the background task catches what may fail and keeps it for another try."""

from fastapi import BackgroundTasks, FastAPI
from pydantic import BaseModel

app = FastAPI()
sent: list[str] = []
to_be_told: list[str] = []


class Order(BaseModel):
    item: str


class Mail:
    """Sends mail, where there is a mail server."""

    def tell_warehouse(self, item: str) -> None:
        try:
            raise ConnectionError("no mail server")
        except ConnectionError:
            to_be_told.append(item)

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
