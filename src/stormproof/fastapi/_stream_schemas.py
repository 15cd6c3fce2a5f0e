"""What streams are made of, in the app's OpenAPI: the `itemSchema` of version 3.2."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.sse import ServerSentEvent
from pydantic import TypeAdapter

from stormproof.stream import ServerEvent, event_name

from ._streams import MARK, Streamed

_REF = "#/components/schemas/{model}"


def tell_of_streams(app: FastAPI) -> None:
    """Say in the app's OpenAPI what `event_stream` and `row_stream` endpoints send."""
    own_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        schema = own_openapi()
        for context in iter_route_contexts(app.routes):
            streamed: Streamed | None = getattr(context.endpoint, MARK, None)
            path = schema.get("paths", {}).get(context.path_format)
            if streamed is not None and path is not None:
                models = schema.setdefault("components", {}).setdefault("schemas", {})
                content = {streamed.media_type: {"itemSchema": _item_schema(streamed, models)}}
                for method in context.methods or ():
                    path[method.lower()]["responses"]["200"]["content"] = content
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _item_schema(streamed: Streamed, models: dict[str, Any]) -> dict[str, Any]:
    if streamed.media_type != "text/event-stream":
        return {} if streamed.item is None else _schema(streamed.item, models)
    events = [_event_schema(member, models) for member in _members(streamed.item)]
    return events[0] if len(events) == 1 else {"oneOf": events}


def _members(item: Any) -> Iterator[Any]:
    """Yield the types of a union, of one that has a discriminator too; else `item` itself."""
    if get_origin(item) is Annotated:
        yield from _members(get_args(item)[0])
    elif get_origin(item) in (Union, types.UnionType):
        for member in get_args(item):
            yield from _members(member)
    else:
        yield item


def _event_schema(member: Any, models: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one event: its fields as the browser sees them (OpenAPI 3.2, 4.14.4)."""
    fields: dict[str, Any] = {
        "data": {"type": "string"},
        "event": {"type": "string"},
        "id": {"type": "string"},
        "retry": {"type": "integer", "minimum": 0},
    }
    if member in (None, Any, ServerEvent, ServerSentEvent):
        return {"type": "object", "properties": fields}
    fields["data"] |= {
        "contentMediaType": "application/json",
        "contentSchema": _schema(member, models),
    }
    name = event_name(member) if isinstance(member, type) else None
    if name is None:
        return {"type": "object", "required": ["data"], "properties": fields}
    fields["event"] = {"const": name}
    return {"type": "object", "required": ["data", "event"], "properties": fields}


def _schema(item: Any, models: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of `item`; the models it names go into `models`."""
    schema = TypeAdapter(item).json_schema(mode="serialization", ref_template=_REF)
    for name, model in schema.pop("$defs", {}).items():
        models.setdefault(name, model)
    title = schema.get("title")
    if title is not None and schema.get("type") == "object":
        models.setdefault(title, schema)
        return {"$ref": _REF.format(model=title)}
    return schema
