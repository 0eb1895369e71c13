import pytest

from ds_broadcaster.testing import assert_may_listen, assert_refused

from . import jobs
from .views import JobChannel


@pytest.fixture(autouse=True)
def _quick_work(monkeypatch):
    """Work without its pauses, and within the request or call that begins it."""
    monkeypatch.setattr(jobs, "work", lambda digest: b"\x42" * 6)
    monkeypatch.setattr(jobs, "start", jobs.run)


@pytest.fixture
def job(ada):
    return ada.jobs.create(total=4)


def test_job_shows_its_progress_on_each_page_of_its_owner(live_page, broadcasts, ada, job):
    page, other = live_page(f"/jobs/{job.pk}/", user=ada), live_page(f"/jobs/{job.pk}/", user=ada)
    assert page.signals["percent"] == 0
    jobs.run(job.pk)
    steps = broadcasts.assert_sent(job, verb="signals")
    assert [sent.signals["percent"] for sent in steps] == [25, 50, 75, 100]
    for each in (page, other):
        each.settle()
        assert each.signals["percent"] == 100
        assert each.select_one("#result").text == "The answer is 424242424242."


def test_button_begins_a_job(live_page, ada):
    live_page("/", user=ada).post("/start/")
    [done] = ada.jobs.all()
    assert live_page(f"/jobs/{done.pk}/", user=ada).signals["percent"] == 100


def test_page_of_before_a_restart_gets_the_state_of_the_job(open_stream, ada, job):
    jobs.run(job.pk)
    stream = open_stream(JobChannel, pk=job.pk, user=ada, cursor="of-before-1")
    stream.next(target="#result", contains="The answer is")
    stream.next(signals={"percent": 100})


def test_job_is_its_owners(client, ada, mio, job):
    assert_may_listen(ada, JobChannel, pk=job.pk)
    assert_refused(mio, JobChannel, pk=job.pk)
    client.force_login(mio)
    assert client.get(f"/jobs/{job.pk}/").status_code == 404
