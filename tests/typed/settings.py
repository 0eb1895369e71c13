"""For mypy's Django plugin, which wants to know the models of this project too."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as TESTED_APPS

INSTALLED_APPS = [*TESTED_APPS, "tests.typed"]
