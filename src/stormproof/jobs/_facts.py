"""Facts about jobs: what was asked for, where each stands, what is held and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias
from zlib import crc32

from pydantic_core import from_json

JobState: TypeAlias = Literal["queued", "running", "done", "held", "failed", "cancelled"]
"""Where a job stands.

"held" is kept until somebody says `retry` or `cancel`; "failed" is gone, because its task has
`on_failure="delete"`.
"""

STATES: Mapping[str, JobState] = {
    "queued": "queued",
    "picked": "running",
    "successful": "done",
    "failed": "held",
    "exception": "failed",
    "canceled": "cancelled",
    "deleted": "cancelled",
}
"""What the engine's words mean."""

OnFailure: TypeAlias = Literal["hold", "delete"]
"""What becomes of a job that failed for good: it is held, or deleted with its words in the log."""


SHARDS = 64
"""How many lines a task with a limit for each group has; stored jobs name them, so it stays."""


def line_of(task: str, group: str) -> str:
    """Return the line of a task that the jobs of `group` wait in, always the same one."""
    return f"{task}#{crc32(group.encode()) % SHARDS}"


def lines_of(task: str) -> list[str]:
    """Return all lines of a task."""
    return [f"{task}#{shard}" for shard in range(SHARDS)]


def task_of(line: str) -> str:
    """Return the task whose line it is, or which it is."""
    return line.partition("#")[0]


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be stored.

    Attributes:
        task: The name of its task, or of one of its lines.
        payload: Its arguments.
        key: What no other job may have while this one is queued or running, or None.
        delay: Seconds before it may start, 0 or more.
        priority: Higher ones start first.
        headers: What travels with it, for example the trace it belongs to.
    """

    task: str
    payload: bytes
    key: str | None = None
    delay: float = 0.0
    priority: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class End:
    """How one start of a job has ended.

    Attributes:
        job_id: The job.
        pick: By which pick it was ours.
        status: "successful", "canceled", "exception" or "failed": only the last one is kept.
        words: What its log gets (JSON), or None.
    """

    job_id: int
    pick: int
    status: str
    words: str | None


@dataclass(frozen=True, slots=True)
class JobHandle:
    """The receipt for an enqueued job; the job exists once its session has committed.

    Attributes:
        id: Its number in the store.
        task: The name of its task.
        is_new: False when another job had the same `key`: then `id` is that one's, if it still
            could be seen, else None.
    """

    id: int | None
    task: str
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job that failed for good and is kept, until `retry` or `cancel`.

    Attributes:
        id: Its number in the store.
        task: The name of its task.
        starts: How often it was started.
        created_at: When it was enqueued.
        last_words: The traceback of its last start, or what is known of its crash.
    """

    id: int
    task: str
    starts: int
    created_at: datetime
    last_words: str


@dataclass(frozen=True, slots=True)
class JobsStatistics:
    """What this process has done with jobs since its start.

    Attributes:
        running: Jobs that run here now.
        done: Jobs that ended well here.
        retried: Starts that failed and are followed by another.
        held: Jobs that failed here for good and are kept.
        failed: Jobs that failed here for good and were deleted.
        cancelled: Jobs that were cancelled while they ran here.
        handed_back: Jobs that a drain gave back to be started by others.
        lost_leases: Starts whose end did not count, because somebody else had the job by then.
        reaped: Jobs that this process took from dead ones.
    """

    running: int = 0
    done: int = 0
    retried: int = 0
    held: int = 0
    failed: int = 0
    cancelled: int = 0
    handed_back: int = 0
    lost_leases: int = 0
    reaped: int = 0


def told(record: Any) -> str:
    """Return the words of a log entry: the traceback, or what was said of a crash."""
    if record is None:
        return ""
    words = record if isinstance(record, Mapping) else from_json(record)
    return str(words.get("traceback") or words.get("exception_message", "")).strip()
