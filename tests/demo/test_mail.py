import asyncio
import contextlib
import logging

import pytest

from stormproof.demo import mail
from stormproof.demo.mail import Mail, MailSink, send_mail


class HandClock:
    def now(self) -> float:
        return 12.5


async def connect(sink: MailSink) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(sink.url.rpartition(":")[2]))


async def test_sent_mail_arrives_before_send_mail_returns():
    async with MailSink(clock=HandClock()) as sink:
        await send_mail(sink.url, to="ann@example.com", subject="Grüße", body="one\n.\ntwo")
        assert sink.messages == [
            Mail("ann@example.com", "demo@example.com", "Grüße", "one\n.\ntwo", 12.5)
        ]


async def test_each_recipient_gets_a_mail():
    async with MailSink() as sink:
        await send_mail(sink.url, to="ann@example.com, bob@example.com", subject="s", body="b")
        assert [m.to for m in sink.messages] == ["ann@example.com", "bob@example.com"]


async def test_many_senders_at_once_lose_nothing():
    async with MailSink() as sink:
        await asyncio.gather(
            *(send_mail(sink.url, to=f"{n}@example.com", subject="s", body="b") for n in range(20))
        )
        assert {m.to for m in sink.messages} == {f"{n}@example.com" for n in range(20)}


async def test_only_the_newest_mails_are_kept(monkeypatch):
    monkeypatch.setattr(mail, "KEPT_MAILS", 3)
    async with MailSink() as sink:
        for n in range(5):
            await send_mail(sink.url, to=f"{n}@example.com", subject="s", body="b")
        assert [m.to[0] for m in sink.messages] == ["2", "3", "4"]


async def test_messages_is_a_copy():
    async with MailSink() as sink:
        await send_mail(sink.url, to="ann@example.com", subject="s", body="b")
        sink.messages.clear()
        assert len(sink.messages) == 1


async def test_close_ends_a_connection_in_the_middle_of_a_mail():
    sink = MailSink()
    await sink.start()
    reader, writer = await connect(sink)
    await reader.readuntil(b"\r\n")
    writer.write(b"HELO me\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n")
    await reader.readuntil(b"354 End data with <CR><LF>.<CR><LF>\r\n")
    writer.write(b"half a ma")
    await sink.close()
    # A reset if the half was still unread, else an end of file.
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    assert sink.messages == []
    assert len(asyncio.all_tasks()) == 1


async def test_client_that_connects_and_leaves_leaves_nothing_behind():
    async with MailSink() as sink:
        for _ in range(5):
            _, writer = await connect(sink)
            writer.transport.abort()
        await send_mail(sink.url, to="ann@example.com", subject="s", body="b")
    assert len(sink.messages) == 1
    assert len(asyncio.all_tasks()) == 1


async def test_close_twice_and_start_again_keep_the_mails():
    sink = MailSink()
    await sink.close()
    for _ in range(2):
        await sink.start()
        await send_mail(sink.url, to="ann@example.com", subject="s", body="b")
        await sink.close()
        await sink.close()
    assert len(sink.messages) == 2


async def test_sink_that_is_not_started_has_no_address():
    sink = MailSink()
    with pytest.raises(RuntimeError, match="not started"):
        _ = sink.url
    async with sink:
        with pytest.raises(RuntimeError, match="started already"):
            await sink.start()


async def test_sink_and_sender_log_nothing_worth_a_warning(caplog):
    caplog.set_level(logging.WARNING)
    async with MailSink() as sink:
        await send_mail(sink.url, to="ann@example.com", subject="s", body="b")
        reader, writer = await connect(sink)
        await reader.readuntil(b"\r\n")
    assert caplog.records == []
    writer.close()


async def test_send_mail_to_nobody_listening_is_a_connection_error():
    async with MailSink() as sink:
        url = sink.url
    with pytest.raises(ConnectionError):
        await send_mail(url, to="ann@example.com", subject="s", body="b")


async def test_send_mail_to_a_silent_server_ends_at_its_timeout():
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(TimeoutError):
        await send_mail(
            f"smtp://127.0.0.1:{port}", to="a@example.com", subject="s", body="b", timeout=0.05
        )
    server.close()
    for writer in connections:
        writer.close()
    await server.wait_closed()


@pytest.mark.parametrize("url", ["http://127.0.0.1:25", "smtp://127.0.0.1", "127.0.0.1:25", ""])
async def test_send_mail_refuses_an_address_that_is_not_smtp(url):
    with pytest.raises(ValueError, match="smtp://host:port"):
        await send_mail(url, to="ann@example.com", subject="s", body="b")


async def test_send_mail_refuses_a_second_header_line():
    with pytest.raises(ValueError, match="linefeed"):
        await send_mail("smtp://127.0.0.1:1", to="a@b.c", subject="s\nBcc: d@e.f", body="b")
