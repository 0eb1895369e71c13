"""The fixture `page` as pytest-playwright has it, with the harness's browser and its copy of the client; a plugin."""

import pytest
from playwright.sync_api import sync_playwright

from tests.harness.browser import FLAGS
from tests.harness.requirements import require_chromium
from tests.harness.server import ROOT


@pytest.fixture
def page(settings):
    settings.STATICFILES_DIRS = [ROOT / "cookbook" / "client"]
    settings.DS_BROADCASTER_DATASTAR_STATIC = "datastar.js"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_chromium(), args=FLAGS)
        yield browser.new_page()
        browser.close()
