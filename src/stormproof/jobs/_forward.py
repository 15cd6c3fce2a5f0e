"""Forwarding: a job that publishes to a broker, so that the job table is its outbox."""

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from stormproof.errors import InvalidSetting

from ._job import Job


async def publish(to: Any, message: Mapping[str, Any], job: Job) -> None:
    """Publish one message to whatever `to` is.

    It may come twice, after a crash between the broker's answer and the end of the job: the
    receiver tells it by the id, which is the same each time.
    """
    key = job.idempotency_key
    if hasattr(to, "kiq"):
        await to.kicker().with_task_id(key).kiq(**message)
    elif hasattr(to, "apply_async"):
        await asyncio.to_thread(to.apply_async, kwargs=dict(message), task_id=key)
    elif hasattr(to, "publish"):
        await to.publish(dict(message), correlation_id=key)
    else:
        await to(dict(message), key)


def check_target(to: Any) -> None:
    """Raise InvalidSetting unless there is a way to publish to `to`."""
    if any(hasattr(to, verb) for verb in ("kiq", "apply_async", "publish")):
        return
    if not inspect.iscoroutinefunction(to):
        raise InvalidSetting(
            f"forward(to={to!r}) must be a task of taskiq or Celery, a publisher of FastStream, "
            "or an async function of message and key"
        )
