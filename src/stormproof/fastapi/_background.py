"""`BackgroundTasks`: FastAPI's, with the work under the supervisor."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any, ParamSpec

from fastapi import BackgroundTasks as StarletteTasks
from fastapi import Depends
from fastapi.requests import HTTPConnection

from stormproof._core.asgi import LIFECYCLE_KEY
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import NotStarted
from stormproof.tasks import Batch, ConfiguredTasks, Tasks

P = ParamSpec("P")


class SupervisedBackgroundTasks(StarletteTasks):
    """FastAPI's `BackgroundTasks`, but the work is done by the supervisor.

    Got by an endpoint or a dependency with the annotation `stormproof.BackgroundTasks`.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._batch = batch

    def add_task(self, func: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Plan `func(*args, **kwargs)` for when the response was sent; from any thread.

        What is added runs in its order, each as a supervised task; a plain function runs in a
        thread. Nothing runs when the endpoint raises (HTTPException too) or a COMMIT fails.

        Raises:
            TasksFull: As many tasks are running as may; let it fly, and the caller has a 503.
            TasksClosed: The tasks are not open.
        """
        self._batch.add(func, *args, **kwargs)

    async def __call__(self) -> None:
        """Start what was added: for a response that is given this as its `background`."""
        self._batch.start()


def background(tasks: Tasks | ConfiguredTasks | None = None) -> Any:
    """Return a dependency that gives the endpoint FastAPI's `BackgroundTasks`, supervised.

    `stormproof.BackgroundTasks` as the annotation is enough where the app has one `Tasks`.
    To name another, or to give options, use
    `Annotated[stormproof.BackgroundTasks, stormproof.background(tasks.options(timeout=30))]`.
    The work starts when the response was sent, or the client has left; by then everything
    with `scope="function"` has ended well, which is where `session` commits.

    Args:
        tasks: Who does the work; None: the first `Tasks` that was given to `install`.

    Raises (in the request):
        NotStarted: No `Tasks` was given to `install`.
    """

    async def collect(connection: HTTPConnection) -> AsyncIterator[SupervisedBackgroundTasks]:
        batch = (tasks or _installed_tasks(connection)).batch()
        is_promised = False

        async def note(*failure: object) -> None:
            nonlocal is_promised
            is_promised = failure[0] is None

        # At the bottom of the stack, so that it ends after the COMMIT wherever the endpoint's
        # signature has put the session.
        stack: AsyncExitStack = connection.scope["fastapi_function_astack"]
        earlier = stack.pop_all()
        stack.push_async_exit(note)
        stack.push_async_exit(earlier)
        try:
            yield SupervisedBackgroundTasks(batch)
        finally:
            if is_promised:
                batch.start()
            else:
                batch.drop()

    return Depends(collect)


def _installed_tasks(connection: HTTPConnection) -> Tasks:
    lifecycle: Lifecycle | None = connection.scope.get(LIFECYCLE_KEY)
    for part in lifecycle.parts if lifecycle is not None else ():
        if isinstance(part, Tasks):
            return part
    raise NotStarted(
        "stormproof.BackgroundTasks has no supervisor to give the work to; "
        "give one to install(app, stormproof.Tasks())"
    )


BackgroundTasks = Annotated[SupervisedBackgroundTasks, background()]
"""The annotation that gives an endpoint FastAPI's `BackgroundTasks`, supervised: see `background`.

An alias and not a class, because FastAPI makes its own class for each subclass of it.
"""
