"""What the guide says about serving a project while it is written."""

import pytest

from tests.harness import Server
from tests.live import begun, until
from tests.settings import INSTALLED_APPS, TEMPLATES

STYLE = "/static/admin/css/base.css"


@pytest.fixture
def templates(tmp_path):
    """A folder of templates, with the settings of a project that is being written."""
    folder = {**TEMPLATES[0], "DIRS": [str(tmp_path)]}
    (tmp_path / "edited.html").write_text("before")
    return tmp_path, {"DEBUG": True, "ROOT_URLCONF": "tests.project.tag_site", "TEMPLATES": [folder]}


def page(server):
    return server.get("/tags/?source={%25%20include%20%27edited.html%27%20%25}").text


@pytest.mark.slow
def test_runserver_of_daphne_serves_streams_static_files_and_edited_templates(start_server, templates, channel):
    folder, settings = templates
    settings |= {
        "INSTALLED_APPS": ["daphne", *INSTALLED_APPS],
        "ASGI_APPLICATION": "tests.project.asgi_handoff.application",
    }
    server = start_server("runserver", settings=settings)
    client = server.connect(channel)
    begun(client)
    server.call("elements", channel, '<div id="target">hello</div>')
    client.expect("hello")
    assert server.get(STYLE).status == 200
    assert "before" in page(server)
    edited = folder / "edited.html"
    edited.write_text("after")
    # The reloader may look at the folder for the first time after this edit, and would not know it for one.
    until(lambda: edited.touch() or "after" in page(server), 40)
    assert client.end is None
    assert "plain mode" not in server.log()


def test_uvicorn_serves_static_files_with_djangos_handler_around_the_application(start_server, templates, channel):
    _, settings = templates
    server: Server = start_server(app="tests.project.asgi_static:application", settings=settings)
    client = server.connect(channel)
    begun(client)
    server.call("elements", channel, '<div id="target">hello</div>')
    client.expect("hello")
    assert server.get(STYLE).status == 200
    assert "plain mode" not in server.log()
