"""Neighbours: the mail sink and upstreams, as a part; started where none are named."""

import logging
import os
from collections.abc import Sequence

from stormproof._core.lifecycle import Lifecycle, Loss

from .mail import Mail, MailSink
from .upstreams import Upstreams

_log = logging.getLogger("stormproof")


class Neighbours:
    """What the service talks to: the addresses in `SMTP_URL` and `UPSTREAMS`, or loopback ones.

    A part: it opens first, so it closes last, after the last mail was sent.

    Args:
        smtp_url: The mail server, `smtp://host:port`; None: a sink of our own.
        upstream_urls: The upstreams; empty: three of our own.
    """

    name = "neighbours"

    def __init__(self, *, smtp_url: str | None = None, upstream_urls: Sequence[str] = ()) -> None:
        self._smtp_url = smtp_url
        self._upstream_urls = tuple(upstream_urls)
        self._sink = None if smtp_url else MailSink()
        self._upstreams = None if upstream_urls else Upstreams()

    @classmethod
    def from_environment(cls) -> "Neighbours":
        """Read `SMTP_URL` and `UPSTREAMS` (URLs, comma separated)."""
        urls = [url.strip() for url in os.environ.get("UPSTREAMS", "").split(",")]
        return cls(
            smtp_url=os.environ.get("SMTP_URL") or None,
            upstream_urls=[url for url in urls if url],
        )

    @property
    def smtp_url(self) -> str:
        """Where mails go."""
        return self._smtp_url or self._own_sink().url

    @property
    def upstream_urls(self) -> Sequence[str]:
        """The upstreams that `/aggregate` asks."""
        return self._upstreams.urls if self._upstreams is not None else self._upstream_urls

    @property
    def outbox(self) -> list[Mail] | None:
        """The mails that arrived at our own sink, or None when mails go elsewhere."""
        return None if self._sink is None else self._sink.messages

    async def open(self, lifecycle: Lifecycle) -> None:
        """Start what the environment does not name; cancelled or failed: nothing stays open."""
        try:
            if self._sink is not None:
                await self._sink.start()
                _log.info("mail sink at %s, its mails at GET /outbox", self._sink.url)
            if self._upstreams is not None:
                await self._upstreams.start()
                _log.info(
                    'upstreams at %s; to slow one: PUT {"delay": 2} to /1', self._upstreams.url
                )
        except BaseException:
            await self.close()
            raise

    async def drain(self, until: float) -> Sequence[Loss]:
        """Nothing to finish: they hold no work of ours."""
        return ()

    async def close(self) -> None:
        """Stop what `open` started."""
        if self._upstreams is not None:
            await self._upstreams.close()
        if self._sink is not None:
            await self._sink.close()

    def _own_sink(self) -> MailSink:
        assert self._sink is not None  # made whenever there is no smtp_url
        return self._sink
