"""Last words: what a log keeps of an exception, in a form that each database can hold."""

from typing import Any

from pgqueuer.domain.models import TracebackRecord

_LONGEST = 60_000


def written(record: TracebackRecord | None) -> str | None:
    """Return the log entry (JSON) for what an exception has said, or None.

    PostgreSQL's jsonb holds no NUL, and nothing holds half a surrogate pair: an end that cannot
    be stored would be tried for ever, and with it those of other jobs. What is long loses its
    middle.
    """
    if record is None:
        return None
    return record.model_copy(
        update={
            name: _harmless(value)
            for name, value in record
            if isinstance(value, str | dict) or value is None
        }
    ).model_dump_json()


def first_line(error: BaseException) -> str:
    """Return what a log line says of `error`: as text, because a record of the log may be kept.

    An exception in it would keep its traceback, and that the sockets of its frames.
    """
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _harmless(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_harmless(key)): _harmless(item) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    text = value.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[... {len(text) - _LONGEST} characters ...]\n{text[-half:]}"
