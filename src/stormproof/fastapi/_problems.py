"""Problems: errors of ours as `application/problem+json`, and in the app's OpenAPI."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts

from stormproof.errors import PROBLEM_JSON, StormproofError, problem_body, problem_headers
from stormproof.limit import Admission

from ._bounds import rate_limits_of

_SCHEMA_NAME = "StormproofProblem"
_PROBLEM_SCHEMA = {
    "title": "Problem",
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "examples": ["SP301"]},
        "reason": {"type": "string", "examples": ["queue"]},
    },
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_QUOTA = {
    name: {"description": "draft-ietf-httpapi-ratelimit-headers", "schema": {"type": "string"}}
    for name in ("RateLimit", "RateLimit-Policy")
}


def tell_of_problems(app: FastAPI, admission: Admission | None) -> None:
    """Add to each operation of the app's OpenAPI what its route may answer besides.

    503 and 504 everywhere, 429 where a rate limit counts. What the app says of a status itself,
    or of its range ("5XX"), stays as it is.
    """
    own_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        schema = own_openapi()
        limited = _limited_operations(app)
        for path, operations in schema.get("paths", {}).items():
            has_rate = admission is not None and admission.rate_of(path) is not None
            for method, operation in operations.items():
                if isinstance(operation, dict) and "responses" in operation:
                    is_limited = has_rate or (path, method) in limited
                    _add_problems(operation["responses"], _problems(is_limited=is_limited))
        if schema.get("paths"):
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.setdefault(_SCHEMA_NAME, _PROBLEM_SCHEMA)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _limited_operations(app: FastAPI) -> set[tuple[str, str]]:
    """Return path and method of the operations that ask a rate limit in a dependency."""
    return {
        (context.path_format or "", method.lower())
        for context in iter_route_contexts(app.routes)
        if any(rate_limits_of(context))
        for method in context.methods or ()
    }


def _problems(*, is_limited: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    if is_limited:
        yield "429", _problem("Its caller is over its quota", _RETRY_AFTER | _QUOTA)
    yield "503", _problem("Busy or shutting down; try again later", _RETRY_AFTER)
    yield "504", _problem("The deadline of the request passed", {})


def _problem(description: str, headers: dict[str, Any]) -> dict[str, Any]:
    content = {PROBLEM_JSON: {"schema": {"$ref": f"#/components/schemas/{_SCHEMA_NAME}"}}}
    response: dict[str, Any] = {"description": description, "content": content}
    return response | {"headers": headers} if headers else response


def _add_problems(
    responses: dict[str, Any], problems: Iterator[tuple[str, dict[str, Any]]]
) -> None:
    for status, problem in problems:
        if f"{status[0]}XX" not in responses:
            responses.setdefault(status, problem)


async def as_problem(request: Request, error: Exception) -> Response:
    """Return the answer to a request that ended with an error of ours.

    A coroutine although it waits for nothing: a `def` handler would need a thread.
    """
    assert isinstance(error, StormproofError)  # what it was registered for
    response = Response(problem_body(error), status_code=error.status)
    response.raw_headers.extend(problem_headers(error))
    return response
