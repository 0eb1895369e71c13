"""Events are numbered at the commit, even when the project checks its constraints earlier."""

from importlib import import_module

from django.db import migrations

initial = import_module(f"{__package__}.0001_initial")

# `SET CONSTRAINTS ALL IMMEDIATE`, which Django's check_constraints() executes, runs what was deferred to the commit. An
# event numbered then would hold the publishers' lock until the commit. A trigger cannot tell which of the two it
# serves, so its first run leaves the event to a second one, deferred again. A commit runs that one too, in the same
# statement, after all other deferred triggers; after a check it waits, and is the first run of a later statement.
#
# After all others, because deferred foreign keys lock rows: with the publishers' lock in hand, that would deadlock with
# a transaction that waits for it.
NUMBER = f"""
CREATE OR REPLACE FUNCTION ds_broadcaster_number() RETURNS trigger LANGUAGE plpgsql AS $$
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
    WHERE id = NEW.id;
    PERFORM pg_notify('ds_broadcaster', 'e' || encode(NEW.key, 'hex'));
    RETURN NULL;
END;
$$;
"""

FORWARDS = f"""
DROP TRIGGER ds_broadcaster_number ON ds_broadcaster_event;
DROP TRIGGER ds_broadcaster_defer ON ds_broadcaster_event;
DROP FUNCTION ds_broadcaster_defer();

{NUMBER}
CREATE CONSTRAINT TRIGGER ds_broadcaster_number AFTER INSERT OR UPDATE ON ds_broadcaster_event
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.sequence IS NULL)
EXECUTE FUNCTION ds_broadcaster_number();
"""

BACKWARDS = f"""
DROP TRIGGER ds_broadcaster_number ON ds_broadcaster_event;
DROP FUNCTION ds_broadcaster_number();
{initial.NUMBER_AT_COMMIT}
"""


class Migration(migrations.Migration):
    dependencies = (("ds_broadcaster_postgres", "0001_initial"),)
    operations = (initial.PostgresSQL(FORWARDS, BACKWARDS),)
