"""Learning an app: which routes it has, what each answers like, and what each uses."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stormproof.errors import CouldNotProve

from ._attack import Scene
from ._health import USUAL_PATHS, is_health, with_roles
from ._openapi import routes_of
from ._options import ProveOptions
from ._recording import Route, RouteKind
from ._scenario import load_scenario, merged, scenario_path
from .load import Shot, StreamReader, ask

NOWHERE = "/stormproof-asks-for-nothing"
"""A path that no app has; its 404 is asked for on purpose."""

_PATIENCE = 10.0
"""Seconds a route may take for its first byte when it is asked alone; then it counts as broken."""

_STREAM_WATCH = 1.5
_BODY_WATCH = 3.0
_LEARN_LIMIT = 40.0
"""Seconds for all routes together; what is not reached is left out, and the report says so."""

_AGENT_USES = {"hold": "pool", "connect": "outbound", "background": "background", "task": "task"}


@dataclass(slots=True)
class Learned:
    """What was learned: the routes, the OpenAPI document, and sentences for the reader."""

    routes: tuple[Route, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


async def learn(scene: Scene) -> Learned:
    """Ask the app what routes it has and each of them once, one after another.

    Waits for the answers, at most some 40 s in all. Cancelled: the open connections are closed.

    Raises:
        CouldNotProve: There is no route to ask, or none answers 2xx; says what they answer.
    """
    learned = Learned(document=await _openapi(scene))
    told = await _told_by_agent(scene)
    candidates = _candidates(scene.options, learned.document, told)
    probes = await _probes(scene, candidates, told)
    known = {route.path for route in probes}
    plain = [route for route in candidates if route.path not in known]
    if not plain and not probes:
        raise CouldNotProve(
            "the app has no route to ask: OpenAPI names no GET route; name requests in a "
            "scenario (--scenario FILE), or allow writes (--writes)"
        )
    ends_at = time.monotonic() + _LEARN_LIMIT
    routes: list[Route] = []
    seen: dict[str, set[str]] = {}
    ids: dict[int, str] = {}
    for route in plain:
        if time.monotonic() > ends_at:
            learned.notes.append(
                f"{len(plain) - len(routes)} of {len(plain)} routes were left out: asking each "
                f"once took longer than {_LEARN_LIMIT:.0f} s"
            )
            break
        routes.append(await _probed(scene, route, seen, ids))
    await _note_uses(scene, seen, ids)
    routes = [replace(route, uses=tuple(sorted(seen.get(route.id, ())))) for route in routes]
    _require_good(routes)
    learned.routes = with_roles((*_described(routes, told), *probes), scene.options)
    return learned


def _candidates(
    options: ProveOptions, document: Mapping[str, Any], told: Iterable[Mapping[str, Any]]
) -> tuple[Route, ...]:
    every = routes_of(document, with_writes=True)
    allowed = every if options.with_writes else routes_of(document, with_writes=False)
    if not document:
        every = allowed = tuple(
            Route(id=f"GET {each['path']}", method="GET", path=each["path"], url=each["path"])
            for each in told
            if each.get("method") == "GET" and "{" not in each["path"]
        )
    if (path := scenario_path(options)) is not None:
        return merged(load_scenario(path), templates=every, rest=allowed)
    return allowed


async def _openapi(scene: Scene) -> Mapping[str, Any]:
    """Return the app's OpenAPI document, or nothing where it has none at the usual path."""
    shot = Shot(route="(openapi)", method="GET", url="/openapi.json")
    async with StreamReader(scene.port, shot, ledger=scene.ledger, group="learn") as reader:
        await reader.wait_end(_PATIENCE)
    try:
        document = json.loads(reader.body)
    except ValueError:
        return {}
    return document if reader.status == 200 and isinstance(document, dict) else {}


async def _told_by_agent(scene: Scene) -> list[Mapping[str, Any]]:
    if scene.agent is None:
        return []
    event = await scene.agent.until("routes", timeout=3.0)
    return [] if event is None else list(event.facts.get("routes", ()))


async def _probes(
    scene: Scene, candidates: tuple[Route, ...], told: Iterable[Mapping[str, Any]]
) -> list[Route]:
    """Return the app's health routes: the declared ones, and the usual ones that answer."""
    declared = {route.path for route in candidates}
    declared |= {str(each.get("path", "")) for each in told}
    given = [path for path in (scene.options.live, scene.options.ready) if path]
    paths = dict.fromkeys([*given, *sorted(path for path in declared if is_health(path))])
    nothing = await ask(scene.port, _get(NOWHERE), timeout=5.0, ledger=scene.ledger, group="learn")
    if nothing.status == 404:
        paths.update(dict.fromkeys(USUAL_PATHS))
    found = []
    for path in paths:
        answer = await ask(scene.port, _get(path), timeout=5.0, ledger=scene.ledger, group="learn")
        if answer.status in (200, 204, 503) or path in given:
            found.append(
                Route(
                    id=f"GET {path}",
                    method="GET",
                    path=path,
                    url=path,
                    kind="health",
                    status=answer.status,
                    seconds=answer.latency or 0.0,
                )
            )
    return found


def _get(path: str) -> Shot:
    return Shot(route=f"GET {path}", method="GET", url=path)


async def _probed(
    scene: Scene, route: Route, seen: dict[str, set[str]], ids: dict[int, str]
) -> Route:
    """Ask a route alone and return it with what its answer is like."""
    before = {name: proxy.bytes_up for name, proxy in scene.proxies.items()}
    shot = Shot.of(route)
    async with StreamReader(scene.port, shot, ledger=scene.ledger, group="learn") as reader:
        await reader.wait_first_byte(_PATIENCE)
        is_event_stream = "event-stream" in reader.headers.get("content-type", "")
        await reader.wait_end(_STREAM_WATCH if is_event_stream else _BODY_WATCH)
        is_over = reader.ended is not None
    row = reader.request()
    ids[row.id] = route.id
    for name, proxy in scene.proxies.items():
        if proxy.bytes_up > before[name]:
            seen.setdefault(route.id, set()).add(f"dependency:{name}")
    if not 200 <= row.status < 400:
        return replace(route, kind="broken", status=row.status)
    if not is_over:
        return replace(route, kind="endless", status=row.status)
    kind: RouteKind = "stream" if is_event_stream else "plain"
    return replace(route, kind=kind, status=row.status, seconds=row.latency or 0.0)


async def _note_uses(scene: Scene, seen: dict[str, set[str]], ids: dict[int, str]) -> None:
    if scene.agent is None:
        return
    await scene.agent.census()  # its answer comes after all that happened before
    for event in scene.agent.events:
        use = _AGENT_USES.get(event.kind)
        route = ids.get(event.facts.get("id", -1))
        if use is not None and route is not None:
            seen.setdefault(route, set()).add(use)


def _described(routes: list[Route], told: Iterable[Mapping[str, Any]]) -> list[Route]:
    """Return the routes with what the agent knows of their endpoints."""
    by_id = {f"{each.get('method')} {each.get('path')}": each for each in told}
    described = []
    for route in routes:
        known = by_id.get(route.id.split(" #")[0])
        if known is None:
            described.append(route)
            continue
        where = f"{known['file']}:{known['line']}" if known.get("file") else ""
        described.append(
            replace(
                route,
                is_sync=not known.get("is_async", True),
                has_sync_part=bool(known.get("has_sync_part")),
                where=where,
            )
        )
    return described


def _require_good(routes: list[Route]) -> None:
    """Raise a sentence where no route answers 2xx: there is nothing to lose, so nothing to say."""
    if any(route.kind != "broken" for route in routes):
        return
    statuses = sorted({route.status for route in routes})
    words = ", ".join("nothing" if status == 0 else str(status) for status in statuses)
    if not routes:
        raise CouldNotProve(
            "the app has only health routes to ask; name requests in a scenario (--scenario FILE)"
        )
    if statuses and set(statuses) <= {401, 403}:
        raise CouldNotProve(
            f"none of {len(routes)} routes answered 2xx, all {words}: put the credentials into "
            'a scenario (--scenario FILE), headers = { authorization = "Bearer …" }'
        )
    raise CouldNotProve(
        f"none of {len(routes)} routes answered 2xx (they answered {words}); name requests that "
        "do in a scenario (--scenario FILE)"
    )
