"""Traces: a job belongs to the trace of the request that enqueued it (OpenTelemetry's API)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

_TRACER = "stormproof.jobs"
_SYSTEM = "stormproof"


@contextmanager
def sending(task: str, count: int) -> Iterator[dict[str, str]]:
    """Be in a span while jobs are stored; yields the headers that carry it with them.

    Names of the span and its attributes: OpenTelemetry's conventions for messaging.
    """
    attributes = _attributes("send", task)
    if count > 1:
        attributes["messaging.batch.message_count"] = count
    tracer = trace.get_tracer(_TRACER)
    with tracer.start_as_current_span(
        f"send {task}", kind=SpanKind.PRODUCER, attributes=attributes
    ):
        headers: dict[str, str] = {}
        propagate.inject(headers)
        yield headers


@contextmanager
def processing(
    task: str, job_id: int, start: int, headers: Mapping[str, Any] | None
) -> Iterator[None]:
    """Be in a span of the trace that the job came with, while it runs."""
    attributes = _attributes("process", task)
    attributes["messaging.message.id"] = str(job_id)
    attributes["stormproof.job.start"] = start
    tracer = trace.get_tracer(_TRACER)
    with tracer.start_as_current_span(
        f"process {task}",
        context=propagate.extract(headers or {}),
        kind=SpanKind.CONSUMER,
        attributes=attributes,
    ):
        yield


def _attributes(operation: str, task: str) -> dict[str, str | int]:
    return {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": task,
    }
