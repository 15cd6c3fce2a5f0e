"""Traces: from the request that enqueues, through the table, to each start of the job."""

import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from stormproof.database import Database
from stormproof.jobs import Job, Jobs, _trace
from tests.harness import until

from .work import stands


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What a provider gets; it is not made the process's own, which can be done only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(_trace, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


async def test_a_trace_goes_from_the_request_to_each_start(
    jobs: Jobs, database: Database, spans: InMemorySpanExporter
) -> None:
    seen: list[int] = []

    @jobs.task(retries=1, backoff=0.01)
    async def receipt(order: int, job: Job) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        if job.start == 1:
            raise ConnectionError("the printer is off")

    await jobs.open()
    with _trace._tracer.start_as_current_span("POST /orders") as request:
        async with database.session() as session:
            handle = await receipt.enqueue(session, 7)
    await stands(jobs, handle.id, "done")
    await until(lambda: len(spans.get_finished_spans()) == 4)
    by_name = sorted(spans.get_finished_spans(), key=lambda span: (span.name, span.start_time))
    _, first, second, send = by_name
    assert {span.context.trace_id for span in (send, first, second)} == set(seen)
    assert send.parent is not None
    assert send.parent.span_id == request.get_span_context().span_id
    assert (send.name, send.kind) == ("send receipt", SpanKind.PRODUCER)
    assert send.attributes == {
        "messaging.system": "stormproof",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "receipt",
        "messaging.message.id": str(handle.id),
        "messaging.message.body.size": len(b'{"v":1,"args":{"order":7}}'),
    }
    for span, start, status in ((first, 1, StatusCode.ERROR), (second, 2, StatusCode.UNSET)):
        assert (span.name, span.kind) == ("process receipt", SpanKind.CONSUMER)
        assert parent_of(span) == link_of(span) == send.context.span_id
        assert span.attributes["stormproof.job.start"] == start
        assert span.attributes["messaging.message.id"] == str(handle.id)
        assert span.status.status_code is status
    assert first.attributes["error.type"] == "ConnectionError"


async def test_many_jobs_are_one_span_and_a_hand_back_is_no_error(
    jobs: Jobs, database: Database, spans: InMemorySpanExporter
) -> None:
    @jobs.task()
    async def endless() -> None:
        await until(lambda: False)

    await jobs.open()
    async with database.session() as session:
        await endless.enqueue_many(session, [{}, {}])
    await until(lambda: jobs.statistics().running == 2)
    await jobs.drain(time.monotonic() + 0.2)
    send, *starts = spans.get_finished_spans()
    assert send.attributes["messaging.batch.message_count"] == 2
    assert len(starts) == 2
    for span in starts:
        assert parent_of(span) == send.context.span_id
        assert span.status.status_code is StatusCode.UNSET
        assert [event.name for event in span.events] == ["handed back"]


async def test_without_a_provider_nothing_is_stored_and_a_callers_context_goes_through(
    jobs: Jobs, database: Database
) -> None:
    seen: list[str] = []

    @jobs.task()
    async def note() -> None:
        seen.append(_trace.trace_headers().get("traceparent", ""))

    await jobs.open()
    async with database.session() as session:
        await note.enqueue(session)
    await until(lambda: seen == [""])
    told = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with trace.use_span(trace.get_current_span(_trace._W3C.extract({"traceparent": told}))):
        async with database.session() as session:
            await note.enqueue(session)
    await until(lambda: len(seen) == 2)
    assert seen[1] == told


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def link_of(span: ReadableSpan) -> int:
    (link,) = span.links
    return link.context.span_id
