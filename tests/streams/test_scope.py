"""What the scope of a request tells about its sender."""

import pytest
from django.test import AsyncRequestFactory

from ds_broadcaster.streams.scope import is_of_test_client


def test_request_of_djangos_test_client_is_known():
    assert is_of_test_client(AsyncRequestFactory().get("/").scope)
    assert is_of_test_client(AsyncRequestFactory(SERVER_NAME="example.org").get("/").scope)


@pytest.mark.parametrize(
    "server, client",
    [
        (("127.0.0.1", 8000), ("127.0.0.1", 51234)),  # uvicorn
        (("127.0.0.1", 8000), ("10.1.2.3", 0)),  # uvicorn, which took the address from a proxy
        (("127.0.0.1", "8000"), ("127.0.0.1", 51234)),  # granian
        (("/run/server.sock", None), None),  # a socket of Unix
        (None, None),
    ],
)
def test_request_through_a_server_is_none_of_a_test(server, client):
    assert not is_of_test_client({"server": server, "client": client})
