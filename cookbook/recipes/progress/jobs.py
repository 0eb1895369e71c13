"""The work. Here it runs in a thread; a task queue's worker calls `broadcast` in the same way."""

import hashlib
import time
from threading import Thread

from django.db import connection

from ds_broadcaster import broadcast

from .models import Job


def start(pk):
    Thread(target=run_in_thread, args=[pk], daemon=True).start()


def run_in_thread(pk):
    try:
        run(pk)
    finally:
        connection.close()  # Django closes connections of requests, not of threads


# section: run
def run(pk):
    job = Job.objects.get(pk=pk)
    digest = b""
    for done in range(1, job.total + 1):
        digest = work(digest)
        job.done = done
        job.save(update_fields=["done"])
        broadcast.signals(job, job.signals)
    job.result = f"The answer is {digest.hex()[:12]}."
    job.save(update_fields=["result"])
    broadcast.template(job, "progress/_result.html", {"job": job})


# end: run


def work(digest):
    """Simulate a slow part of a job, such as an HTTP request or a page of a report."""
    time.sleep(0.1)
    return hashlib.sha256(digest + b"something slow").digest()
