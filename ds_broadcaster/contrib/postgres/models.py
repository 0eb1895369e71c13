"""The tables of the PostgreSQL broker. Only brokers.postgres reads and writes them, in its own SQL."""

from django.db import models


class Event(models.Model):
    """A published event; with a `verb`, a command or a transient event.

    Its `sequence` is assigned at commit, by a trigger of the migrations. `key` stands for the channel's name,
    which may be too long for an index.
    """

    id = models.BigAutoField(primary_key=True)
    sequence = models.BigIntegerField(null=True, unique=True)
    key = models.BinaryField()
    channel = models.BinaryField()
    verb = models.CharField(max_length=10)
    payload = models.BinaryField()
    created = models.DateTimeField()
    # Facts of the event: see compaction.py.
    replaces = models.TextField(null=True)  # noqa: DJ001
    excluded = models.TextField(db_default="")
    is_refresh = models.BooleanField(db_default=False)

    class Meta:
        db_table = "ds_broadcaster_event"
        indexes = (models.Index(fields=["key", "sequence"], name="ds_broadcaster_event_key"),)


class Floor(models.Model):
    """A channel without its events up to `sequence`, which are gone since then."""

    key = models.BinaryField(primary_key=True)
    sequence = models.BigIntegerField()
    since = models.DateTimeField()

    class Meta:
        db_table = "ds_broadcaster_floor"


class State(models.Model):
    """The one row that tells one life of the sequence from the next.

    `trimmed` is the newest deleted sequence, `forgotten` the floor of channels that have no row of their own.
    """

    id = models.SmallIntegerField(primary_key=True)
    epoch = models.CharField(max_length=16)
    trimmed = models.BigIntegerField()
    forgotten = models.BigIntegerField()

    class Meta:
        db_table = "ds_broadcaster_state"


class Process(models.Model):
    """A process that serves streams, and the end of its lease."""

    name = models.TextField(primary_key=True)
    ends = models.DateTimeField()

    class Meta:
        db_table = "ds_broadcaster_process"


class Holding(models.Model):
    """A user's connections on a channel of a process; with an empty `who`, all of the channel's.

    `since` is when the user joined, in seconds since 1970; `tabs` has the user's tabs and metadata there.
    """

    id = models.BigAutoField(primary_key=True)
    process = models.TextField()
    key = models.BinaryField()
    channel = models.BinaryField()
    who = models.TextField()
    connections = models.IntegerField()
    since = models.FloatField(db_default=0.0)
    is_away = models.BooleanField(db_default=False)
    tabs = models.TextField(db_default="")

    class Meta:
        db_table = "ds_broadcaster_holding"
        constraints = (models.UniqueConstraint(fields=["process", "key", "who"], name="ds_broadcaster_holding_once"),)
        indexes = (models.Index(fields=["key", "who"], name="ds_broadcaster_holding_key"),)
