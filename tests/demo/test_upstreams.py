import asyncio
import logging
import signal
import time

import httpx2
import pytest

from stormproof.demo.upstreams import Upstreams


@pytest.fixture
async def upstreams():
    async with Upstreams() as started:
        yield started


@pytest.fixture
async def client():
    async with httpx2.AsyncClient(trust_env=False) as opened:
        yield opened


async def test_each_upstream_counts_its_own_answers(upstreams, client):
    assert len(upstreams.urls) == 3
    first, second, third = upstreams.urls
    for url in (first, first, third):
        answer = await client.get(url)
    assert answer.json() == {"upstream": 3, "served": 1}
    assert (await client.get(first)).json() == {"upstream": 1, "served": 3}
    assert (await client.get(second)).json() == {"upstream": 2, "served": 1}


async def test_put_answers_with_all_settings_and_an_empty_put_heals(upstreams, client):
    answer = await client.put(f"{upstreams.url}/2", json={"error_rate": 1, "status": 503})
    assert answer.json() == {"delay": 0.0, "error_rate": 1, "status": 503, "hang": False}
    assert (await client.get(upstreams.urls[1])).status_code == 503
    assert (await client.get(upstreams.urls[0])).status_code == 200
    await client.put(f"{upstreams.url}/2", json={})
    answer = await client.get(upstreams.urls[1])
    assert (answer.status_code, answer.json()["served"]) == (200, 1)


async def test_error_rate_is_met_and_the_same_in_each_run(client):
    async def run() -> list[int]:
        async with Upstreams() as upstreams:
            await client.put(f"{upstreams.url}/1", json={"error_rate": 0.5})
            return [(await client.get(upstreams.urls[0])).status_code for _ in range(40)]

    first, second = await run(), await run()
    assert first == second
    assert 10 <= first.count(500) <= 30


async def test_delayed_answer_comes_late_but_comes(upstreams, client):
    await client.put(f"{upstreams.url}/1", json={"delay": 0.05})
    began_at = time.monotonic()
    assert (await client.get(upstreams.urls[0])).json() == {"upstream": 1, "served": 1}
    assert time.monotonic() - began_at >= 0.05


async def test_client_that_leaves_during_a_delay_or_a_hang_is_not_served(upstreams, client):
    for behaviour in ({"delay": 30}, {"hang": True}):
        await client.put(f"{upstreams.url}/1", json=behaviour)
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(upstreams.urls[0], timeout=0.05)
    await client.put(f"{upstreams.url}/1", json={})
    assert (await client.get(upstreams.urls[0])).json()["served"] == 1


@pytest.mark.parametrize("behaviour", [{"hang": True}, {"delay": 60}])
async def test_close_ends_at_once_and_cuts_the_requests_that_wait(behaviour, caplog):
    caplog.set_level(logging.WARNING)
    upstreams = Upstreams()
    await upstreams.start()
    put = b"PUT /1 HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body := str(behaviour).replace("'", '"').replace("True", "true").encode()),
        body,
    )
    port = int(upstreams.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(put)
    await reader.readuntil(b"}")
    writer.write(b"GET /1/data HTTP/1.1\r\nhost: x\r\n\r\n")
    await wait_until(lambda: len(asyncio.all_tasks()) == 2)
    began_at = time.monotonic()
    await upstreams.close()
    assert time.monotonic() - began_at < 0.5  # 0.1 s of it are uvicorn's own sleep
    assert await reader.read() == b""
    writer.close()
    assert len(asyncio.all_tasks()) == 1
    assert caplog.records == []


async def wait_until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_start_and_close_leave_signal_handlers_and_loggers_alone():
    def facts() -> list[object]:
        names = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
        loggers = [logging.getLogger(name) for name in names]
        return [
            *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)),
            *((log.level, log.propagate, list(log.handlers)) for log in loggers),
        ]

    before = facts()
    async with Upstreams():
        assert facts() == before
    assert facts() == before


async def test_no_access_line_is_logged(upstreams, client, caplog):
    caplog.set_level(logging.INFO, "uvicorn")
    await client.get(upstreams.urls[0])
    assert caplog.records == []


async def test_close_twice_and_start_again(client):
    upstreams = Upstreams(count=1)
    await upstreams.close()
    for served in (1, 2):
        await upstreams.start()
        assert (await client.get(upstreams.urls[0])).json()["served"] == served
        await upstreams.close()
        await upstreams.close()


async def test_upstreams_that_are_not_started_have_no_address():
    upstreams = Upstreams()
    with pytest.raises(RuntimeError, match="not started"):
        _ = upstreams.url
    async with upstreams:
        with pytest.raises(RuntimeError, match="started already"):
            await upstreams.start()


@pytest.mark.parametrize("count", [0, 100])
def test_count_out_of_range_is_refused(count):
    with pytest.raises(ValueError, match="count"):
        Upstreams(count=count)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body must be JSON"),
        (b"\xff", "the body must be JSON"),
        (b"[" * 9000, "the body must be JSON"),
        (b"[]", "the body must be a JSON object"),
        (b" " * 20_000, "the body must be at most 10000 bytes"),
        (b'{"delays": 1}', "'delays' is not a setting; there are delay, error_rate, status, hang"),
        (b'{"delay": -1}', "delay must be seconds from 0 to 3600, not -1"),
        (b'{"delay": NaN}', "delay must be seconds from 0 to 3600, not nan"),
        (b'{"delay": true}', "delay must be seconds from 0 to 3600, not True"),
        (b'{"error_rate": 1.5}', "error_rate must be a share from 0 to 1, not 1.5"),
        (b'{"status": 200}', "status must be an error code from 400 to 599, not 200"),
        (b'{"status": "500"}', "status must be an error code from 400 to 599, not '500'"),
        (b'{"hang": 1}', "hang must be true or false, not 1"),
    ],
)
async def test_bad_settings_are_400_with_one_sentence_and_change_nothing(
    upstreams, client, body, sentence
):
    answer = await client.put(f"{upstreams.url}/1", content=body)
    assert (answer.status_code, answer.json()) == (400, {"error": sentence})
    assert (await client.get(upstreams.urls[0])).json() == {"upstream": 1, "served": 1}


async def test_wrong_paths_are_404_and_wrong_methods_405(upstreams, client):
    for path in ("/", "/0/data", "/4/data", "/1/data/", "/x"):
        assert (await client.get(upstreams.url + path)).status_code == 404
    wrong_get = await client.get(f"{upstreams.url}/1")
    wrong_put = await client.put(upstreams.urls[0], json={})
    assert (wrong_get.status_code, wrong_get.headers["allow"]) == (405, "PUT")
    assert (wrong_put.status_code, wrong_put.headers["allow"]) == (405, "GET")


async def test_answers_on_a_kept_connection_do_not_wait_for_an_acknowledgement(upstreams, client):
    """Nagle's algorithm on the listener made every one of them take 40 ms."""
    times = []
    for _ in range(20):
        began_at = time.monotonic()
        await client.get(upstreams.urls[0])
        times.append(time.monotonic() - began_at)
    # The first few go through: the kernel acknowledges at once on a young connection.
    assert min(times[10:]) < 0.02
