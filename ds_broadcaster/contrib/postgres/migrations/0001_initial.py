"""The tables, and the functions that number all events in one sequence."""

from typing import Any

from django.db import migrations, models

# An advisory lock is a number that the users of a database agree on.
PUBLISH_LOCK = 0x64735F62_01

NUMBER_AT_COMMIT = f"""
CREATE FUNCTION ds_broadcaster_number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock({PUBLISH_LOCK});
    PERFORM ds_broadcaster_begin();
    UPDATE ds_broadcaster_event
    SET sequence = nextval('ds_broadcaster_sequence'), created = clock_timestamp()
    WHERE id = NEW.id;
    PERFORM pg_notify('ds_broadcaster', 'e' || encode(NEW.key, 'hex'));
    RETURN NULL;
END;
$$;

-- Deferred foreign keys lock rows at the end of a transaction. With the lock above in hand, that would deadlock with a
-- transaction that waits for it. What one deferred trigger leaves to another runs after all others.
CREATE FUNCTION ds_broadcaster_defer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ds_broadcaster_event SET created = clock_timestamp() WHERE id = NEW.id;
    RETURN NULL;
END;
$$;

CREATE CONSTRAINT TRIGGER ds_broadcaster_defer AFTER INSERT ON ds_broadcaster_event
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.sequence IS NULL)
EXECUTE FUNCTION ds_broadcaster_defer();

CREATE CONSTRAINT TRIGGER ds_broadcaster_number AFTER UPDATE ON ds_broadcaster_event
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.sequence IS NULL)
EXECUTE FUNCTION ds_broadcaster_number();
"""

# Sequences commit out of order: a reader of 11 that does not see 10 yet would never see it. So an event is numbered
# when its transaction commits, under a lock held until then. PostgreSQL serializes commits that notify anyway.
FORWARDS = f"""
CREATE SEQUENCE ds_broadcaster_sequence;

-- An emptied database begins a new epoch: cursors of the old one are gaps.
CREATE FUNCTION ds_broadcaster_begin() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ds_broadcaster_state) THEN
        INSERT INTO ds_broadcaster_state (id, epoch, trimmed, forgotten)
        SELECT 1, left(md5(random()::text || clock_timestamp()), 10), given, given
        FROM (SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS given FROM ds_broadcaster_sequence) counter
        ON CONFLICT DO NOTHING;
    END IF;
END;
$$;

CREATE FUNCTION ds_broadcaster_publish(key bytea, channel bytea, verb text, payload bytea) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '1500ms' AS $$
DECLARE
    given bigint;
BEGIN
    PERFORM pg_advisory_xact_lock({PUBLISH_LOCK});
    PERFORM ds_broadcaster_begin();
    given := nextval('ds_broadcaster_sequence');
    INSERT INTO ds_broadcaster_event (sequence, key, channel, verb, payload, created)
    VALUES (given, key, channel, verb, payload, clock_timestamp());
    PERFORM pg_notify('ds_broadcaster', 'e' || encode(key, 'hex'));
    RETURN given;
END;
$$;

{NUMBER_AT_COMMIT}
-- Presence is worth nothing after a crash of the server.
ALTER TABLE ds_broadcaster_process SET UNLOGGED;
ALTER TABLE ds_broadcaster_holding SET UNLOGGED;

-- Now: the first query would do it in a transaction of its own, and all others would wait for its end.
SELECT ds_broadcaster_begin();
"""

BACKWARDS = """
DROP TRIGGER ds_broadcaster_number ON ds_broadcaster_event;
DROP TRIGGER ds_broadcaster_defer ON ds_broadcaster_event;
DROP FUNCTION ds_broadcaster_number();
DROP FUNCTION ds_broadcaster_defer();
DROP FUNCTION ds_broadcaster_publish(bytea, bytea, text, bytea);
DROP FUNCTION ds_broadcaster_begin();
DROP SEQUENCE ds_broadcaster_sequence;
"""


class PostgresSQL(migrations.RunSQL):
    """SQL for PostgreSQL. Other databases of the project get the tables alone, and never use them."""

    def database_forwards(self, app_label: str, schema_editor: Any, *states: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, *states)

    def database_backwards(self, app_label: str, schema_editor: Any, *states: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, *states)


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Event",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("sequence", models.BigIntegerField(null=True, unique=True)),
                ("key", models.BinaryField()),
                ("channel", models.BinaryField()),
                ("verb", models.CharField(max_length=10)),
                ("payload", models.BinaryField()),
                ("created", models.DateTimeField()),
            ],
            options={
                "db_table": "ds_broadcaster_event",
                "indexes": [models.Index(fields=["key", "sequence"], name="ds_broadcaster_event_key")],
            },
        ),
        migrations.CreateModel(
            name="Floor",
            fields=[
                ("key", models.BinaryField(primary_key=True, serialize=False)),
                ("sequence", models.BigIntegerField()),
                ("since", models.DateTimeField()),
            ],
            options={"db_table": "ds_broadcaster_floor"},
        ),
        migrations.CreateModel(
            name="State",
            fields=[
                ("id", models.SmallIntegerField(primary_key=True, serialize=False)),
                ("epoch", models.CharField(max_length=16)),
                ("trimmed", models.BigIntegerField()),
                ("forgotten", models.BigIntegerField()),
            ],
            options={"db_table": "ds_broadcaster_state"},
        ),
        migrations.CreateModel(
            name="Process",
            fields=[
                ("name", models.TextField(primary_key=True, serialize=False)),
                ("ends", models.DateTimeField()),
            ],
            options={"db_table": "ds_broadcaster_process"},
        ),
        migrations.CreateModel(
            name="Holding",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("process", models.TextField()),
                ("key", models.BinaryField()),
                ("channel", models.BinaryField()),
                ("who", models.TextField()),
                ("connections", models.IntegerField()),
            ],
            options={
                "db_table": "ds_broadcaster_holding",
                "constraints": [
                    models.UniqueConstraint(fields=["process", "key", "who"], name="ds_broadcaster_holding_once")
                ],
                "indexes": [models.Index(fields=["key", "who"], name="ds_broadcaster_holding_key")],
            },
        ),
        PostgresSQL(FORWARDS, BACKWARDS),
    )
