"""What a hub tells the others of itself, and when."""

import asyncio
from types import SimpleNamespace

from ds_broadcaster.brokers import PresenceDiff
from ds_broadcaster.hub.presence_sync import ON_THEIR_WAY, PresenceSync


def test_last_word_is_told_though_something_else_is_being_told():
    """Who left last would be a ghost for a whole lease otherwise."""

    async def test():
        told = []
        is_telling = asyncio.Event()

        async def sync(hub, changes, lease):
            told.append((lease, {each.user for each in changes}))
            is_telling.set()
            await asyncio.sleep(0.1)
            return PresenceDiff([], [])

        hub = SimpleNamespace(
            loop=asyncio.get_running_loop(),
            known={},
            broker=SimpleNamespace(lease=15, sync=sync),
            settings=SimpleNamespace(presence_grace=2),
        )
        sharing = PresenceSync(hub)
        sharing.changed("a", 1)
        await is_telling.wait()
        sharing.changed("a", 2)
        await sharing.close()
        assert told == [(15, {None, 1}), (ON_THEIR_WAY + 2, {None, 2})]

    asyncio.run(test())
