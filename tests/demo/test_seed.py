"""The seed answers as the post promises, and has the faults that the rest is measured against."""

import asyncio
import importlib
import json
import selectors
import sqlite3
import sys

import httpx2
import pytest

from stormproof.demo.mail import MailSink
from stormproof.demo.upstreams import Upstreams

NAME = "stormproof.demo.seed"


@pytest.fixture
def load_seed(monkeypatch, tmp_path):
    """Import the seed anew: like the post's, its settings are read when it is imported."""

    def load(**env: str):
        # timeout=0: a statement that meets a lock fails at once instead of after 5 s.
        url = f"sqlite+aiosqlite:///{tmp_path}/seed.db?timeout=0"
        for key in ("SMTP_URL", "UPSTREAMS", "SEED_POOL_SIZE", "SEED_MAX_OVERFLOW"):
            monkeypatch.delenv(key, raising=False)
        for key, value in {"DATABASE_URL": url, **env}.items():
            monkeypatch.setenv(key, value)
        sys.modules.pop(NAME, None)
        return importlib.import_module(NAME)

    yield load
    sys.modules.pop(NAME, None)


@pytest.fixture
async def seed(load_seed):
    loaded = load_seed()
    async with loaded.lifespan(loaded.app):
        yield loaded
    await loaded.engine.dispose()


@pytest.fixture
async def client(seed):
    # raise_app_exceptions=False: what a client on a socket sees.
    transport = httpx2.ASGITransport(seed.app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://seed") as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sync", {"type": "sync"}),
        ("/async", {"type": "async"}),
        ("/livez", {"status": "ok"}),
        ("/readyz", {"status": "ok"}),
        ("/startupz", {"status": "ok"}),
        ("/query?q=select&ms=0", {"result": "select"}),
        ("/with-timeout?seconds=0", {"waited": 0.0}),
        ("/aggregate", {}),
        ("/items", []),
    ],
)
async def test_route_answers(client, path, body):
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (200, body)


async def test_item_is_made_listed_and_found(client):
    made = await client.post("/items", json={"name": "bolt", "quantity": 3})
    bolt = {"id": 1, "name": "bolt", "quantity": 3}
    assert (made.status_code, made.json()) == (201, bolt)
    assert (await client.get("/items/1")).json() == bolt
    await client.post("/items", json={"name": "nut"})
    assert (await client.get("/items")).json() == [bolt, {"id": 2, "name": "nut", "quantity": 0}]
    assert (await client.get("/items/3")).status_code == 404


@pytest.mark.parametrize("item", [{}, {"name": ""}, {"name": "a\0"}, {"name": "a", "quantity": -1}])
async def test_bad_item_is_422(client, item):
    assert (await client.post("/items", json=item)).status_code == 422


async def test_commit_that_fails_has_been_answered_201(client, tmp_path):
    """The post's `get_db` commits after the response: here the commit meets a reader's lock."""
    reader = sqlite3.connect(tmp_path / "seed.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM items").fetchall()
    answer = await client.post("/items", json={"name": "bolt"})
    reader.execute("ROLLBACK")
    reader.close()
    assert answer.status_code == 201
    assert (await client.get("/items")).json() == []


async def test_export_gives_every_row_as_ndjson_or_csv(client):
    for name in ("bolt", 'nut, "m8"'):
        await client.post("/items", json={"name": name})
    ndjson = await client.get("/export")
    assert ndjson.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in ndjson.text.splitlines()] == [
        {"id": 1, "name": "bolt", "quantity": 0},
        {"id": 2, "name": 'nut, "m8"', "quantity": 0},
    ]
    csv = await client.get("/export", headers={"accept": "text/csv"})
    assert csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert csv.text == 'id,name,quantity\r\n1,bolt,0\r\n2,"nut, ""m8""",0\r\n'


async def test_stream_ends_after_n_events(client):
    answer = await client.get("/stream?n=2")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text == "data: 0\n\ndata: 1\n\n"


async def test_stream_without_n_goes_on_until_the_client_leaves(seed):
    events: list[bytes] = []
    has_left = asyncio.Event()

    async def receive():
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        events.append(message.get("body", b""))
        if events[-1] == b"data: 2\n\n":
            has_left.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "GET",
        "path": "/stream",
        "headers": [],
        "query_string": b"",
    }
    async with asyncio.timeout(5):
        await seed.app(scope, receive, send)
    assert events[1:] == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


async def test_query_lets_ten_in_at_once(seed, client):
    answers = await asyncio.gather(*(client.get(f"/query?q={n}&ms=1") for n in range(25)))
    assert [a.json()["result"] for a in answers] == [str(n) for n in range(25)]
    assert seed.engine.pool.checkedout() == 0
    assert seed.engine.pool.checkedin() <= 10


async def test_email_is_sent_after_the_answer(load_seed):
    async with MailSink() as sink:
        seed = load_seed(SMTP_URL=sink.url)
        transport = httpx2.ASGITransport(seed.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://seed") as client:
            answer = await client.post("/send-email?email=ann@example.com")
        assert answer.json() == {"status": "queued"}
        assert [(m.to, m.subject) for m in sink.messages] == [("ann@example.com", "Hello")]


async def test_aggregate_asks_all_upstreams(load_seed, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with Upstreams() as upstreams:
        seed = load_seed(UPSTREAMS=",".join(upstreams.urls))
        assert await seed.aggregate_data() == {
            f"api{n}": {"upstream": n, "served": 1} for n in (1, 2, 3)
        }


async def test_shutdown_waits_for_active_tasks(load_seed):
    seed = load_seed()
    done = asyncio.Event()
    async with seed.lifespan(seed.app):
        seed.active_tasks.add(asyncio.create_task(done.wait()))
        asyncio.get_running_loop().call_soon(done.set)
    assert all(task.done() for task in seed.active_tasks)
    await seed.engine.dispose()


class JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: turns the loop's clock to the next timer."""

    now = 0.0

    def select(self, timeout=None):
        self.now += timeout or 0.0
        return super().select(0)


def test_slow_operation_is_answered_408_after_five_seconds(load_seed):
    seed = load_seed()
    selector = JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    with pytest.raises(seed.HTTPException) as raised:
        loop.run_until_complete(seed.endpoint_with_timeout(seconds=60))
    loop.close()
    assert raised.value.status_code == 408
    assert 5.0 <= selector.now < 5.1


def test_pool_is_the_post_s_unless_a_test_makes_it_smaller(load_seed):
    assert load_seed().engine.pool.size() == 20
    assert load_seed(SEED_POOL_SIZE="5", SEED_MAX_OVERFLOW="0").engine.pool.size() == 5
