"""Problems: errors of ours as `application/problem+json`, and in the app's OpenAPI."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from stormproof.errors import PROBLEM_JSON, StormproofError, problem_body, problem_headers

_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "examples": ["SP301"]},
    },
}
_PROBLEM_RESPONSES = {
    "503": "Busy or shutting down; try again after `Retry-After` seconds",
    "504": "The deadline of the request passed",
}


def tell_of_problems(app: FastAPI) -> None:
    """Add to each operation of the app's OpenAPI what every route may answer."""
    own_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        schema = own_openapi()
        for path in schema.get("paths", {}).values():
            for operation in path.values():
                if isinstance(operation, dict) and "responses" in operation:
                    _add_problems(operation["responses"])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_problems(responses: dict[str, Any]) -> None:
    for status, description in _PROBLEM_RESPONSES.items():
        content = {PROBLEM_JSON: {"schema": _PROBLEM_SCHEMA}}
        responses.setdefault(status, {"description": description, "content": content})


async def as_problem(request: Request, error: Exception) -> Response:
    """Return the answer to a request that ended with an error of ours.

    A coroutine although it waits for nothing: a `def` handler would need a thread.
    """
    assert isinstance(error, StormproofError)  # what it was registered for
    response = Response(problem_body(error), status_code=error.status)
    response.raw_headers.extend(problem_headers(error))
    return response
