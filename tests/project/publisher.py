"""A process that serves nothing and only sends: `python -m tests.project.publisher CHANNEL COUNT RATE`.

It sends the numbers from 0 to COUNT - 1 to CHANNEL-0 .. CHANNEL-9 in turn, RATE of them a second, and prints each with
what came of it: "sent", or "unsure" where the broker was away and the number may have arrived all the same.
"""

import sys
import time

import django

CHANNELS = 10


def main(channel: str, count: int, rate: float) -> None:
    from django.db import close_old_connections

    from ds_broadcaster import BrokerUnavailable, broadcast

    due = time.monotonic()
    for number in range(count):
        due += 1 / rate
        time.sleep(max(0, due - time.monotonic()))
        try:
            broadcast(f"{channel}-{number % CHANNELS}", f'<li id="item-{number}">{number}</li>', "#log", "append")
        except BrokerUnavailable:
            print("unsure", number, flush=True)
            # As a job's runner does between two jobs.
            close_old_connections()
        else:
            print("sent", number, flush=True)


if __name__ == "__main__":
    django.setup()
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
