"""What the PostgreSQL broker keeps. Only brokers.postgres reads and writes it, in SQL of its own."""

from django.db import models


class Event(models.Model):
    """Something published: an event, or with a `verb` a command.

    It has no `sequence` until its transaction commits: see the trigger in the first migration. `key` stands for the
    channel's name, which may be too long for an index.
    """

    id = models.BigAutoField(primary_key=True)
    sequence = models.BigIntegerField(null=True, unique=True)
    key = models.BinaryField()
    channel = models.BinaryField()
    verb = models.CharField(max_length=10)
    payload = models.BinaryField()
    created = models.DateTimeField()

    class Meta:
        db_table = "ds_broadcaster_event"
        indexes = (models.Index(fields=["key", "sequence"], name="ds_broadcaster_event_key"),)


class Floor(models.Model):
    """A channel some of whose events are gone: those up to `sequence`, since then."""

    key = models.BinaryField(primary_key=True)
    sequence = models.BigIntegerField()
    since = models.DateTimeField()

    class Meta:
        db_table = "ds_broadcaster_floor"


class State(models.Model):
    """The one row that tells one life of the sequence from the next.

    `trimmed` is the newest sequence that is gone, and `forgotten` the floor of channels that have none.
    """

    id = models.SmallIntegerField(primary_key=True)
    epoch = models.CharField(max_length=16)
    trimmed = models.BigIntegerField()
    forgotten = models.BigIntegerField()

    class Meta:
        db_table = "ds_broadcaster_state"


class Process(models.Model):
    """A process that serves streams, and when its lease ends."""

    name = models.TextField(primary_key=True)
    ends = models.DateTimeField()

    class Meta:
        db_table = "ds_broadcaster_process"


class Holding(models.Model):
    """The connections that a user has on a channel of a process; with an empty `who`, all of the channel's."""

    id = models.BigAutoField(primary_key=True)
    process = models.TextField()
    key = models.BinaryField()
    channel = models.BinaryField()
    who = models.TextField()
    connections = models.IntegerField()

    class Meta:
        db_table = "ds_broadcaster_holding"
        constraints = (models.UniqueConstraint(fields=["process", "key", "who"], name="ds_broadcaster_holding_once"),)
        indexes = (models.Index(fields=["key", "who"], name="ds_broadcaster_holding_key"),)
