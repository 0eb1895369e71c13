"""The tab that a request comes from; to look for it breaks no view."""

import asyncio
import io
import json
import threading
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadhandler import MemoryFileUploadHandler
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, QueryDict
from django.test import RequestFactory, override_settings

from ds_broadcaster.streams.tabs import TAB, current_tab, excluded, serving, tab_of

ID = "1234567890-12-345-abc_XYZ"
SIGNALS = json.dumps({TAB: ID, "other": [1]})

factory = RequestFactory()


def post_json(text, method="post", **headers):
    return getattr(factory, method)("/", text, content_type="application/json", **headers)


def upload(fields=None):
    return factory.post("/", {TAB: ID, "file": io.BytesIO(b"x" * 100)} | (fields or {}))


# Found


@pytest.mark.parametrize("method", ["get", "delete", "head", "options", "post"])
def test_tab_is_in_the_signals_of_the_query(method):
    request = getattr(factory, method)("/", query_params={"datastar": SIGNALS}) if method != "get" else None
    request = request or factory.get("/", {"datastar": SIGNALS})
    assert tab_of(request) == ID


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_tab_is_in_the_signals_of_the_body(method):
    assert tab_of(post_json(SIGNALS, method)) == ID


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_tab_is_in_a_forms_field(method):
    send = getattr(factory, method)
    assert tab_of(send("/", f"{TAB}={ID}", content_type="application/x-www-form-urlencoded")) == ID


def test_tab_is_in_an_uploads_field_once_the_view_or_a_middleware_has_looked_at_it():
    request = upload()
    assert tab_of(request) is None
    assert request.POST[TAB] == ID
    assert tab_of(request) == ID


def test_tab_is_in_an_uploads_field_that_a_framework_has_parsed_for_another_method():
    request = factory.generic("PATCH", "/", b"--x--", content_type="multipart/form-data; boundary=x")
    assert tab_of(request) is None
    request._post = QueryDict(f"{TAB}={ID}")
    assert tab_of(request) == ID


def test_clients_request_is_read_before_a_view_reads_it_as_a_stream():
    request = post_json(SIGNALS, headers={"Datastar-Request": "true"})
    with serving(request):
        assert request.read() == SIGNALS.encode()
        assert current_tab() == ID


def test_a_wrapped_requests_data_tells_the_tab_where_its_body_is_gone():
    request = post_json(SIGNALS)
    wrapped = SimpleNamespace(_request=request, data=json.loads(request.read()))
    assert excluded(wrapped) == ID


def test_asgi_request_has_a_tab_too():
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    assert tab_of(ASGIRequest(scope, io.BytesIO(SIGNALS.encode()))) == ID


def test_tab_is_read_once():
    request = post_json(SIGNALS)
    assert tab_of(request) == ID
    request._body = b"{}"
    assert tab_of(request) == ID


# Not found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "7",
        "9" * 10_000,
        "{}",
        "[" * 200_000,
        json.dumps({TAB: None}),
        json.dumps({TAB: 12345678}),
        json.dumps({TAB: [ID]}),
        json.dumps({TAB: ""}),
        json.dumps({TAB: "short"}),
        json.dumps({TAB: "x" * 65}),
        json.dumps({TAB: ID + "\n"}),
        json.dumps({TAB: "abcd\nefgh: x"}),
        json.dumps({TAB: "\u0661" * 10}),
        json.dumps({"signals": {TAB: ID}}),
        b"\xff\xfe\xff",
        b"\0" * 50,
    ],
)
def test_invalid_id_is_no_tab(text):
    assert tab_of(post_json(text)) is None
    if isinstance(text, str):
        assert tab_of(factory.get("/", {"datastar": text})) is None
        assert tab_of(factory.post("/", {TAB: text}, content_type="text/plain")) is None


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/octet-stream", ""])
def test_other_content_is_left_alone(content_type):
    request = factory.generic("POST", "/", SIGNALS, content_type=content_type)
    assert tab_of(request) is None
    assert request.read() == SIGNALS.encode()


def test_bare_request_has_no_tab():
    assert tab_of(HttpRequest()) is None


# Nothing breaks


@pytest.mark.parametrize("read", [lambda request: request.read(), lambda request: b"".join(request)])
@pytest.mark.parametrize("make", [lambda: post_json(SIGNALS), upload])
def test_view_may_read_the_body_as_a_stream_after_or_before(make, read):
    whole = read(make())
    request = make()
    tab_of(request)
    assert read(request) == whole
    request = make()
    assert read(request) == whole
    tab_of(request)


def test_view_may_read_a_part_and_go_on():
    request = post_json(SIGNALS)
    first = request.read(5)
    assert tab_of(request) is None
    assert first + request.read() == SIGNALS.encode()


def test_view_may_choose_its_upload_handlers_and_then_gets_the_files():
    request = upload()
    tab_of(request)
    request.upload_handlers = [MemoryFileUploadHandler(request)]
    assert request.FILES["file"].read() == b"x" * 100
    assert tab_of(request) == ID


def test_files_are_untouched():
    request = upload()
    assert request.FILES["file"].size == 100
    assert tab_of(request) == ID
    assert request.FILES["file"].read() == b"x" * 100


@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_body_that_is_too_large_is_left_to_the_view(content_type):
    request = factory.post("/", SIGNALS, content_type=content_type)
    assert tab_of(request) is None
    with pytest.raises(RequestDataTooBig):
        _ = request.body
    assert request.read() == SIGNALS.encode()


@override_settings(DATA_UPLOAD_MAX_NUMBER_FIELDS=2)
@pytest.mark.parametrize("method", ["get", "post"])
def test_too_many_fields_are_left_to_the_view(method):
    query = "&".join(f"a{number}=1" for number in range(5))
    request = (
        factory.get(f"/?{query}") if method == "get" else factory.post("/", query, "application/x-www-form-urlencoded")
    )
    assert tab_of(request) is None


def test_form_that_is_not_utf8_is_left_to_the_view():
    request = factory.post("/", f"{TAB}={ID}", content_type="application/x-www-form-urlencoded; charset=latin-1")
    assert tab_of(request) is None


def test_broken_upload_is_left_to_the_view():
    request = factory.post("/", b"nothing", content_type="multipart/form-data")
    assert tab_of(request) is None


def test_closed_request_has_no_tab():
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    body = io.BytesIO(SIGNALS.encode())
    request = ASGIRequest(scope, body)
    request.close()
    body.close()
    assert tab_of(request) is None


def test_client_that_leaves_is_left_to_the_view():
    class Broken(io.RawIOBase):
        def read(self, *args):
            raise OSError("the client left")

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    assert tab_of(ASGIRequest(scope, Broken())) is None


def test_tab_is_looked_for_when_it_is_wanted_and_not_before():
    request = post_json(SIGNALS)
    with serving(request):
        assert not hasattr(request, "_body")
        assert current_tab() == ID


# The request of the moment


def test_current_tab_is_the_requests_while_it_is_served():
    assert current_tab() is None
    with serving(post_json(SIGNALS)):
        assert current_tab() == ID
        with serving(post_json("{}")):
            assert current_tab() is None
        assert current_tab() == ID
    assert current_tab() is None


def test_current_tab_is_forgotten_when_the_view_fails():
    with pytest.raises(RuntimeError), serving(post_json(SIGNALS)):
        raise RuntimeError
    assert current_tab() is None


def test_each_task_and_its_threads_have_their_own():
    async def view(tab):
        with serving(post_json(json.dumps({TAB: tab}))):
            await asyncio.sleep(0)
            return current_tab(), await sync_to_async(current_tab)(), await asyncio.to_thread(current_tab)

    async def all_views():
        return await asyncio.gather(*(view(f"tab-number-{number}") for number in range(5)))

    assert asyncio.run(all_views()) == [(f"tab-number-{number}",) * 3 for number in range(5)]


def test_thread_outside_of_the_request_has_no_tab():
    seen = []
    with serving(post_json(SIGNALS)):
        thread = threading.Thread(target=lambda: seen.append(current_tab()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_excluded_takes_a_request_an_id_or_nothing():
    assert excluded(None) is None
    assert excluded(ID) == ID
    assert excluded(post_json(SIGNALS)) == ID
    assert excluded(post_json("{")) is None
