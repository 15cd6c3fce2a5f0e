"""Dependencies of jobs: FastAPI's `Depends`, solved without a request."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant, solve_dependencies

from stormproof._core.asgi import LIFECYCLE_KEY
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import InvalidSetting


class _Arguments(Protocol):
    @property
    def injected(self) -> Mapping[str, inspect.Parameter]: ...


class JobTask(Protocol):
    """What has dependencies: a task of `Jobs`."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def arguments(self) -> _Arguments:
        """What its function is called with."""
        ...


class DependencySolver:
    """Finds the values of a job's dependencies as FastAPI does for an endpoint.

    What a dependency yields ends when the job has ended; overrides of the app hold here, too.

    Args:
        app: The app whose overrides count.
        lifecycle: What dependencies find in the scope.
    """

    def __init__(self, app: FastAPI, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._known: dict[str, Dependant] = {}

    async def __call__(self, task: JobTask, stack: AsyncExitStack) -> dict[str, Any]:
        """Return the values, by parameter.

        Raises:
            InvalidSetting: A dependency wants something of a request.
        """
        if task.name not in self._known:
            self._known[task.name] = get_dependant(path="", call=_wanting(task.arguments.injected))
        solved = await solve_dependencies(
            request=Request(self._scope(task.name, stack)),
            dependant=self._known[task.name],
            dependency_overrides_provider=self._app,
            async_exit_stack=stack,
            embed_body_fields=False,
        )
        if solved.errors:
            wanted = ", ".join(".".join(map(str, error["loc"])) for error in solved.errors)
            raise InvalidSetting(
                f"a dependency of job {task.name!r} wants {wanted} of a request, and a job has "
                "none; give it as an argument of the job"
            )
        return solved.values

    def _scope(self, name: str, stack: AsyncExitStack) -> dict[str, Any]:
        return {
            "type": "http",
            "method": "JOB",
            "path": f"/{name}",
            "query_string": b"",
            "headers": [],
            "app": self._app,
            LIFECYCLE_KEY: self._lifecycle,
            "fastapi_inner_astack": stack,
            "fastapi_function_astack": stack,
        }


def _wanting(parameters: Mapping[str, inspect.Parameter]) -> Callable[..., None]:
    """Return a function with these parameters, for FastAPI to look at."""

    def wants() -> None: ...

    by_name = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters.values()]
    wants.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    return wants
