"""The project around the recipes' tests: `python -m pytest cookbook/recipes`."""

import pytest
import serve


def pytest_configure():
    serve.configure(serve.all_recipes(), ":memory:")


@pytest.fixture(autouse=True)
def _recipe(request):
    serve.serve_only(request.path.parent.name)


@pytest.fixture
def people(db):
    return serve.make_people()


@pytest.fixture
def ada(people):
    return people["ada"]


@pytest.fixture
def mio(people):
    return people["mio"]


@pytest.fixture
def luis(people):
    return people["luis"]
