"""Forwarding: a durable job that publishes to a broker, so the table of jobs is its outbox."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel

from stormproof.errors import ForwardFailed, InvalidSetting

from ._job import Job
from ._payload import is_dependency
from ._publisher_threads import PublisherThreads
from ._task import JobTask
from ._trace import trace_headers

P = ParamSpec("P")

Publish: TypeAlias = Callable[[str, dict[str, Any], dict[str, str]], Awaitable[object]]
"""Publishes arguments under a message id, with headers; returns when the broker has them."""

_ID_HEADER = "message-id"
_JOB = "stormproof_job"


@runtime_checkable
class TaskiqTask(Protocol):
    """What taskiq's `@broker.task` returns."""

    original_func: Callable[..., Any]
    task_name: str

    def kicker(self) -> Any:
        """Return what forms and sends one message."""
        ...


@runtime_checkable
class CeleryTask(Protocol):
    """What Celery's `@app.task` returns, or `app.signature("module.task")`."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send one message; blocks the thread."""
        ...


@runtime_checkable
class FastStreamPublisher(Protocol):
    """What FastStream's `broker.publisher("orders")` returns, of any broker."""

    def __call__(self, function: Any) -> Any:
        """Decorate a handler."""
        ...

    def publish(self, message: Any, **options: Any) -> Awaitable[Any]:
        """Publish one message."""
        ...


Target: TypeAlias = (
    TaskiqTask
    | CeleryTask
    | FastStreamPublisher
    | Callable[[Any, str], Coroutine[Any, Any, object]]
)


class _TakesTasks(Protocol):
    def task(
        self, *, retries: int, timeout: float | None, concurrency: int | None,
        backoff: float, max_backoff: float, name: str | None,
    ) -> Callable[[Callable[..., Coroutine[Any, Any, Any]]], JobTask[Any]]: ...  # fmt: skip


class Forwarding:
    """What `Jobs` knows of brokers."""

    def forward(
        self: _TakesTasks,
        *,
        to: Target,
        like: Callable[..., object] | None = None,
        retries: int = 1000,
        timeout: float = 30.0,
        concurrency: int | None = None,
        backoff: float = 1.0,
        max_backoff: float = 60.0,
        name: str | None = None,
    ) -> JobTask[Any]:
        """Return a task whose jobs publish their arguments to a broker: enqueue it as any other.

        Committed means published, at least once: a broker that is away or does not answer is
        tried again, and after all the retries the job is held. A message that was published by
        a start whose end was lost is published again, under the same id, which is the job's
        `idempotency_key`: the task id of taskiq and Celery, the correlation id (and the message
        id of RabbitMQ) of FastStream, and in each case the header "message-id".

        What the broker does with a message it has taken is its own affair: let it confirm what
        it has written, and its queues and messages outlive it.

        Args:
            to: A taskiq task, a Celery task or signature, a FastStream publisher, or an async
                function of a message and its id. Its broker is started and stopped by you.
            like: The function whose parameters an enqueue takes; default that of `to`. A
                publisher has none: then it is `message`, anything that is JSON.
            retries: How often it is tried again; with these pauses for more than 8 hours.
            timeout: Seconds the broker has to take one message.
            concurrency: How many are published at once in all workers together.
            backoff: Seconds before the first retry; it doubles each time, a random half less.
            max_backoff: The longest of these pauses.
            name: What the store calls it; default the name of `like`, or of the task.

        Raises:
            InvalidSetting: `to` is none of these, or its parameters cannot be stored.
        """
        publish, function, known_as = _look_at(to, like)
        named = name or getattr(like, "__name__", None) or known_as
        if not named:
            raise InvalidSetting("forward() to a publisher needs name=, or like= a function")
        decorate = self.task(
            retries=retries, timeout=timeout, concurrency=concurrency,
            backoff=backoff, max_backoff=max_backoff, name=named,
        )  # fmt: skip
        return decorate(_forwarder(named, publish, function))


def _look_at(
    to: object, like: Callable[..., object] | None
) -> tuple[Publish, Callable[..., object], str | None]:
    """Return how to publish to it, the function whose parameters it takes, and its name."""
    if isinstance(to, TaskiqTask):
        return _by_taskiq(to), like or to.original_func, to.task_name
    if isinstance(to, CeleryTask):
        function = like or getattr(to, "run", None)
        known_as = getattr(to, "name", None) or getattr(to, "task", None)
        if function is None:
            raise InvalidSetting(
                f"forward(to={known_as!r}): its function is not known here; give like= a function "
                "with its parameters"
            )
        return _by_celery(to), function, known_as
    if inspect.iscoroutinefunction(to):
        return _by_function(to), _of_one_message(like), None
    if isinstance(to, FastStreamPublisher) and not hasattr(to, "publisher"):
        return _by_faststream(to), _of_one_message(like), None
    raise InvalidSetting(
        f"forward(to={type(to).__name__}) must be a taskiq task, a Celery task or signature, or "
        "a FastStream publisher, as broker.publisher('orders') returns, or an async function of "
        "the message and its id"
    )


def _of_one_message(like: Callable[..., object] | None) -> Callable[..., object]:
    if like is None:
        return _one_message
    if len(inspect.signature(like).parameters) != 1:
        raise InvalidSetting("forward(like=...) to a publisher must have one parameter")
    return like


def _one_message(message: Any) -> None:
    """The parameters of a publisher."""


def _forwarder(
    name: str, publish: Publish, like: Callable[..., object]
) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return a job's function with the parameters of `like`."""

    async def forward(**arguments: Any) -> None:
        job: Job = arguments.pop(_JOB)
        headers = {_ID_HEADER: job.idempotency_key, **trace_headers()}
        try:
            await publish(job.idempotency_key, arguments, headers)
        except Exception as error:
            raise ForwardFailed(
                f"{name!r}: the broker did not take message {job.idempotency_key} of job "
                f"{job.id}: {type(error).__name__}: {error}; it is tried again with the same id"
            ) from error

    job = inspect.Parameter(_JOB, inspect.Parameter.KEYWORD_ONLY, annotation=Job)
    forward.__signature__ = inspect.Signature([*_parameters(like), job])  # type: ignore[attr-defined]
    return forward


def _parameters(like: Callable[..., object]) -> list[inspect.Parameter]:
    """Return what a message must hold: without what the other side injects, any type if none."""
    return [
        parameter.replace(annotation=Any)
        if parameter.annotation is inspect.Parameter.empty
        else parameter
        for parameter in inspect.signature(like, eval_str=True).parameters.values()
        if not is_dependency(parameter)
    ]


def _by_taskiq(to: TaskiqTask) -> Publish:
    async def publish(
        message_id: str, arguments: dict[str, Any], headers: dict[str, str]
    ) -> object:
        return await to.kicker().with_task_id(message_id).with_labels(**headers).kiq(**arguments)

    return publish


def _by_celery(to: CeleryTask) -> Publish:
    threads = PublisherThreads()

    async def publish(
        message_id: str, arguments: dict[str, Any], headers: dict[str, str]
    ) -> object:
        kwargs = {name: _plain(value) for name, value in arguments.items()}
        return await threads.call(
            # Without Celery's own retries: ours have the pauses, and give the thread back.
            lambda: to.apply_async(
                (), kwargs, task_id=message_id, headers=dict(headers), retry=False
            )
        )

    return publish


def _by_faststream(to: FastStreamPublisher) -> Publish:
    known_ids = {"correlation_id"}
    if type(to).__module__.startswith("faststream.rabbit"):
        known_ids.add("message_id")

    async def publish(
        message_id: str, arguments: dict[str, Any], headers: dict[str, str]
    ) -> object:
        (message,) = arguments.values()
        return await to.publish(message, headers=headers, **dict.fromkeys(known_ids, message_id))

    return publish


def _by_function(to: Callable[[Any, str], Awaitable[object]]) -> Publish:
    async def publish(
        message_id: str, arguments: dict[str, Any], headers: dict[str, str]
    ) -> object:
        (message,) = arguments.values()
        return await to(message, message_id)

    return publish


def _plain(value: Any) -> Any:
    """Return what Celery's own JSON can write."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
