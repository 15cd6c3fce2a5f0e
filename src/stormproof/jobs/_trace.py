"""Traces of jobs: a span where one is enqueued, one for each start, and what joins them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job as PickedJob

from ._facts import NewJob, task_of

_SYSTEM = "stormproof"

# The W3C trace context alone: baggage may hold anything, and would stay in the table.
_W3C = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("stormproof.jobs", version("stormproof"))


class Sending:
    """Jobs on their way into the store, inside of `sending`.

    Attributes:
        jobs: What to store: with the context of the span in the headers, if there is one.
    """

    def __init__(self, jobs: Sequence[NewJob], span: Span) -> None:
        self._span = span
        headers = trace_headers()
        self.jobs = (
            jobs
            if not headers
            else [replace(job, headers={**job.headers, **headers}) for job in jobs]
        )

    def stored(self, ids: Sequence[int | None]) -> None:
        """Note the id of a single job; it is known only now."""
        if len(ids) == 1 and self._span.is_recording():
            self._span.set_attribute("messaging.message.id", str(ids[0]))


@contextmanager
def sending(jobs: Sequence[NewJob]) -> Iterator[Sending]:
    """A producer's span around the storing of jobs; each of their starts will be its child.

    Without a provider it only hands on the context that a caller has sent, if there is one.
    """
    task = task_of(jobs[0].task)
    attributes = _attributes("send", task)
    if len(jobs) == 1:
        attributes["messaging.message.body.size"] = len(jobs[0].payload)
    else:
        attributes["messaging.batch.message_count"] = len(jobs)
    with _tracer.start_as_current_span(
        f"send {task}", kind=SpanKind.PRODUCER, attributes=attributes
    ) as span:
        yield Sending(jobs, span)


@contextmanager
def processing(task: str, job: PickedJob) -> Iterator[None]:
    """A consumer's span around one start of a job, child of the span that has stored it.

    It is linked to that one, too, as the conventions ask for. A start that fails is marked as
    an error, one that a drain hands back is not.
    """
    stored_by = _W3C.extract(job.headers or {}, Context())
    origin = trace.get_current_span(stored_by).get_span_context()
    with _tracer.start_as_current_span(
        f"process {task}",
        context=stored_by,
        kind=SpanKind.CONSUMER,
        links=[Link(origin)] if origin.is_valid else [],
        attributes={
            **_attributes("process", task),
            "messaging.message.id": str(job.id),
            "messaging.message.body.size": len(job.payload or b""),
            "stormproof.job.start": job.attempts,
        },
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except RetryRequested as handed_back:
            span.add_event("handed back", {"reason": str(handed_back)})
            raise
        except Exception as error:
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise


def trace_headers() -> dict[str, str]:
    """Return the W3C headers of the span that is under way here, or nothing without one."""
    headers: dict[str, str] = {}
    _W3C.inject(headers)
    return headers


def _attributes(operation: str, task: str) -> dict[str, Any]:
    """Return the names of OpenTelemetry's messaging conventions (in development in 2026).

    Source: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
    """
    return {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": task,
    }
