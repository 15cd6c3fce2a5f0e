"""Mail: a loopback SMTP server that keeps what it gets, and the function that sends to one."""

import asyncio
from collections import deque
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Self, cast
from urllib.parse import urlsplit

import aiosmtplib
from aiosmtpd.smtp import SMTP, Envelope, Session

from stormproof._core.clock import MONOTONIC, Clock

KEPT_MAILS = 1000
MAX_MAIL_BYTES = 256 * 1024
IDLE_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Mail:
    """One message as one recipient got it; `received_at` is monotonic, in seconds."""

    to: str
    sender: str
    subject: str
    body: str
    received_at: float


class MailSink:
    """An SMTP server on 127.0.0.1, in the running loop, that keeps the newest 1000 mails.

    A message to two recipients is two mails. A connection that says nothing for 30 s is closed;
    a message over 256 KiB is refused with 552.

    Args:
        clock: where `received_at` comes from.

    versionadded: 0.1
    """

    def __init__(self, *, clock: Clock = MONOTONIC) -> None:
        self._inbox = _Inbox(clock)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        """The address to send to, `smtp://127.0.0.1:PORT`.

        Raises:
            RuntimeError: the sink is not started.
        """
        if self._server is None:
            raise RuntimeError("the mail sink has no address: it is not started; await start()")
        port: int = self._server.sockets[0].getsockname()[1]
        return f"smtp://127.0.0.1:{port}"

    @property
    def messages(self) -> list[Mail]:
        """The mails received so far, oldest first, at most 1000: a copy."""
        return list(self._inbox.mails)

    async def start(self) -> None:
        """Listen on a free port; mails received before a restart are kept.

        Raises:
            RuntimeError: the sink is started already.
        """
        if self._server is not None:
            raise RuntimeError(f"the mail sink is started already, at {self.url}")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, "127.0.0.1", 0)

    async def close(self) -> None:
        """Stop listening, cut the open connections and wait until they are gone.

        Safe to call twice. Cancelled while waiting: the cut goes on by itself.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        conversations = [c.conversation for c in self._connections if c.conversation is not None]
        for connection in list(self._connections):
            connection.cut()
        if conversations:
            await asyncio.wait(conversations)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _connect(self) -> "_Connection":
        return _Connection(self._inbox, self._connections)


async def send_mail(
    url: str,
    *,
    to: str,
    subject: str,
    body: str,
    sender: str = "demo@example.com",
    timeout: float = 5.0,
) -> None:
    """Send one text mail, and return when the server has accepted it.

    Waits for the server, at most `timeout` seconds in all. Cancelled, or late: the connection is
    closed, and the server may or may not have taken the mail.

    Args:
        url: the server, `smtp://host:port`.
        to: the recipient's address.
        subject: one line.
        body: plain text.
        sender: the sender's address.
        timeout: seconds for the whole conversation.

    Raises:
        ValueError: `url` is not such an address, or `to`, `sender` or `subject` has a line break.
        TimeoutError: the server took longer than `timeout`.
        ConnectionError: the server refused or cut the connection.
        aiosmtplib.SMTPException: the server answered and refused the mail.

    versionadded: 0.1
    """
    parts = urlsplit(url)
    if parts.scheme != "smtp" or not parts.hostname or not parts.port:
        raise ValueError(f"url must look like smtp://host:port, not {url!r}")
    message = EmailMessage()
    message["From"] = sender
    message["To"] = to
    message["Subject"] = subject
    message.set_content(body)
    # aiosmtplib's own timeout is for each step of the conversation, not for the whole.
    async with asyncio.timeout(timeout):
        await aiosmtplib.send(
            message,
            hostname=parts.hostname,
            port=parts.port,
            timeout=timeout,
            # The default asks the name service, in a thread, for each mail.
            local_hostname="localhost",
        )


class _Inbox:
    """aiosmtpd's handler: turns each accepted envelope into mails."""

    def __init__(self, clock: Clock) -> None:
        self.mails: deque[Mail] = deque(maxlen=KEPT_MAILS)
        self._clock = clock

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        # Set by MAIL and DATA, without which aiosmtpd does not come here.
        assert isinstance(envelope.content, bytes)
        assert envelope.mail_from is not None
        message = message_from_bytes(envelope.content, policy=policy.default)
        part = message.get_body(("plain", "html"))
        body: str = "" if part is None else part.get_content()
        body = body.replace("\r\n", "\n").removesuffix("\n")  # as it was before it travelled
        for recipient in envelope.rcpt_tos:
            mail = Mail(
                to=recipient,
                sender=envelope.mail_from,
                subject=str(message["Subject"] or ""),
                body=body,
                received_at=self._clock.now(),
            )
            self.mails.append(mail)
        return "250 OK"


class _Connection(SMTP):
    """One SMTP conversation that its sink can cut and await."""

    def __init__(self, inbox: _Inbox, connections: "set[_Connection]") -> None:
        super().__init__(
            inbox,
            data_size_limit=MAX_MAIL_BYTES,
            enable_SMTPUTF8=True,
            hostname="localhost",  # the default asks the name service, on the loop
            ident="stormproof demo",
            timeout=IDLE_TIMEOUT,
            loop=asyncio.get_running_loop(),
        )
        self.conversation: asyncio.Task[None] | None = None
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Private, but the only way to await what aiosmtpd starts and forgets.
        self.conversation = self._handler_coroutine
        assert self.conversation is not None
        self.conversation.add_done_callback(self._conversation_ended)
        self._connections.add(self)

    def cut(self) -> None:
        """Drop the connection at once; the conversation is cancelled in the loop's next round."""
        if self.transport is not None:
            cast(asyncio.Transport, self.transport).abort()

    def _conversation_ended(self, conversation: asyncio.Task[None]) -> None:
        self._connections.discard(self)
        # Also when it was cancelled before its first step, where aiosmtpd leaves it half open.
        if self.transport is not None:
            self.transport.close()
        if not conversation.cancelled():
            conversation.exception()  # a client that resets is no news; do not log it
