"""The test project served with the wrapper: streams leave Django's request cycle."""

import os

from ds_broadcaster.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

application = get_asgi_application()
