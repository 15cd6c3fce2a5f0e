"""The SQL that the PostgreSQL store adds to the engine's own: ends that count only when ours."""

from pgqueuer.domain.settings import DBSettings

COUNT_STARTS = "stormproof_jobs_count_starts"


class Statements:
    """Our statements on the engine's tables, whose names are settings.

    Every statement ends with the rows it is asked for. What another worker may start at once is
    told with a NOTIFY, because the engine's trigger tells of no UPDATE.
    """

    def __init__(self, settings: DBSettings) -> None:
        names = settings.qualified
        self._queue, self._log = names.queue_table, names.queue_table_log
        self._status = names.queue_status_type
        self._workers = "stormproof_jobs_workers"
        self._tell = f"pg_notify('{settings.channel}', "
        self._ours = "status = 'picked' AND queue_manager_id = $1::uuid"
        self._define_schema()
        self._define_workers()
        self._define_ends()
        self._define_leases()
        self._define_operations()

    def _define_schema(self) -> None:
        queue, workers = self._queue, self._workers
        self.create = (
            f"""CREATE TABLE IF NOT EXISTS {workers} (
                id uuid PRIMARY KEY, process text NOT NULL, seen timestamptz NOT NULL)""",
            """CREATE TABLE IF NOT EXISTS stormproof_jobs_schedules (
                name text PRIMARY KEY, expression text NOT NULL, next_at float8 NOT NULL)""",
            """CREATE TABLE IF NOT EXISTS stormproof_jobs_outcomes (
                job_id bigint PRIMARY KEY, fraction float8, message text, result text,
                updated float8 NOT NULL)""",
        )
        # The engine counts no start that its process did not survive. A start is what sets a
        # row to picked; a heartbeat leaves `updated` as it was.
        self.count_starts = (
            f"""CREATE OR REPLACE FUNCTION {COUNT_STARTS}() RETURNS trigger AS $$
                BEGIN NEW.attempts := OLD.attempts + 1; RETURN NEW; END $$ LANGUAGE plpgsql""",
            f"""CREATE TRIGGER {COUNT_STARTS} BEFORE UPDATE ON {queue} FOR EACH ROW
                WHEN (NEW.status = 'picked' AND NEW.updated IS DISTINCT FROM OLD.updated)
                EXECUTE FUNCTION {COUNT_STARTS}()""",
        )
        self.has_count_starts = f"""SELECT 1 FROM pg_trigger
            WHERE tgname = '{COUNT_STARTS}' AND tgrelid = to_regclass('{queue}')"""

    def _define_workers(self) -> None:
        queue, log, workers, tell, ours = (
            self._queue,
            self._log,
            self._workers,
            self._tell,
            self._ours,
        )
        self.sign_on = f"""WITH old AS (
                DELETE FROM {workers} WHERE seen < NOW() - INTERVAL '1 day' AND id <> $1::uuid)
            INSERT INTO {workers} (id, process, seen) VALUES ($1::uuid, $2::text, NOW())
            ON CONFLICT (id) DO UPDATE SET seen = NOW()"""
        self.sign_off = f"DELETE FROM {workers} WHERE id = $1::uuid"
        self.workers = f"SELECT id::text AS id, process FROM {workers}"

        self.reap = f"""WITH queued AS (
                UPDATE {queue}
                SET status = 'queued', updated = NOW(), queue_manager_id = NULL, slot = NULL
                WHERE {ours} RETURNING id, entrypoint, priority
            ), logged AS (
                INSERT INTO {log} (job_id, status, entrypoint, priority, traceback)
                SELECT id, 'queued', entrypoint, priority, $2::jsonb FROM queued
            )
            SELECT id, {tell}$3::text) FROM queued"""

    def _define_ends(self) -> None:
        queue, log, status, tell, ours = (
            self._queue,
            self._log,
            self._status,
            self._tell,
            self._ours,
        )
        self.finish = f"""WITH ended AS (
                SELECT * FROM UNNEST($2::bigint[], $3::int[], $4::{status}[], $5::jsonb[])
                    AS e(id, pick, state, traceback)
            ), gone AS (
                DELETE FROM {queue} q USING ended e
                WHERE q.id = e.id AND q.attempts = e.pick AND e.state <> 'failed'
                  AND q.{ours} RETURNING q.id, q.entrypoint, q.priority
            ), kept AS (
                UPDATE {queue} q
                SET status = 'failed', updated = NOW(), queue_manager_id = NULL, slot = NULL
                FROM ended e
                WHERE q.id = e.id AND q.attempts = e.pick AND e.state = 'failed'
                  AND q.{ours} RETURNING q.id, q.entrypoint, q.priority
            ), ours AS (SELECT * FROM gone UNION ALL SELECT * FROM kept
            ), logged AS (
                INSERT INTO {log} (job_id, status, entrypoint, priority, traceback)
                SELECT o.id, e.state, o.entrypoint, o.priority, e.traceback
                FROM ours o JOIN ended e ON e.id = o.id
            )
            SELECT id FROM ours"""

        self.again = f"""WITH queued AS (
                UPDATE {queue}
                SET status = 'queued', execute_after = NOW() + $4::interval,
                    attempts = attempts - $5::int, updated = NOW(),
                    queue_manager_id = NULL, slot = NULL
                WHERE {ours} AND id = $2::bigint AND attempts = $3::int
                RETURNING id, entrypoint, priority
            ), logged AS (
                INSERT INTO {log} (job_id, status, entrypoint, priority, traceback)
                SELECT id, 'queued', entrypoint, priority, $6::jsonb FROM queued
            )
            SELECT id, {tell}$7::text) FROM queued"""

    def _define_leases(self) -> None:
        queue, ours = self._queue, self._ours
        self.owns = f"""SELECT id FROM {queue}
            WHERE {ours} AND id = $2::bigint AND attempts = $3::int"""

        self.lock_lease = f"{self.owns} FOR UPDATE"

        self.alive = f"SELECT id FROM {queue} WHERE {ours} AND id = ANY($2::bigint[])"

        # A row that `once` has locked is not stale: nobody else can take it either.
        self.beat = f"""UPDATE {queue} SET heartbeat = NOW() WHERE id IN (
                SELECT id FROM {queue} WHERE {ours} AND id = ANY($2::bigint[])
                ORDER BY id FOR UPDATE SKIP LOCKED)"""

    def _define_operations(self) -> None:
        queue, log, tell = self._queue, self._log, self._tell
        self.by_key = f"""SELECT id, dedupe_key FROM {queue}
            WHERE dedupe_key = ANY($1::text[]) AND status IN ('queued', 'picked')"""

        self.counts = f"""SELECT split_part(entrypoint, '#', 1) AS of_task,
                COUNT(*) FILTER (WHERE status = 'queued' AND execute_after <= NOW()) AS queued,
                COUNT(*) FILTER (WHERE status = 'queued' AND execute_after > NOW()) AS delayed,
                COUNT(*) FILTER (WHERE status = 'picked') AS running,
                COUNT(*) FILTER (WHERE status = 'failed') AS held,
                EXTRACT(EPOCH FROM NOW() - LEAST(NOW(), MIN(execute_after)
                    FILTER (WHERE status = 'queued')))::float8 AS oldest_waiting
            FROM {queue} GROUP BY 1"""

        self.held = f"""SELECT q.id, q.entrypoint, q.attempts, q.created,
                (SELECT l.traceback::text FROM {log} l
                 WHERE l.job_id = q.id AND l.traceback IS NOT NULL
                 ORDER BY l.created DESC, l.id DESC LIMIT 1) AS traceback
            FROM {queue} q WHERE q.status = 'failed' ORDER BY q.updated DESC LIMIT $1"""

        self.last_words = f"""SELECT traceback::text AS traceback FROM {log}
            WHERE job_id = $1::bigint AND traceback IS NOT NULL
            ORDER BY created DESC, id DESC LIMIT 1"""

        self.retry_held = f"""WITH queued AS (
                UPDATE {queue} q
                SET status = 'queued', execute_after = NOW(), updated = NOW(), attempts = 0
                WHERE id = ANY($1::bigint[]) AND status = 'failed' AND NOT EXISTS (
                    SELECT FROM {queue} o WHERE o.dedupe_key = q.dedupe_key
                      AND o.status IN ('queued', 'picked'))
                RETURNING id, entrypoint, priority
            ), logged AS (
                INSERT INTO {log} (job_id, status, entrypoint, priority)
                SELECT id, 'queued', entrypoint, priority FROM queued
            )
            SELECT id, {tell}$2::text) FROM queued"""

        self.cancel = f"""WITH gone AS (
                DELETE FROM {queue} WHERE id = ANY($1::bigint[])
                RETURNING id, entrypoint, priority
            ), logged AS (
                INSERT INTO {log} (job_id, status, entrypoint, priority)
                SELECT id, 'canceled', entrypoint, priority FROM gone
            )
            SELECT id FROM gone"""

        self.prune = f"""DELETE FROM {log} WHERE aggregated
            AND created < NOW() - $1::interval"""
