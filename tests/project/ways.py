"""A process that serves nothing and sends in every way there is: `python -m tests.project.ways CHANNEL`."""

import asyncio
import os
import sys
import threading

import django


def main(channel: str) -> None:
    from django.db import connections

    from ds_broadcaster import broadcast

    def send(word: str) -> None:
        broadcast(channel, f"<p id={word}>")

    def in_thread(number: int) -> None:
        send(f"thread-{number}")
        connections.close_all()

    send("plain")
    threads = [threading.Thread(target=in_thread, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # As a job's runner does before it forks: a database connection has one owner.
    connections.close_all()
    children = []
    for number in range(2):
        if (pid := os.fork()) == 0:
            send(f"fork-{number}")
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    send("after-forks")
    for number in range(2):
        # Two loops, one after the other: nothing may stay tied to the first.
        asyncio.run(broadcast.aelements(channel, f"<p id=loop-{number}>"))
    send("end")


if __name__ == "__main__":
    django.setup()
    main(sys.argv[1])
