"""What is kept of a stream's request says the same as the request did, and to no one else."""

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_broadcaster.streams.packed_requests import PackedRequest, RequestPacker
from ds_broadcaster.streams.replayed_requests import OriginalRequest
from tests.fakes import FACTOR

names = st.sampled_from([b"host", b"accept", b"cookie", b"user-agent", b"x-one", b"X-Two"])
values = st.binary(max_size=8).map(lambda value: value.replace(b"\r", b""))  # Some with what separates them.
texts = st.text(max_size=6)

scopes = st.fixed_dictionaries(
    {
        "type": st.just("http"),
        "asgi": st.sampled_from([{"version": "3.0"}, {"version": "3.0", "spec_version": "2.3"}]),
        "method": st.sampled_from(["GET", "POST"]),
        "server": st.sampled_from([("127.0.0.1", 80), ("127.0.0.1", 81), ("/socket", None), None]),
        "client": st.none() | st.tuples(texts, st.integers(0, 65535)),
        "path": texts,
        "raw_path": st.sampled_from([b"/a", b"/b%20", b""]),
        "query_string": values,
        "headers": st.lists(st.tuples(names, values), max_size=5),
        "state": st.sampled_from([{}, {"pool": 1}, {"pool": True}]),
    },
    optional={"extensions": st.just({}), "user": st.builds(object)},
)


async def application(scope, receive, send):
    raise AssertionError


@settings(max_examples=50 * FACTOR)
@given(st.lists(scopes, max_size=5))
def test_each_request_comes_out_as_it_went_in(scopes):
    packer = RequestPacker(application)
    kept = [packer.pack(scope) for scope in scopes]
    for request, scope in zip(kept, scopes, strict=True):
        assert request.application is application
        assert request.context is None
        assert request.scope == scope
        assert repr(request.scope["state"]) == repr(scope["state"])  # 1 and True are equal.


def make_scope(**changes):
    return {
        "type": "http",
        "client": ("127.0.0.1", 1),
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=1",
        "headers": [(b"host", b"a"), (b"cookie", b"sessionid=1"), (b"accept", b"text/event-stream")],
        "state": {},
        **changes,
    }


def test_what_requests_have_in_common_is_kept_once_and_for_as_long_as_they_are():
    packer = RequestPacker(application)
    requests = [packer.pack(make_scope(headers=[(b"host", b"a"), (b"cookie", b"%d" % number)])) for number in range(9)]
    assert all(type(request) is PackedRequest for request in requests)
    assert len({id(request._common) for request in requests}) == len(packer._known) == 1
    assert [dict(request.scope["headers"])[b"cookie"] for request in requests] == [
        b"%d" % number for number in range(9)
    ]
    requests.clear()
    gc.collect()
    assert not packer._known


def test_what_a_view_changes_in_its_scope_reaches_no_other_request():
    packer = RequestPacker(application)
    state = {}
    first, second = packer.pack(make_scope(state=state)), packer.pack(make_scope())
    state["user"] = "ann"
    first.scope["state"]["user"] = "ann"
    assert first.scope["state"] == second.scope["state"] == {}


def test_values_of_one_request_are_not_those_of_another():
    packer = RequestPacker(application)
    first, second = (packer.pack(make_scope(user=[number])) for number in range(2))
    assert (first.scope["user"], second.scope["user"]) == ([0], [1])
    first, second = (packer.pack(make_scope(state={"cache": {}})) for _ in range(2))
    assert first.scope["state"]["cache"] is not second.scope["state"]["cache"]


@pytest.mark.parametrize(
    "key, value, other",
    [
        ("server", ("127.0.0.1", 80), ("127.0.0.1", 81)),
        ("state", {"pool": 1}, {"pool": 2}),
        ("asgi", {"version": "3.0"}, {"version": "3.0", "spec_version": "2.3"}),
        ("scheme", "http", "https"),
        ("root_path", "", "/app"),
    ],
)
def test_requests_that_differ_have_nothing_of_each_other(key, value, other):
    packer = RequestPacker(application)
    requests = [packer.pack(make_scope(**{key: each})) for each in (value, other)]
    assert [type(each) for each in requests] == [PackedRequest] * 2
    assert [each.scope[key] for each in requests] == [value, other]


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": [(b"cookie", b"a\nb")]},
        {"path": "", "raw_path": b"/a"},
        {"path": "/\ud800"},
        {"client": ("127.0.0.1", 1, 0, 0)},
    ],
)
def test_request_that_does_not_pack_is_kept_as_it_is(changes):
    scope = make_scope(**changes)
    request = RequestPacker(application).pack(scope)
    assert type(request) is OriginalRequest
    assert request.scope is scope
