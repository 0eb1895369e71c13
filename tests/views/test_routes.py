"""The routes table: URLs that do not depend on the order of imports, and the messages of clashes."""

import abc
import copy
import importlib
import itertools
import random
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.http import HttpResponse
from django.test import Client, modify_settings, override_settings
from django.urls import NoReverseMatch, clear_url_caches, include, path, register_converter, resolve, reverse
from django.urls.converters import IntConverter
from django.utils import translation
from django.utils.decorators import method_decorator
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ds_broadcaster import BroadcastChannelView
from ds_broadcaster.views.routes import ChannelViewType, Route, Routes, name_of, routes
from tests.fakes import FACTOR

ROOT = Path(__file__).resolve().parents[2]

numbers = itertools.count()


def route(url_path, name=None, place=None):
    number = next(numbers)
    return Route(f"name-{number}" if name is None else name, url_path, place or f"place{number}", lambda request: None)


def table(*url_paths):
    made = Routes()
    for each in url_paths:
        made.add(route(each, name=each))
    made.publish([])
    return made


@pytest.fixture
def define():
    """Define channel views that are gone from the table after the test: `define("Name", url_path=...)`."""
    places = []

    def make(name, *bases, **attributes):
        attributes = {"__module__": __name__, **attributes}
        places.append(f"{attributes['__module__']}.{attributes.get('__qualname__', name)}")
        return ChannelViewType(name, bases or (BroadcastChannelView,), attributes)

    yield make
    for place in places:
        routes.remove(place)


@pytest.fixture
def urlconf():
    """Make modules of URL patterns: `urlconf(*patterns)` returns its name."""
    names = []

    def make(*patterns):
        module = ModuleType(f"tests.urlconf_{next(numbers)}")
        module.urlpatterns = list(patterns)
        sys.modules[module.__name__] = module
        names.append(module.__name__)
        return module.__name__

    yield make
    for name in names:
        del sys.modules[name]
    clear_url_caches()


def names_in(table):
    return [pattern.name for pattern in table.urlpatterns]


# Names


@pytest.mark.parametrize(
    "class_name, name",
    [
        ("RoomChannel", "room-channel"),
        ("Room", "room"),
        ("HTTPChannel", "http-channel"),
        ("MyHTTPChannel", "my-http-channel"),
        ("Room2Channel", "room2-channel"),
        ("roomChannel", "room-channel"),
        ("room", "room"),
    ],
)
def test_a_view_is_named_by_its_class(class_name, name):
    assert name_of(class_name) == name


# What is registered


def test_a_class_that_declares_its_path_is_reversed_by_its_name(define):
    define("TestedRoomChannel", url_path="tested-rooms/<int:pk>/")
    assert reverse("ds_broadcaster:tested-room-channel", kwargs={"pk": 7}) == "/events/tested-rooms/7/"


def test_a_name_of_ones_own_takes_the_place_of_the_made_one(define):
    view = define("TestedRoomChannel", url_path="tested/", url_name="tested")
    assert reverse("ds_broadcaster:tested") == "/events/tested/"
    assert resolve("/events/tested/").func.view_class is view
    with pytest.raises(NoReverseMatch):
        reverse("ds_broadcaster:tested-room-channel")


def test_paths_are_declared_and_never_inherited(define):
    before = list(routes)
    first = define("FirstChannel", url_path="first/", url_name="first")
    mixin = type("Mixin", (), {"url_path": "mixin/"})
    define("SilentChannel", first)
    define("MixedChannel", mixin, BroadcastChannelView)
    define("PathlessChannel")
    define("NoneChannel", url_path=None)
    assert [each.name for each in routes if each not in before] == ["first"]


def test_a_subclass_with_a_path_is_a_view_of_its_own_whose_name_is_not_inherited(define):
    first = define("FirstChannel", url_path="first/", url_name="first")
    define("SecondChannel", first, url_path="second/")
    assert reverse("ds_broadcaster:first") == "/events/first/"
    assert reverse("ds_broadcaster:second-channel") == "/events/second/"


def test_abstract_bases_register_nothing_and_their_subclasses_are_not_abstract(define):
    base = define("Base", url_path="base/", abstract=True)
    unfinished = define("Unfinished", url_path="unfinished/", channel_name=abc.abstractmethod(lambda self: ""))
    assert not {"base", "unfinished"} & {each.name for each in routes}
    define("FromBase", base, url_path="from-base/")
    define("Finished", unfinished, url_path="finished/", channel_name=lambda self: "finished")
    assert {"from-base", "finished"} <= {each.name for each in routes}


def test_a_mixin_may_be_an_abstract_base_class(define):
    mixin = abc.ABCMeta("Mixin", (), {})
    view = define("MixedChannel", mixin, BroadcastChannelView, url_path="mixed/")
    assert reverse("ds_broadcaster:mixed-channel") == "/events/mixed/"
    assert issubclass(view, mixin)


def test_a_class_that_is_defined_again_takes_the_place_of_its_former_self(define):
    define("ReloadedChannel", url_path="former/")
    newer = define("ReloadedChannel", url_path="later/")
    assert [each.url_path for each in routes if each.name == "reloaded-channel"] == ["later/"]
    assert resolve("/events/later/").func.view_class is newer
    assert Client().get("/events/former/").status_code == 404


def test_a_class_that_is_made_by_a_call_is_from_where_it_was_made():
    view = ChannelViewType("MadeHere", (BroadcastChannelView,), {"url_path": "made-here/"})
    assert view.__module__ == __name__
    routes.remove(f"{__name__}.MadeHere")
    assert "made-here" not in {each.name for each in routes}
    assert type("MadeByType", (BroadcastChannelView,), {}).__module__ == __name__


def test_classes_that_a_function_makes_are_not_taken_for_one(define):
    place = "factory.<locals>.Made"
    define("Made", url_path="made-1/", url_name="made-1", __qualname__=place)
    define("Made", url_path="made-2/", url_name="made-2", __qualname__=place)
    define("Made", url_path="made-2/", url_name="made-2", __qualname__=place)
    assert [reverse(f"ds_broadcaster:made-{number}") for number in (1, 2)] == ["/events/made-1/", "/events/made-2/"]
    assert [each.name for each in routes].count("made-2") == 1
    with pytest.raises(ImproperlyConfigured, match=r"Made and .*Made are both named 'made-1'"):
        define("Made", url_path="made-3/", url_name="made-1", __qualname__=place)


# Late classes


def test_a_class_that_is_defined_late_is_reversed_after_its_name_failed(define):
    with pytest.raises(NoReverseMatch):
        reverse("ds_broadcaster:late-channel")
    assert Client().get("/events/late/").status_code == 404
    define("LateChannel", url_path="late/")
    assert reverse("ds_broadcaster:late-channel") == "/events/late/"
    assert Client().get("/events/late/").status_code == 403


def test_decorators_reach_a_class_that_is_defined_late(define):
    view = define("LateChannel", url_path="late/")
    view.dispatch = lambda self, request: HttpResponse("decorated")
    assert Client().get("/events/late/").content == b"decorated"


def test_marks_that_decorators_leave_for_middleware_are_found_before_the_view_is_called(define):
    def exempt(function):
        function.login_exempt = True
        return function

    view = define("MarkedChannel", url_path="marked/")
    method_decorator([transaction.non_atomic_requests, exempt], name="dispatch")(view)
    served = resolve("/events/marked/").func
    assert served._non_atomic_requests == {"default"}
    assert served.login_exempt is copy.copy(served).login_exempt is True
    assert not hasattr(served, "csrf_exempt")
    assert (served.view_class, served.view_initkwargs) == (view, {})


def test_every_way_to_include_the_urls_learns_of_a_late_class(define, urlconf):
    inner = urlconf(path("live/", include("ds_broadcaster.urls")))
    deepest = urlconf(path("two/", include((inner, "inner"))))
    cases = {
        "/late-everywhere/": ("ds_broadcaster:%s", path("", include("ds_broadcaster.urls"))),
        "/a/b/late-everywhere/": ("ds_broadcaster:%s", path("a/b/", include("ds_broadcaster.urls"))),
        "/one/two/live/late-everywhere/": ("inner:ds_broadcaster:%s", path("one/", include(deepest))),
        "/named/late-everywhere/": ("mine:%s", path("named/", include("ds_broadcaster.urls", namespace="mine"))),
        "/7/late-everywhere/": ("ds_broadcaster:%s", path("<int:shop>/", include("ds_broadcaster.urls"))),
        "/de/late-everywhere/": ("ds_broadcaster:%s", i18n_patterns(path("", include("ds_broadcaster.urls")))[0]),
    }
    urlconfs = {url: urlconf(pattern) for url, (_, pattern) in cases.items()}

    def look(name):
        found = {}
        for url, (pattern, _) in cases.items():
            language = "de" if url.startswith("/de/") else "en"
            with override_settings(ROOT_URLCONF=urlconfs[url]), translation.override(language):
                found[url] = reverse(pattern % name, kwargs={"shop": 7} if url.startswith("/7/") else {})
                assert resolve(found[url]).url_name == name
        return found

    look("inspector")  # Django has looked at all of them by now, in two languages.
    for language in ("en", "de"):
        with translation.override(language), pytest.raises(NoReverseMatch):
            reverse("ds_broadcaster:late-everywhere")
    define("LateEverywhere", url_path="late-everywhere/")
    assert look("late-everywhere") == {url: url for url in cases}


def test_a_late_class_is_found_in_an_urlconf_that_is_not_the_projects(define, urlconf):
    name = urlconf(path("there/", include("ds_broadcaster.urls")))
    assert reverse("ds_broadcaster:inspector", urlconf=name) == "/there/inspector/"
    define("LateChannel", url_path="late/")
    assert reverse("ds_broadcaster:late-channel", urlconf=name) == "/there/late/"
    assert resolve("/there/late/", urlconf=name).url_name == "late-channel"


def test_an_urlconf_that_includes_itself_is_no_trap(define, urlconf):
    name = urlconf(path("live/", include("ds_broadcaster.urls")))
    sys.modules[name].urlpatterns.append(path("again/", include((name, "again"))))
    with override_settings(ROOT_URLCONF=name):
        reverse("ds_broadcaster:inspector")
        define("LateChannel", url_path="late/")
        assert resolve(reverse("ds_broadcaster:late-channel")).url_name == "late-channel"


def test_names_are_reversed_while_other_threads_define_classes(define):
    errors = []
    over = threading.Event()

    def reverse_on():
        while not over.is_set():
            try:
                assert reverse("ds_broadcaster:inspector") == "/events/inspector/"
                assert resolve("/events/inspector/").url_name == "inspector"
            except Exception as error:
                errors.append(error)
                return

    readers = [threading.Thread(target=reverse_on) for _ in range(4)]
    for each in readers:
        each.start()

    def define_some(letter):
        for number in range(25):
            define(f"Thread{letter}{number}", url_path=f"thread/{letter}/{number}/", url_name=f"{letter}-{number}")

    writers = [threading.Thread(target=define_some, args=[letter]) for letter in "ab"]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    over.set()
    for each in readers:
        each.join()
    assert not errors, errors
    assert reverse("ds_broadcaster:a-24") == "/events/thread/a/24/"
    assert reverse("ds_broadcaster:b-24") == "/events/thread/b/24/"


def test_two_threads_that_add_a_route_at_once_lose_neither():
    made = table()
    other = threading.Thread(target=made.add, args=[route("other/", name="other")])

    class SlowRoute(Route):
        def pattern(self):
            # The table has made its new list, and not yet kept it.
            if not other.ident:
                other.start()
                other.join(0.1)
            return super().pattern()

    made.add(SlowRoute(*route("slow/", name="slow")))
    other.join()
    assert sorted(each.name for each in made) == sorted(names_in(made)) == ["other", "slow"]


# Clashes


def test_two_classes_with_one_name_are_both_named(define):
    define("TwinChannel", url_path="one/", __module__="here.views")
    with pytest.raises(ImproperlyConfigured) as caught:
        define("TwinChannel", url_path="two/", __module__="there.views")
    assert str(caught.value) == (
        "here.views.TwinChannel and there.views.TwinChannel are both named 'twin-channel': give one another url_name."
    )


@pytest.mark.parametrize("again", ["rooms/<int:pk>/", "rooms/<int:room>/"])
def test_two_classes_with_one_path_are_both_named_despite_other_argument_names(define, again):
    define("OneChannel", url_path="rooms/<int:pk>/", __module__="here.views")
    with pytest.raises(ImproperlyConfigured) as caught:
        define("OtherChannel", url_path=again, __module__="there.views")
    assert str(caught.value) == (
        f"here.views.OneChannel and there.views.OtherChannel are both served at '{again}': give one another url_path."
    )
    assert reverse("ds_broadcaster:one-channel", args=[1]) == "/events/rooms/1/"
    with pytest.raises(NoReverseMatch):
        reverse("ds_broadcaster:other-channel", args=[1])


def test_a_converter_that_is_not_written_is_str():
    made = table("rooms/<str:name>/")
    with pytest.raises(ImproperlyConfigured, match="both served at 'rooms/<room>/'"):
        made.add(route("rooms/<room>/"))


@pytest.mark.parametrize("attributes", [{"url_path": "inspector/"}, {"url_path": "x/", "url_name": "inspector"}])
@pytest.mark.parametrize("is_late", [False, True])
def test_the_pages_of_the_app_itself_cannot_be_taken(attributes, is_late):
    fixed = [path("inspector/", lambda request: None, name="inspector")]
    made = Routes()
    greedy = Route(attributes.get("url_name", "greedy"), attributes["url_path"], "shop.views.Greedy", lambda r: None)
    if is_late:
        made.publish(fixed)
        with pytest.raises(ImproperlyConfigured, match=r"shop.views.Greedy takes .* ds_broadcaster's own 'inspector'"):
            made.add(greedy)
        assert made.urlpatterns == fixed
    else:
        made.add(greedy)
        made.add(route("fine/"))
        for _ in range(2):  # A project's urls are loaded again after they failed: the mistake is still there.
            with pytest.raises(ImproperlyConfigured, match=r"shop.views.Greedy takes"):
                made.publish(fixed)
        assert len(list(made)) == 2


@pytest.mark.parametrize("url_path", [7, "/rooms/", ["rooms/"], b"rooms/"])
def test_an_invalid_path_is_an_error_that_says_what_to_write(define, url_path):
    with pytest.raises(ImproperlyConfigured, match=r"WrongChannel: url_path must be .*such as \"rooms/<int:pk>/\""):
        define("WrongChannel", url_path=url_path)


@pytest.mark.parametrize("url_path", ["<unheard_of:pk>/", "<int:pk>/<int:pk>/", "<int: pk>/", "<int:p-k>/"])
def test_a_path_that_django_does_not_understand_names_its_class_and_breaks_no_other(define, url_path):
    with pytest.raises(ImproperlyConfigured, match=r"test_routes.WrongChannel: "):
        define("WrongChannel", url_path=url_path)
    define("RightChannel", url_path="right/")
    assert reverse("ds_broadcaster:right-channel") == "/events/right/"


def test_a_path_that_django_does_not_understand_names_its_class_when_the_urls_are_loaded():
    made = Routes()
    made.add(route("<unheard_of:pk>/", place="shop.views.Odd"))
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=r"shop.views.Odd: URL route '<unheard_of:pk>/' uses invalid"):
            made.publish([])
    assert made.urlpatterns == []


# Order


ORDERED = [
    ["rooms/new/", "rooms/<int:pk>/", "rooms/<slug:name>/", "rooms/<str:name>/", "rooms/<path:rest>/"],
    ["rooms/<int:pk>/edit/", "rooms/<slug:name>/edit/", "<slug:kind>/<int:pk>/edit/"],
    ["rooms/<path:rest>/end/", "rooms/<path:rest>/", "rooms/<path:rest>"],
    ["rooms/<path:rest>/end", "rooms/<path:rest>"],
    ["room-<slug:name>/", "<slug:name>/"],
    ["very-long-room-<slug:name>/", "room-<slug:name>/", "<slug:name>/"],
    ["a/<path:one>/b/<path:two>/", "a/<path:one>/<int:two>/", "a/<path:one>/"],
]


@pytest.mark.parametrize("ordered", ORDERED)
def test_the_more_precise_path_is_tried_first_in_any_order_of_imports(ordered):
    for order in itertools.permutations(ordered):
        assert names_in(table(*order)) == ordered


def test_a_converter_of_the_project_is_tried_before_a_slug():
    register_converter(IntConverter, "zodiac_sign")  # After "slug" in the alphabet.
    for order in itertools.permutations(ordered := ["<zodiac_sign:pk>/", "<slug:name>/", "<str:name>/"]):
        assert names_in(table(*order)) == ordered


@pytest.mark.parametrize("ordered", ORDERED)
def test_every_path_can_be_reached(ordered):
    made = table(*random.sample(ordered, len(ordered)))
    # None of the later ones' own URLs may be swallowed by an earlier one that says less.
    for url_path in ordered:
        url = url_path
        for argument, value in {"<int": "7", "<slug": "a-b", "<str": "ä.b", "<path": "p/q"}.items():
            while argument in url:
                head, _, rest = url.partition(argument)
                url = head + value + rest.partition(">")[2]
        found = next(each.name for each in made.urlpatterns if each.resolve(url))
        assert ordered.index(found) == ordered.index(url_path)


parts = st.sampled_from(["a", "b", "", "<int:%s>", "<slug:%s>", "<str:%s>", "<path:%s>", "x-<str:%s>", "<uuid:%s>-y"])
paths = st.lists(parts, min_size=1, max_size=4).map(
    lambda parts: "/".join(part.replace("%s", f"n{at}") for at, part in enumerate(parts)).lstrip("/")
)
several_paths = st.lists(paths, max_size=6, unique_by=lambda each: re.sub(r"n\d", "n", each))


@given(several_paths, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60 * FACTOR)
def test_the_order_does_not_depend_on_imports(url_paths, random):
    shuffled = random.sample(url_paths, len(url_paths))
    assert names_in(table(*url_paths)) == names_in(table(*shuffled))


@given(paths, paths, st.lists(st.sampled_from(["a", "b", "7", "x-a", "", "é"]), min_size=1, max_size=5).map("/".join))
@settings(deadline=None, max_examples=200 * FACTOR)
def test_a_fixed_path_is_never_hidden_by_one_with_arguments(first, second, url):
    """Where two match, and one of them is fixed, it is the one that answers."""
    assume(route(first).shape != route(second).shape)
    matching = [each.name for each in table(first, second).urlpatterns if each.resolve(url)]
    if len(matching) == 2 and any("<" not in each for each in matching):
        assert "<" not in matching[0]


# Converters of the project's own


class Shouted:
    regex = "[A-Z]+"

    def to_python(self, value):
        return value.lower()

    def to_url(self, value):
        return value.upper()


def test_a_converter_may_be_registered_after_the_views_are_imported():
    made = Routes()
    made.add(route("words/<str:word>/", name="any"))
    made.add(route("words/<shouted_here:word>/", name="shouted"))
    register_converter(Shouted, "shouted_here")
    made.publish([])
    assert names_in(made) == ["shouted", "any"]
    assert made.urlpatterns[0].resolve("words/HELLO/").kwargs == {"word": "hello"}


# A whole project, from nothing


def run_project(folder, script, **files):
    """Run a script in a project with an app `shop`, some `files` of which are given; return its output."""
    files = {
        "__init__": "",
        "views": """
            import builtins
            builtins.imports = getattr(builtins, "imports", 0) + 1
            from ds_broadcaster import BroadcastChannelView

            class ShopChannel(BroadcastChannelView):
                url_path = "shop/"
        """,
        "later": """
            from ds_broadcaster import BroadcastChannelView

            class LaterChannel(BroadcastChannelView):
                url_path = "later/"
        """,
        "urls": """
            from django.urls import include, path
            urlpatterns = [path("live/", include("ds_broadcaster.urls"))]
        """,
        **files,
    }
    app = folder / "shop"
    app.mkdir()
    for name, content in files.items():
        (app / f"{name}.py").write_text(textwrap.dedent(content))
    begin = """
        import builtins, sys
        from django.conf import settings
        settings.configure(
            INSTALLED_APPS=["ds_broadcaster", "django.contrib.contenttypes", "django.contrib.auth", "shop"],
            ROOT_URLCONF="shop.urls", SECRET_KEY="x",
        )
        import django
        django.setup()
        from django.urls import NoReverseMatch, reverse

        def url(name):
            try:
                return reverse(f"ds_broadcaster:{name}")
            except NoReverseMatch:
                return None
    """
    text = textwrap.dedent(begin) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": ""},
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "script, printed",
    [
        ("print(url('shop-channel'), builtins.imports)", "/live/shop/ 1"),
        ("import shop.views, shop.urls; print(url('shop-channel'), builtins.imports)", "/live/shop/ 1"),
        ("import shop.urls, shop.views; print(url('shop-channel'), builtins.imports)", "/live/shop/ 1"),
        ("import shop.later; print(url('later-channel'), url('shop-channel'))", "/live/later/ /live/shop/"),
        (
            "print(url('later-channel'), url('shop-channel'))\nimport shop.later\nprint(url('later-channel'))",
            "None /live/shop/\n/live/later/",
        ),
        (
            # A module that is run again, as a notebook does: nothing is there twice.
            "url('shop-channel')\nimport importlib, shop.views\nimportlib.reload(shop.views)\n"
            "from ds_broadcaster.views.routes import routes\n"
            "print(url('shop-channel'), [each.name for each in routes].count('shop-channel'), builtins.imports)",
            "/live/shop/ 1 2",
        ),
        (
            "url('shop-channel')\nimport importlib, ds_broadcaster.urls\nimportlib.reload(ds_broadcaster.urls)\n"
            "print(url('shop-channel'), len({each.name for each in ds_broadcaster.urls.urlpatterns})"
            " == len(ds_broadcaster.urls.urlpatterns))",
            "/live/shop/ True",
        ),
    ],
)
def test_the_order_of_imports_does_not_matter(tmp_path, script, printed):
    assert run_project(tmp_path, script) == printed


def test_a_clash_between_apps_is_raised_each_time_the_urls_are_loaded(tmp_path):
    script = """
        import shop.views
        for _ in range(2):
            try:
                url("shop-channel")
            except Exception as error:
                print(type(error).__name__, error)
    """
    views = """
        from ds_broadcaster import BroadcastChannelView

        class ShopChannel(BroadcastChannelView):
            url_path = "inspector/"
    """
    said = run_project(tmp_path, script, views=views).splitlines()
    assert len(said) == 2
    assert all("ImproperlyConfigured shop.views.ShopChannel takes the name or the path" in each for each in said)


def test_views_that_cannot_be_imported_are_not_passed_over(tmp_path):
    assert "No module named 'nowhere'" in run_project(tmp_path, "url('shop-channel')", views="import nowhere")


def test_views_may_be_imported_by_the_urls_that_include_them(tmp_path):
    urls = """
        from django.urls import include, path, register_converter
        from django.urls.converters import IntConverter
        from . import views
        register_converter(IntConverter, "number")
        urlpatterns = [path("by-hand/", views.ShopChannel.as_view()), path("live/", include("ds_broadcaster.urls"))]
    """
    views = """
        from ds_broadcaster import BroadcastChannelView

        class ShopChannel(BroadcastChannelView):
            url_path = "shop/<number:pk>/"
    """
    script = "print(reverse('ds_broadcaster:shop-channel', args=[7]))"
    assert run_project(tmp_path, script, urls=urls, views=views) == "/live/shop/7/"


def test_urls_without_the_app_say_that_it_is_missing():
    urls = importlib.import_module("ds_broadcaster.urls")
    with (
        modify_settings(INSTALLED_APPS={"remove": "ds_broadcaster"}),
        pytest.raises(ImproperlyConfigured, match='Add "ds_broadcaster" to INSTALLED_APPS'),
    ):
        importlib.reload(urls)
