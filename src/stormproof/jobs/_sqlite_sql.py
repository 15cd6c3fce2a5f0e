"""The SQL of the SQLite store: one table for what is to be done, one for what has ended."""

from collections.abc import Sequence
from functools import cache

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS stormproof_jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        task TEXT NOT NULL,
        payload BLOB,
        priority INTEGER NOT NULL,
        key TEXT,
        headers TEXT NOT NULL,
        status TEXT NOT NULL,
        is_due INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        heartbeat REAL NOT NULL,
        start_after REAL NOT NULL,
        worker TEXT)""",
    """CREATE INDEX IF NOT EXISTS stormproof_jobs_due ON stormproof_jobs
        (task, priority DESC, id, start_after) WHERE status = 'queued' AND is_due = 1""",
    """CREATE INDEX IF NOT EXISTS stormproof_jobs_later ON stormproof_jobs
        (start_after) WHERE status = 'queued' AND is_due = 0""",
    """CREATE INDEX IF NOT EXISTS stormproof_jobs_picked ON stormproof_jobs
        (heartbeat) WHERE status = 'picked'""",
    """CREATE INDEX IF NOT EXISTS stormproof_jobs_held ON stormproof_jobs
        (updated) WHERE status = 'failed'""",
    """CREATE UNIQUE INDEX IF NOT EXISTS stormproof_jobs_key ON stormproof_jobs
        (key) WHERE key IS NOT NULL AND status IN ('queued', 'picked')""",
    """CREATE TABLE IF NOT EXISTS stormproof_jobs_log (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id INTEGER NOT NULL,
        task TEXT NOT NULL,
        status TEXT NOT NULL,
        created REAL NOT NULL,
        traceback TEXT)""",
    """CREATE INDEX IF NOT EXISTS stormproof_jobs_log_job ON stormproof_jobs_log (job_id, id)""",
    """CREATE INDEX IF NOT EXISTS stormproof_jobs_log_created ON stormproof_jobs_log (created)""",
    """CREATE TABLE IF NOT EXISTS stormproof_jobs_workers (
        id TEXT PRIMARY KEY, process TEXT NOT NULL, seen REAL NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS stormproof_jobs_schedules (
        name TEXT PRIMARY KEY, expression TEXT NOT NULL, next_at REAL NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS stormproof_jobs_outcomes (
        job_id INTEGER PRIMARY KEY, fraction REAL, message TEXT, result TEXT,
        updated REAL NOT NULL)""",
)

SIGN_ON = """INSERT INTO stormproof_jobs_workers (id, process, seen) VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET seen = excluded.seen"""

FORGET = "DELETE FROM stormproof_jobs_workers WHERE seen < ?"

SIGN_OFF = "DELETE FROM stormproof_jobs_workers WHERE id = ?"

WORKERS = "SELECT id, process FROM stormproof_jobs_workers"

BY_KEY = """SELECT id FROM stormproof_jobs
    WHERE key = ? AND key IS NOT NULL AND status IN ('queued', 'picked')"""

PROMOTE = """UPDATE stormproof_jobs SET is_due = 1
    WHERE status = 'queued' AND is_due = 0 AND start_after <= ?"""

STALE = """SELECT id, task, heartbeat FROM stormproof_jobs
    WHERE status = 'picked' AND heartbeat < ?"""

RUNNING = """SELECT task, COUNT(*) AS count FROM stormproof_jobs
    WHERE status = 'picked' GROUP BY task"""

ANY_PICKED_STALE = """SELECT 1 FROM stormproof_jobs
    WHERE status = 'picked' AND heartbeat < ? LIMIT 1"""

ANY_LATER_DUE = """SELECT 1 FROM stormproof_jobs
    WHERE status = 'queued' AND is_due = 0 AND start_after <= ? LIMIT 1"""

NEXT_LATER = """SELECT MIN(start_after) FROM stormproof_jobs
    WHERE status = 'queued' AND is_due = 0"""

AGAIN = """UPDATE stormproof_jobs SET status = 'queued', is_due = ?, start_after = ?,
        updated = ?, attempts = attempts - ?, worker = NULL
    WHERE id = ? AND status = 'picked' AND worker = ? AND attempts = ? RETURNING task"""

FINISH = """DELETE FROM stormproof_jobs
    WHERE id = ? AND status = 'picked' AND worker = ? AND attempts = ? RETURNING task"""

HOLD = """UPDATE stormproof_jobs SET status = 'failed', updated = ?, worker = NULL
    WHERE id = ? AND status = 'picked' AND worker = ? AND attempts = ? RETURNING task"""

LEASE = """SELECT 1 FROM stormproof_jobs
    WHERE id = ? AND status = 'picked' AND worker = ? AND attempts = ?"""

LOG = """INSERT INTO stormproof_jobs_log (job_id, task, status, created, traceback)
    VALUES (?, ?, ?, ?, ?)"""

REAP = """UPDATE stormproof_jobs SET status = 'queued', is_due = 1, updated = ?, worker = NULL
    WHERE status = 'picked' AND worker = ? RETURNING id, task"""

# Each part from an index alone: the rows with their payloads take five times as long to read.
COUNTS = """SELECT substr(task, 1, instr(task || '#', '#') - 1) AS of_task,
        SUM(queued) AS queued, SUM(delayed) AS delayed, SUM(running) AS running,
        SUM(held) AS held, MAX(0, ? - MIN(first)) AS oldest_waiting
    FROM (SELECT task, COUNT(*) AS queued, 0 AS delayed, 0 AS running, 0 AS held,
                MIN(start_after) AS first
            FROM stormproof_jobs WHERE status = 'queued' AND is_due = 1 GROUP BY task
        UNION ALL SELECT task, COUNT(*) FILTER (WHERE start_after <= ?),
                COUNT(*) FILTER (WHERE start_after > ?), 0, 0, MIN(start_after)
            FROM stormproof_jobs WHERE status = 'queued' AND is_due = 0 GROUP BY task
        UNION ALL SELECT task, 0, 0, COUNT(*), 0, NULL
            FROM stormproof_jobs WHERE status = 'picked' GROUP BY task
        UNION ALL SELECT task, 0, 0, 0, COUNT(*), NULL
            FROM stormproof_jobs WHERE status = 'failed' GROUP BY task)
    GROUP BY 1"""

HELD = """SELECT j.id, j.task, j.attempts, j.created,
        (SELECT traceback FROM stormproof_jobs_log l
         WHERE l.job_id = j.id AND traceback IS NOT NULL ORDER BY l.id DESC LIMIT 1) AS traceback
    FROM stormproof_jobs j WHERE j.status = 'failed' ORDER BY j.updated DESC LIMIT ?"""

LAST_WORDS = """SELECT traceback FROM stormproof_jobs_log
    WHERE job_id = ? AND traceback IS NOT NULL ORDER BY id DESC LIMIT 1"""

PRUNE = "DELETE FROM stormproof_jobs_log WHERE created < ?"


@cache
def enqueue(count: int) -> str:
    """Return the statement that stores `count` jobs."""
    one = "(?, ?, ?, ?, ?, 'queued', ?, 0, ?, ?, ?, ?)"
    return f"""INSERT INTO stormproof_jobs (task, payload, priority, key, headers, status, is_due,
            attempts, created, updated, heartbeat, start_after)
        VALUES {", ".join([one] * count)}
        ON CONFLICT (key) WHERE key IS NOT NULL AND status IN ('queued', 'picked') DO NOTHING
        RETURNING id"""


def retry_held(count: int) -> str:
    """Return the statement that queues `count` held jobs again."""
    return f"""UPDATE OR IGNORE stormproof_jobs
        SET status = 'queued', is_due = 1, start_after = ?, updated = ?, attempts = 0
        WHERE status = 'failed' AND id IN ({_marks(count)}) RETURNING id"""


def cancel(count: int) -> str:
    """Return the statement that takes `count` jobs out of the queue."""
    return f"DELETE FROM stormproof_jobs WHERE id IN ({_marks(count)}) RETURNING id, task"


def states(count: int) -> str:
    """Return the query for where `count` jobs stand, the latest word of each last."""
    marks = _marks(count)
    return f"""SELECT job_id AS id, status FROM (
            SELECT job_id, status, id FROM stormproof_jobs_log
            WHERE job_id IN ({marks}) ORDER BY id)
        UNION ALL SELECT id, status FROM stormproof_jobs WHERE id IN ({marks})"""


def beat(count: int) -> str:
    """Return the statement that says that `count` jobs are alive."""
    return f"""UPDATE stormproof_jobs SET heartbeat = ?
        WHERE status = 'picked' AND worker = ? AND id IN ({_marks(count)})"""


def alive(count: int) -> str:
    """Return the query for which of `count` jobs are ours."""
    return f"""SELECT id FROM stormproof_jobs
        WHERE status = 'picked' AND worker = ? AND id IN ({_marks(count)})"""


def any_due(tasks: Sequence[str]) -> str:
    """Return the query that finds a row when a job of these tasks waits for a place."""
    return f"""SELECT 1 FROM stormproof_jobs
        WHERE status = 'queued' AND is_due = 1 AND task IN ({_marks(len(tasks))}) LIMIT 1"""


def claim(rooms: int, stale: int) -> str:
    """Return the statement that picks the first jobs of `rooms` tasks, and `stale` given ones.

    One look into the index for each task: its cost does not grow with what waits.
    """
    one = """SELECT * FROM (SELECT id, priority FROM stormproof_jobs
        WHERE status = 'queued' AND is_due = 1 AND task = ?
        ORDER BY priority DESC, id LIMIT ?)"""
    picks = [one] * rooms
    if stale:
        picks.append(f"SELECT id, priority FROM stormproof_jobs WHERE id IN ({_marks(stale)})")
    return f"""UPDATE stormproof_jobs
        SET status = 'picked', attempts = attempts + 1, updated = ?, heartbeat = ?, worker = ?
        WHERE id IN (SELECT id FROM ({" UNION ALL ".join(picks)})
                     ORDER BY priority DESC, id LIMIT ?)
        RETURNING id, task, payload, priority, headers, attempts, created, updated, start_after"""


def _marks(count: int) -> str:
    return ", ".join("?" * count)
