"""`manage.py broadcaster_client`: the pinned client in a folder of the project, and what is said where it is not."""

import re
import sys
from io import StringIO
from urllib.error import URLError

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.core.management.base import CommandError

from ds_broadcaster.conf import DATASTAR_URL
from ds_broadcaster.management import pinned_client
from ds_broadcaster.management.commands.broadcaster_client import MAP_FILE
from ds_broadcaster.views.connect_element import client_script
from tests.harness.requirements import require_client_bundle

HASHED = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"


def unavailable():
    raise URLError("no network")


@pytest.fixture
def bundle():
    return require_client_bundle().read_bytes()


@pytest.fixture
def sources(monkeypatch, bundle):
    """What each source has: the CDN alone has the client. A source that is not there raises."""
    found = {"installed": unavailable, "download": lambda: bundle, "from_pypi": unavailable}
    for name in found:
        monkeypatch.setattr(pinned_client, name, lambda name=name: found[name]())
    return found


@pytest.fixture
def static(settings, tmp_path):
    """The project's folder of static files."""
    settings.BASE_DIR = tmp_path
    settings.STATICFILES_DIRS = [tmp_path / "static"]
    return tmp_path / "static"


def run(*args):
    out = StringIO()
    call_command("broadcaster_client", *args, stdout=out)
    return out.getvalue()


def test_client_comes_into_the_first_static_folder(sources, static, bundle):
    printed = run()
    assert (static / "datastar.js").read_bytes() == bundle
    assert f"Wrote {static}/datastar.js: the Datastar client v1.0.4, from the CDN." in printed
    assert 'DS_BROADCASTER_DATASTAR_STATIC = "datastar.js"' in printed
    assert "STATICFILES_DIRS" not in printed


def test_second_run_fetches_nothing(sources, settings, static):
    run()
    settings.DS_BROADCASTER_DATASTAR_STATIC = "datastar.js"
    sources["download"] = unavailable
    assert run() == f"{static}/datastar.js is the Datastar client v1.0.4 already.\n"


def test_installed_copy_comes_before_the_cdn_and_the_cdn_before_pypi(sources, static, bundle):
    sources |= {"installed": lambda: bundle, "from_pypi": lambda: bundle}
    assert "from an installed package" in run()
    (static / "datastar.js").unlink()
    sources["installed"] = unavailable
    assert "from the CDN" in run()
    (static / "datastar.js").unlink()
    sources["download"] = unavailable
    assert "from PyPI" in run()


@pytest.mark.parametrize("content", [b"", b"alert(1)"])
def test_file_with_another_hash_is_not_written(sources, static, bundle, content):
    sources |= {
        "installed": lambda: content,
        "download": lambda: bundle + content + b"\n",
        "from_pypi": lambda: content,
    }
    with pytest.raises(CommandError, match="has another file"):
        run()
    assert not static.exists()


def test_without_a_network_it_says_what_to_do(sources, static, bundle):
    sources["download"] = unavailable
    with pytest.raises(CommandError) as caught:
        run()
    assert DATASTAR_URL in str(caught.value)
    assert f"save it as {static}/datastar.js" in str(caught.value)
    static.mkdir()
    (static / "datastar.js").write_bytes(bundle)
    assert "already" in run()


def test_older_client_is_replaced_where_it_is(sources, settings, static, tmp_path, bundle):
    old = tmp_path / "vendored" / "js" / "client.js"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    settings.STATICFILES_DIRS = [static, tmp_path / "vendored"]
    settings.DS_BROADCASTER_DATASTAR_STATIC = "js/client.js"
    assert run().startswith(f"Replaced {old}: ")
    assert old.read_bytes() == bundle


def test_file_of_an_installed_package_is_left_alone(sources, settings, static, tmp_path, bundle):
    theirs = tmp_path / "site-packages" / "datastar.js"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    settings.STATICFILES_DIRS = [static, theirs.parent]
    settings.DS_BROADCASTER_DATASTAR_STATIC = "datastar.js"
    assert run().startswith(f"Wrote {static}/datastar.js: ")
    assert theirs.read_text() == "theirs"
    (static / "datastar.js").unlink()
    theirs.write_bytes(bundle)
    assert run().startswith(f"{theirs} is the Datastar client v1.0.4 already.")


def test_setting_names_the_file(sources, settings, static):
    settings.DS_BROADCASTER_DATASTAR_STATIC = "js/client.js"
    assert "write in the settings" not in run()
    assert (static / "js" / "client.js").exists()


def test_prefix_of_a_static_folder_is_no_folder(sources, settings, static):
    settings.STATICFILES_DIRS = [("vendor", static)]
    assert 'DS_BROADCASTER_DATASTAR_STATIC = "vendor/datastar.js"' in run()
    settings.DS_BROADCASTER_DATASTAR_STATIC = "vendor/datastar.js"
    assert "already" in run()
    assert [path.name for path in sorted(static.iterdir())] == ["datastar.js", MAP_FILE]


def test_without_a_static_folder_one_is_asked_for(sources, settings):
    settings.STATICFILES_DIRS = []
    with pytest.raises(CommandError, match=r"broadcaster_client static.*STATICFILES_DIRS = \[BASE_DIR / \"static\"\]"):
        run()


def test_folder_that_finders_do_not_know_is_told(sources, settings, static, tmp_path):
    settings.DS_BROADCASTER_DATASTAR_URL = "/static/datastar.js"
    printed = run(str(tmp_path / "assets"))
    assert (tmp_path / "assets" / "datastar.js").exists()
    assert 'STATICFILES_DIRS = [..., BASE_DIR / "assets"]' in printed
    assert 'DS_BROADCASTER_DATASTAR_STATIC = "datastar.js"' in printed
    assert "remove DS_BROADCASTER_DATASTAR_URL" in printed


def test_folder_that_cannot_be_written_is_named(sources, static):
    static.write_text("a file")
    with pytest.raises(CommandError, match=re.escape(f"{static}/datastar.js cannot be written: ")):
        run()


def test_first_static_folder_is_told(sources, settings, tmp_path):
    settings.BASE_DIR, settings.STATICFILES_DIRS = tmp_path, []
    assert 'STATICFILES_DIRS = [BASE_DIR / "static"]' in run(str(tmp_path / "static"))


@pytest.mark.parametrize("aggregation", [False, True])
def test_client_passes_a_storage_with_hashes(sources, settings, static, tmp_path, monkeypatch, aggregation):
    monkeypatch.setattr(f"{HASHED}.support_js_module_import_aggregation", aggregation)
    settings.STORAGES = {"staticfiles": {"BACKEND": HASHED}}
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    settings.STATIC_ROOT = tmp_path / "root"
    settings.DS_BROADCASTER_DATASTAR_STATIC = "datastar.js"
    run()
    call_command("collectstatic", interactive=False, verbosity=0)
    (name,) = re.findall(r'src="/static/(datastar\.[0-9a-f]{12}\.js)"', client_script(""))
    assert (settings.STATIC_ROOT / name).exists()
    assert "integrity" not in client_script("")
    settings.DS_BROADCASTER_DATASTAR_STATIC = "js/datastar.js"
    with pytest.raises(ValueError, match=r"Missing staticfiles manifest entry for 'js/datastar\.js'"):
        client_script("")


def test_installed_package_that_carries_the_client_is_found(tmp_path, monkeypatch, bundle):
    package, info = tmp_path / "carrier", tmp_path / "carrier-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (info / "RECORD").write_text("carrier/datastar-core.js,,\ncarrier/datastar-old.js,,\ncarrier/datastar-gone.js,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (package / "datastar-old.js").write_text("another build")
    with pytest.raises(LookupError):
        pinned_client.installed()
    (package / "datastar-core.js").write_bytes(bundle)
    assert pinned_client.installed() == bundle


@pytest.fixture(autouse=True)
def _fresh_finders():
    finders.get_finder.cache_clear()
    yield
    finders.get_finder.cache_clear()


def test_source_map_of_the_project_stays(sources, static):
    static.mkdir()
    (static / MAP_FILE).write_text("{}")
    run()
    assert (static / MAP_FILE).read_text() == "{}"
