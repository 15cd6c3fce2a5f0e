"""What PostgresBus has in the database: three small tables beside the log, and two functions.

Publishing in somebody's transaction must hold nobody up, and an offset must never become visible
after a higher one. So a transaction only adds to the outbox, without an offset; what is committed
there is moved to the log by the next writer or reader, who alone holds the one row of facts.
"""

from ._follow import LEAP

_MOST = 2000
"""Rows that one call moves or deletes at most; about 20 ms."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS {log}_facts (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch text NOT NULL DEFAULT substr(replace(gen_random_uuid()::text, '-', ''), 1, 12),
  last bigint NOT NULL DEFAULT 0,
  size bigint NOT NULL DEFAULT 0,
  process text NOT NULL DEFAULT '',
  looked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO {log}_facts DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS {log} (
  place bigint PRIMARY KEY,
  follows bigint,
  topic text NOT NULL,
  data text NOT NULL,
  event text,
  key text,
  stored_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS {log}_outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL,
  data text NOT NULL,
  event text,
  key text
);

CREATE TABLE IF NOT EXISTS {log}_publishers (
  publisher text PRIMARY KEY,
  number bigint NOT NULL,
  last bigint NOT NULL,
  wrote_at timestamptz NOT NULL
);

-- Appends some of the outbox and what is given, and returns the last place; the facts are locked.
-- Everything in it is bounded, so that it ends in time however much has gathered.
CREATE OR REPLACE FUNCTION {log}_store(
  facts {log}_facts, process_ text, keep bigint, max_age interval,
  topics text[], datas text[], events text[], keys text[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  first bigint := facts.last;
  stored bigint;
  trimmed bigint := 0;
BEGIN
  IF facts.process <> '' AND process_ <> '' AND facts.process <> process_ THEN
    first := first + {leap};
  END IF;
  WITH moved AS (
    DELETE FROM {log}_outbox WHERE id IN (SELECT id FROM {log}_outbox ORDER BY id LIMIT {most})
    RETURNING id, topic, data, event, key
  ), fresh AS (
    SELECT 0 AS part, id AS rank, topic, data, event, key FROM moved
    UNION ALL
    SELECT 1, given.rank, given.topic, given.data, given.event, given.key
    FROM unnest(topics, datas, events, keys)
      WITH ORDINALITY AS given(topic, data, event, key, rank)
  ), numbered AS (
    SELECT *, row_number() OVER (ORDER BY part, rank) AS n FROM fresh
  )
  INSERT INTO {log} (place, follows, topic, data, event, key)
  SELECT first + n, CASE WHEN n = 1 AND first <> facts.last THEN facts.last END,
    topic, data, event, key
  FROM numbered;
  GET DIAGNOSTICS stored = ROW_COUNT;
  IF stored = 0 THEN
    RETURN facts.last;
  END IF;
  IF facts.size + stored > keep + keep / 10 THEN
    DELETE FROM {log} WHERE place IN (
      SELECT place FROM {log} WHERE place <=
        (SELECT place FROM {log} ORDER BY place DESC OFFSET keep LIMIT 1)
      ORDER BY place LIMIT {most} + stored
    );
    GET DIAGNOSTICS trimmed = ROW_COUNT;
  ELSIF facts.looked_at < clock_timestamp() - interval '10 seconds' THEN
    DELETE FROM {log} WHERE place IN (
      SELECT place FROM {log} WHERE place <
        (SELECT place FROM {log} WHERE stored_at >= clock_timestamp() - max_age
         ORDER BY place LIMIT 1)
      ORDER BY place LIMIT {most} + stored
    );
    GET DIAGNOSTICS trimmed = ROW_COUNT;
    DELETE FROM {log}_publishers WHERE wrote_at < clock_timestamp() - interval '1 hour';
    IF trimmed < {most} + stored THEN
      facts.looked_at := clock_timestamp();
    END IF;
  END IF;
  UPDATE {log}_facts SET
    last = first + stored, size = facts.size + stored - trimmed,
    process = process_, looked_at = facts.looked_at;
  PERFORM pg_notify('{log}', '');
  RETURN first + stored;
END $$;

-- Writes a batch of a publisher once, however often it is sent. What was committed to the outbox
-- before comes first; when that is more than goes at once, `last` is null: to be sent again.
CREATE OR REPLACE FUNCTION {log}_write(
  publisher_ text, number_ bigint, process_ text, keep bigint, max_age interval,
  topics text[], datas text[], events text[], keys text[],
  OUT epoch text, OUT last bigint
) LANGUAGE plpgsql AS $$
DECLARE
  facts {log}_facts;
  said {log}_publishers;
BEGIN
  SELECT * INTO STRICT facts FROM {log}_facts FOR UPDATE;
  epoch := facts.epoch;
  SELECT * INTO said FROM {log}_publishers AS p WHERE p.publisher = publisher_;
  IF said.number = number_ THEN
    last := said.last;
    RETURN;
  ELSIF said.number > number_ THEN
    RAISE EXCEPTION 'a later batch of this publisher is stored';
  END IF;
  IF (SELECT count(*) FROM (SELECT FROM {log}_outbox LIMIT {most} + 1) AS few) > {most} THEN
    PERFORM {log}_store(facts, process_, keep, max_age, '{{}}', '{{}}', '{{}}', '{{}}');
    RETURN;
  END IF;
  last := {log}_store(facts, process_, keep, max_age, topics, datas, events, keys);
  INSERT INTO {log}_publishers VALUES (publisher_, number_, last, clock_timestamp())
  ON CONFLICT (publisher) DO UPDATE SET
    number = excluded.number, last = excluded.last, wrote_at = excluded.wrote_at;
END $$;

-- Moves some of the outbox; false when there is more, or somebody else is at it.
CREATE OR REPLACE FUNCTION {log}_move(
  process_ text, keep bigint, max_age interval
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  facts {log}_facts;
BEGIN
  IF EXISTS (SELECT FROM {log}_outbox) THEN
    SELECT * INTO facts FROM {log}_facts FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
      RETURN false;
    END IF;
    PERFORM {log}_store(facts, process_, keep, max_age, '{{}}', '{{}}', '{{}}', '{{}}');
  END IF;
  RETURN NOT EXISTS (SELECT FROM {log}_outbox);
END $$;
"""


class Statements:
    """The statements for one log.

    Attributes:
        schema: Makes what is missing; may be run again.
        learn: Which database process and table this is.
        write: A batch; arguments as the function's.
        move: The outbox; arguments as the function's.
        look: Epoch and last place, with the entries after a place.
        publish: An entry into the outbox, by the paramstyle of a driver.
    """

    def __init__(self, log: str) -> None:
        self.schema = _SCHEMA.format(log=log, leap=LEAP, most=_MOST)
        self.learn = (
            "SELECT (pg_control_system()).system_identifier || '/' || "
            "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || "
            f"coalesce(to_regclass('{log}')::oid::text, '')"
        )
        self.write = f"SELECT * FROM {log}_write($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        self.move = f"SELECT {log}_move($1, $2, $3)"
        self.look = (
            "SELECT f.epoch, f.last, e.place, e.follows, e.topic, e.data, e.event, e.key "
            f"FROM {log}_facts AS f LEFT JOIN LATERAL "
            f"(SELECT * FROM {log} WHERE place > $1 ORDER BY place LIMIT $2) AS e ON true "
            "ORDER BY e.place"
        )
        values = {"numeric_dollar": "$1, $2, $3, $4", "pyformat": "%s, %s, %s, %s"}
        self.publish = {
            style: (
                f"WITH added AS (INSERT INTO {log}_outbox (topic, data, event, key) "
                f"VALUES ({marks}) RETURNING 1) "
                f"SELECT pg_notify('{log}', 'outbox') FROM added"
            )
            for style, marks in values.items()
        }
