"""Histories without superfluous events; see compaction.py for what makes an event superfluous."""

from importlib import import_module

from django.db import migrations, models

initial = import_module(f"{__package__}.0001_initial")
number_at_commit = import_module(f"{__package__}.0002_number_at_commit")

# Rows that a sweep is about to delete are left to it: it may take long, and nobody who publishes waits for it. In a
# transaction that sees the tables as they were at its beginning, a row that is gone since would be an error.
FORWARDS = f"""
CREATE FUNCTION ds_broadcaster_compact(newest ds_broadcaster_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    kind text := left(newest.replaces, 2);
    stop bigint;
BEGIN
    IF kind IS NULL OR kind = '' OR newest.verb <> ''
        OR current_setting('transaction_isolation') <> 'read committed'
    THEN
        RETURN;
    END IF;
    IF kind IN ('s:', 'e:') THEN
        SELECT max(sequence) INTO stop FROM ds_broadcaster_event
        WHERE key = newest.key AND replaces IS NULL AND verb = '';
    ELSIF kind = 'c:' THEN
        SELECT sequence INTO stop FROM ds_broadcaster_event
        WHERE key = newest.key AND sequence < newest.sequence AND verb = ''
            AND coalesce(replaces <> newest.replaces AND left(replaces, 2) NOT IN ('s:', 'r:'), true)
        ORDER BY sequence DESC LIMIT 1;
    END IF;
    DELETE FROM ds_broadcaster_event WHERE id IN (
        SELECT id FROM ds_broadcaster_event
        WHERE key = newest.key AND replaces = newest.replaces AND verb = ''
            AND sequence < newest.sequence AND sequence > coalesce(stop, 0)
            AND (newest.excluded = '' OR newest.excluded = excluded)
        FOR UPDATE SKIP LOCKED
    );
END;
$$;

-- Beside the one with fewer arguments, which processes of an earlier version call.
CREATE FUNCTION ds_broadcaster_publish(
    key bytea, channel bytea, verb text, payload bytea, replaces text, excluded text, is_refresh boolean
) RETURNS bigint LANGUAGE plpgsql SET lock_timeout = '1500ms' AS $$
DECLARE
    newest ds_broadcaster_event;
BEGIN
    PERFORM pg_advisory_xact_lock({initial.PUBLISH_LOCK});
    PERFORM ds_broadcaster_begin();
    INSERT INTO ds_broadcaster_event (sequence, key, channel, verb, payload, created, replaces, excluded, is_refresh)
    VALUES (
        nextval('ds_broadcaster_sequence'), key, channel, verb, payload, clock_timestamp(),
        replaces, excluded, is_refresh
    ) RETURNING * INTO newest;
    PERFORM ds_broadcaster_compact(newest);
    PERFORM pg_notify('ds_broadcaster', 'e' || encode(key, 'hex'));
    RETURN newest.sequence;
END;
$$;

CREATE OR REPLACE FUNCTION ds_broadcaster_number() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    newest ds_broadcaster_event;
BEGIN
    IF TG_OP = 'INSERT' OR NEW.created <> statement_timestamp() THEN
        SET CONSTRAINTS ds_broadcaster_number DEFERRED;
        UPDATE ds_broadcaster_event SET created = statement_timestamp() WHERE id = NEW.id;
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock({initial.PUBLISH_LOCK});
    PERFORM ds_broadcaster_begin();
    UPDATE ds_broadcaster_event
    SET sequence = nextval('ds_broadcaster_sequence'), created = clock_timestamp()
    WHERE id = NEW.id RETURNING * INTO newest;
    PERFORM ds_broadcaster_compact(newest);
    PERFORM pg_notify('ds_broadcaster', 'e' || encode(NEW.key, 'hex'));
    RETURN NULL;
END;
$$;

CREATE INDEX ds_broadcaster_event_whole ON ds_broadcaster_event (key, replaces, sequence) WHERE verb = '';
CREATE INDEX ds_broadcaster_event_refresh ON ds_broadcaster_event (key, sequence) WHERE is_refresh;
"""

BACKWARDS = f"""
{number_at_commit.NUMBER}
DROP INDEX ds_broadcaster_event_whole;
DROP INDEX ds_broadcaster_event_refresh;
DROP FUNCTION ds_broadcaster_publish(bytea, bytea, text, bytea, text, text, boolean);
DROP FUNCTION ds_broadcaster_compact(ds_broadcaster_event);
"""


class Migration(migrations.Migration):
    dependencies = (("ds_broadcaster_postgres", "0003_presence"),)
    operations = (
        migrations.AddField("event", "replaces", models.TextField(null=True)),
        migrations.AddField("event", "excluded", models.TextField(db_default="")),
        migrations.AddField("event", "is_refresh", models.BooleanField(db_default=False)),
        initial.PostgresSQL(
            FORWARDS,
            BACKWARDS,
        ),
    )
