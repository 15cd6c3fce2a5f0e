"""Promises: requests whose scenario says where to look up, after a restart, that they were kept."""

import asyncio
import json
import re
import time
from dataclasses import dataclass, replace
from typing import Any

from stormproof.errors import CouldNotProve
from stormproof.prove._attack import Scene
from stormproof.prove._promises import FACT, NUMBER, Promise
from stormproof.prove._recording import Request, Route
from stormproof.prove.load import Shot, ask

_PAUSE = 0.1
_LOOK_AGAIN = 0.2
_WITHIN = 5.0
_AT_ONCE = 10
_MOST_BODY_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class _Made:
    """One promise: its request, and what its lookup has to be filled in with."""

    route: Route
    request: Request
    number: str
    answer: bytes


class Promises:
    """The promises that are made while the attack goes on, and what became of them."""

    def __init__(self, scene: Scene, *, timeout: float) -> None:
        self._scene = scene
        self._timeout = timeout
        self._made: list[_Made] = []
        self.routes = [route for route in scene.of_kind("plain") if route.kept]

    async def make(self, until: asyncio.Event) -> None:
        """Send each route's request again and again until the event; no two are the same."""
        async with asyncio.TaskGroup() as callers:
            for route in self.routes:
                callers.create_task(self._make(route, until))

    async def _make(self, route: Route, until: asyncio.Event) -> None:
        while not until.is_set():
            number = str(time.time_ns())
            answer = bytearray()
            request = await ask(
                self._scene.port,
                Shot.of(route, number=number),
                timeout=self._timeout,
                ledger=self._scene.ledger,
                group="promise",
                on_body=answer.extend,
            )
            if request.ended == "complete" and 200 <= request.status < 300:
                self._made.append(_Made(route, request, number, bytes(answer)))
            await asyncio.sleep(_PAUSE)

    async def look_up(self) -> None:
        """Start the app again, as the deploy does, and ask for what was promised.

        Where it cannot be started again, the promises are unclear and all else stays as seen.
        """
        if not self._made:
            return
        try:
            async with self._scene.again() as target:
                places = asyncio.Semaphore(_AT_ONCE)
                found = await asyncio.gather(
                    *(self._look_up(made, target.port, places) for made in self._made)
                )
        except CouldNotProve as error:
            why = f"the app could not be started again: {error}"
            found = [replace(_promise(made), unclear=why) for made in self._made]
        self._scene.facts[FACT] = [promise.as_facts() for promise in found]

    async def _look_up(self, made: _Made, port: int, places: asyncio.Semaphore) -> Promise:
        kept = made.route.kept
        promise = _promise(made)
        try:
            url = _filled(kept["path"], made)
            wanted = _filled(kept.get("contains", ""), made)
        except LookupError as error:
            return replace(promise, unclear=str(error.args[0]))
        ends_at = self._scene.ledger.now() + float(kept.get("within", _WITHIN))
        shot = Shot(route="(promise)", method="GET", url=url, headers=made.route.headers)
        while True:
            async with places:
                seen, answer = await self._asked(port, shot)
            is_there = 200 <= seen.status < 300 and wanted.encode() in answer
            if is_there:
                return replace(promise, is_kept=True, seen=f"GET {url}")
            if self._scene.ledger.now() >= ends_at:
                return replace(promise, seen=_said(url, seen, wanted))
            await asyncio.sleep(_LOOK_AGAIN)

    async def _asked(self, port: int, shot: Shot) -> tuple[Request, bytes]:
        answer = bytearray()

        def keep(piece: bytes) -> None:
            if len(answer) < _MOST_BODY_BYTES:
                answer.extend(piece)

        aside = self._scene.ledger.aside()
        seen = await ask(
            port, shot, timeout=self._timeout, ledger=aside, group="lookup", on_body=keep
        )
        return seen, bytes(answer)


def _promise(made: _Made) -> Promise:
    request = made.request
    return Promise(route=made.route.id, status=request.status, at=request.last_byte_at or 0.0)


def _filled(template: str, made: _Made) -> str:
    """Return the template with `{n}` and the fields of the answer's JSON in it.

    Raises:
        LookupError: The answer has no such field; the message says which.
    """
    numbered = template.replace(NUMBER, made.number)
    return re.sub(r"\{([^{}]+)\}", lambda match: _field(made, match[1]), numbered)


def _field(made: _Made, name: str) -> str:
    try:
        value: Any = json.loads(made.answer)
        for part in name.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (ValueError, LookupError, TypeError):
        raise LookupError(
            f"the answer to {made.route.id} has no field {name!r} that its `kept` names"
        ) from None
    return str(value)


def _said(url: str, seen: Request, wanted: str) -> str:
    if seen.status == 0:
        return f"GET {url} had no answer"
    if 200 <= seen.status < 300 and wanted:
        return f"GET {url} said {seen.status} without {wanted!r}"
    return f"GET {url} said {seen.status}"
