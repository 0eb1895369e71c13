"""Asking Redis: the keys, and scripts that each run there in one step. Any thread may ask; no event loop is needed."""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import redis
from django.core.exceptions import ImproperlyConfigured

from ...exceptions import BrokerUnavailable
from ...ids import new_epoch
from ..base import COMMANDS_KEPT, Command
from ..network import MalformedLog
from . import scripts
from .messages import unpack_kept_command
from .scripts import Script
from .topology import Topology, asking

# Milliseconds that replicas may take to confirm an event: less than the server has for its answer.
REPLICAS_WAIT = 600


# Of errors of scripts whose keys hold what no script writes.
SPOILED = ("WRONGTYPE", "not an integer", "attempt to", "data string too short")
# Seconds between two deletions of such keys: if they are spoiled again and again, there is no use in it.
MEND_INTERVAL = 60

logger = logging.getLogger("ds_broadcaster")


class KeptCommand(NamedTuple):
    """A command, its epoch and sequence there, and its age in seconds."""

    epoch: str
    sequence: int
    age: float
    channel: str
    command: Command


class KeptCommands(NamedTuple):
    """The epoch and the newest sequence of now, and commands, the oldest first."""

    epoch: str
    newest: int
    entries: list[KeptCommand]


class Session:
    """One Redis under one prefix; `location` and `options` are the broker's.

    `on_epoch` is called with the epoch in each script's answer. Raises ImproperlyConfigured for wrong options.
    """

    def __init__(
        self, location: str | Sequence[str], options: Mapping[str, Any], on_epoch: Callable[[str], object]
    ) -> None:
        rest = {name: value for name, value in options.items() if name != "lease"}
        prefix = rest.pop("prefix", "ds_broadcaster")
        if not isinstance(prefix, str) or not prefix or "}" in prefix:
            raise ImproperlyConfigured(
                "DS_BROADCASTER_BROKER['OPTIONS']['prefix'] must be a name such as \"myproject\", without braces."
            )
        # Braces keep all keys in one slot of a cluster.
        self.prefix = f"{{{prefix}}}"
        self._replicas = rest.pop("replicas", 0)
        sentinel, cluster = rest.pop("sentinel", None), rest.pop("cluster", False)
        if cluster and self._replicas:
            raise ImproperlyConfigured(
                "DS_BROADCASTER_BROKER['OPTIONS'] must not have replicas for a cluster: waiting for replicas works "
                "with a single server or with sentinels only. For a cluster, Redis' own min-replicas-to-write makes a "
                "node refuse what too few replicas would get."
            )
        self._state = [self.key_of(name) for name in ("state", "channels", "times")]
        # A fresh one each time: a server that loses its memory twice must not return to an earlier epoch.
        self._epochs = map(f"{new_epoch()}{{}}".format, itertools.count())
        self.topology = Topology(location, self._state[0], sentinel=sentinel, cluster=cluster, options=rest)
        self._on_epoch = on_epoch
        self.malformed = MalformedLog("Redis")
        self._mended_at = -math.inf

    def key_of(self, name: str) -> str:
        """Return the key that scripts.py describes as `{p}:<name>`."""
        return f"{self.prefix}:{name}"

    def topic_of(self, name: bytes) -> bytes:
        """Return the topic that a process subscribes to for a channel."""
        # A published message reaches all databases of a server, so the topic carries the database's number.
        return b"%b:%d:c:%b" % (self.prefix.encode(), self.topology.database, name)

    def run(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any], client: Any = None) -> Any:
        """Run a script and return its answer, which begins with the epoch. Raises BrokerUnavailable."""
        count = len(self._state) + len(keys)
        arguments = [*self._state, *keys, next(self._epochs), *arguments]
        with asking:
            ask = client.execute_command if client is not None else self.topology.ask
            try:
                answer = _evaluated(ask, script, count, arguments)
            except redis.ResponseError as error:
                if not self._may_mend(error):
                    raise
                logger.error("Another program has written to keys of %s: %s They are deleted.", self.prefix, error)
                ask("DEL", *arguments[:count])
                answer = _evaluated(ask, script, count, arguments)
        self._on_epoch(answer[0].decode())
        return answer

    async def arun(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """See run()."""
        every = [*self._state, *keys, next(self._epochs), *arguments]
        with asking:
            try:
                answer = await self.topology.aask("EVALSHA", script.sha, len(self._state) + len(keys), *every)
            except redis.ResponseError:  # The server does not know the script, or its keys are spoiled.
                return await asyncio.to_thread(self.run, script, keys, arguments)
        self._on_epoch(answer[0].decode())
        return answer

    def _may_mend(self, error: redis.ResponseError) -> bool:
        """Tell whether the keys of a script are spoiled, and this process has not deleted any for a while."""
        now = time.monotonic()
        if not any(each in str(error) for each in SPOILED) or now < self._mended_at + MEND_INTERVAL:
            return False
        self._mended_at = now
        return True

    def write(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """Run a script, and wait until enough replicas have its writes. See run()."""
        if not self._replicas:
            return self.run(script, keys, arguments)
        with asking, self.topology.client.client() as client:
            # On one connection: WAIT is about the writes of its own.
            answer = self.run(script, keys, arguments, client)
            confirmed = client.wait(self._replicas, REPLICAS_WAIT)
        if confirmed < self._replicas:
            raise BrokerUnavailable(
                f"Redis has the event, but only {confirmed} of {self._replicas} replicas do: it may be lost when "
                "another server takes over."
            )
        return answer

    async def awrite(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """See write()."""
        if self._replicas:
            return await asyncio.to_thread(self.write, script, keys, arguments)
        return await self.arun(script, keys, arguments)

    def commands(self, seconds: float = COMMANDS_KEPT) -> KeptCommands:
        """Return the commands of the last `seconds`. Raises BrokerUnavailable."""
        return self._kept_commands(self.run(*self._command_question(seconds)))

    async def acommands(self, seconds: float = COMMANDS_KEPT) -> KeptCommands:
        """See commands()."""
        return self._kept_commands(await self.arun(*self._command_question(seconds)))

    def _command_question(self, seconds: float) -> tuple[Script, list[str], list[int]]:
        return scripts.COMMANDS, [self.key_of("commands")], [milliseconds(min(seconds, COMMANDS_KEPT))]

    def _kept_commands(self, answer: Sequence[Any]) -> KeptCommands:
        epoch, newest, now, kept = answer
        entries = []
        for entry, given in zip(kept[::2], kept[1::2], strict=True):
            age = (now - float(given)) / 1000
            try:
                its_epoch, sequence, channel, command = unpack_kept_command(entry)
            except ValueError as error:
                self.malformed.note("", error)
                continue
            entries.append(KeptCommand(its_epoch, sequence, age, channel, command))
        entries.sort(key=lambda each: (-each.age, each.sequence))
        return KeptCommands(epoch.decode(), newest, entries)

    def close(self) -> None:
        """Close the connections."""
        self.topology.close()


def _evaluated(ask: Callable[..., Any], script: Script, count: int, arguments: Sequence[Any]) -> Any:
    try:
        return ask("EVALSHA", script.sha, count, *arguments)
    except redis.exceptions.NoScriptError:
        keys, epoch, rest = arguments[:count], arguments[count], arguments[count + 1 :]
        return ask("EVAL", script.text, count, *keys, f"!{epoch}", *rest)


def milliseconds(seconds: float) -> int:
    """Return the time as scripts take it."""
    return int(seconds * 1000)
