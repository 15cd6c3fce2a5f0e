"""What to ask an app for, from its OpenAPI document: one request a route, with made-up values."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from ._recording import Route

SAFE = ("get", "head")
WRITING = ("post", "put", "patch", "delete")

_DEPTH = 6
"""How deep a made-up body is nested at most: a schema may contain itself."""

_OF_FORMAT = {
    "uuid": "00000000-0000-4000-8000-000000000000",
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "storm@example.com",
    "uri": "http://127.0.0.1/",
    "ipv4": "127.0.0.1",
}


def routes_of(document: Mapping[str, Any], *, with_writes: bool) -> tuple[Route, ...]:
    """Return a request for each operation that may be asked; made-up values fit the schema.

    A parameter's example or default is preferred; what is not required is left out.
    """
    methods = SAFE + WRITING if with_writes else SAFE
    found = []
    for path, item in document.get("paths", {}).items():
        for method in methods:
            if isinstance(operation := item.get(method), Mapping):
                found.append(_route(document, path, method, item, operation))
    return tuple(found)


def wrong_url(document: Mapping[str, Any], route: Route) -> str | None:
    """Return a URL that the route must answer 422, or None where no parameter can be wrong."""
    item = document.get("paths", {}).get(route.path, {})
    operation = item.get(route.method.lower(), {})
    url, query, is_wrong = route.path, {}, False
    for parameter in _parameters(document, item, operation):
        schema = _resolved(document, parameter.get("schema", {}))
        value = _text(_parameter(document, parameter))
        if not is_wrong and _type(document, schema) in ("integer", "number"):
            value, is_wrong = "not-a-number", True
        if parameter.get("in") == "path":
            url = url.replace(f"{{{parameter['name']}}}", quote(value, safe=""))
        elif parameter.get("in") == "query" and (parameter.get("required") or is_wrong):
            query[parameter["name"]] = value
    if not is_wrong:
        return None
    return f"{url}?{urlencode(query)}" if query else url


def _route(
    document: Mapping[str, Any],
    path: str,
    method: str,
    item: Mapping[str, Any],
    operation: Mapping[str, Any],
) -> Route:
    url, query, headers = path, {}, {}
    for parameter in _parameters(document, item, operation):
        name, place = parameter["name"], parameter.get("in")
        is_given = "example" in parameter or "examples" in parameter
        if place == "path":
            value = _text(_parameter(document, parameter))
            url = url.replace(f"{{{name}}}", quote(value, safe=""))
        elif not parameter.get("required") and not is_given:
            continue
        elif place == "query":
            query[name] = _text(_parameter(document, parameter))
        elif place == "header":
            headers[name] = _text(_parameter(document, parameter))
    body = _body(document, operation)
    if body:
        headers["content-type"] = "application/json"
    return Route(
        id=f"{method.upper()} {path}",
        method=method.upper(),
        path=path,
        url=f"{url}?{urlencode(query)}" if query else url,
        is_promise=method in WRITING,
        headers=headers,
        body=body,
    )


def _parameters(
    document: Mapping[str, Any], item: Mapping[str, Any], operation: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    for parameter in [*item.get("parameters", ()), *operation.get("parameters", ())]:
        yield _resolved(document, parameter)


def _parameter(document: Mapping[str, Any], parameter: Mapping[str, Any]) -> Any:
    if "example" in parameter:
        return parameter["example"]
    for example in dict(parameter.get("examples", {})).values():
        return _resolved(document, example).get("value")
    return _sample(document, parameter.get("schema", {}))


def _body(document: Mapping[str, Any], operation: Mapping[str, Any]) -> str:
    content = _resolved(document, operation.get("requestBody", {})).get("content", {})
    media = content.get("application/json")
    if media is None:
        return ""
    value = media["example"] if "example" in media else _sample(document, media.get("schema", {}))
    return json.dumps(value)


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    seen = 0
    while isinstance(schema, Mapping) and "$ref" in schema and seen < _DEPTH:
        seen += 1
        target: Any = document
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~"), {})
        schema = target
    return schema if isinstance(schema, Mapping) else {}


def _type(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    schema = _resolved(document, schema)
    for key in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(key, ()):
            if (kind := _type(document, option)) != "null":
                return kind
    kind = schema.get("type", "")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "")
    return str(kind)


def _sample(document: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value that the schema allows, as far as one can be made up."""
    schema = _resolved(document, schema)
    for key in ("example", "default", "const"):
        if schema.get(key) is not None:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(key, ()):
            if _type(document, option) != "null":
                return _sample(document, option, depth + 1)
    if depth > _DEPTH:
        return None
    return _of_type(document, schema, depth)


def _of_type(document: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> Any:
    match _type(document, schema):
        case "integer":
            return round(_number(schema, step=1))
        case "number":
            return _number(schema, step=1e-3)
        case "boolean":
            return False
        case "array":
            least = int(schema.get("minItems", 0))
            return [_sample(document, schema.get("items", {}), depth + 1)] * least
        case "object":
            properties = schema.get("properties", {})
            needed = (name for name in schema.get("required", ()) if name in properties)
            return {name: _sample(document, properties[name], depth + 1) for name in needed}
        case "string":
            return _string(schema)
        case _:
            return "a"


def _number(schema: Mapping[str, Any], *, step: float) -> float:
    """Return a number within the bounds, 1 where that is one."""
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    least = least + step if least is not None and "exclusiveMinimum" in schema else least
    most = most - step if most is not None and "exclusiveMaximum" in schema else most
    if least is not None and least > 1:
        return float(least)
    if most is not None and most < 1:
        return float(most) if least is None else (least + most) / 2
    return 1.0


def _string(schema: Mapping[str, Any]) -> str:
    if "@" in schema.get("pattern", ""):
        return _OF_FORMAT["email"]
    text = _OF_FORMAT.get(schema.get("format", ""), "a")
    return text.ljust(int(schema.get("minLength", 0)), "a")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return str(value)
