"""The recipes in a browser, each started by its own command: what their own tests, without one, cannot see."""

import os
import re
import socket
import subprocess
import sys

import pytest

from tests.harness import Server, expect
from tests.harness.server import ROOT

# What the browser and the client say about a server that is away for a moment.
OF_A_RESTART = re.compile("net::ERR_(CONNECTION|INCOMPLETE)|^network error|^Failed to fetch|retrying in|status of 503")


class Recipe(Server):
    """`cookbook/serve.py <name>`, with its database in a folder of its own."""

    def __init__(self, name, folder):
        super().__init__(name)
        self.name, self.folder = name, folder

    def _launch(self):
        env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        paths = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
        # Django leaves a static file open whose browser went on to another page.
        python = [sys.executable, "-W", "error", "-W", "ignore:unclosed file:ResourceWarning"]
        command = [*python, ROOT / "cookbook" / "serve.py", self.name, f"--port={self.port}"]
        self.process = subprocess.Popen(
            [*command, f"--database={self.folder / 'db.sqlite3'}"],
            env=env | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )


@pytest.fixture
def recipe(request, tmp_path):
    """The recipe that the test is about; nothing that people did in it may have been an error to it."""
    recipe = Recipe(request.param, tmp_path)
    with recipe:
        yield recipe
        assert "Traceback" not in recipe.log()


@pytest.fixture
def window(chromium, recipe):
    """Open a window of this person's: `window("ada", "/reading/")`; its console must stay free of errors.

    At the end it is as small as a phone, and no page may be wider. `route` is a pattern, and a function that gets each
    request for it in place of the server.
    """
    tabs = []

    def open_window(name, path="/", route=None):
        tab = chromium.tab(site=recipe.url)
        if route is not None:
            tab.route(*route)
        if name is not None:
            tab.goto(f"/as/{name}/")
        if name is None or path != "/":
            tab.goto(path)
        tabs.append(tab)
        return tab

    yield open_window
    for tab in tabs:
        tab.set_viewport_size({"width": 360, "height": 640})
        assert tab.evaluate("document.documentElement.scrollWidth") == 360, "It is wider than a small phone."
        assert [error for error in tab.errors if not OF_A_RESTART.search(error)] == []


def serving(name):
    """Run a test on this recipe."""
    return pytest.mark.parametrize("recipe", [name], indirect=True)


# Notifications


def notify(tab, whom, text):
    tab.get_by_label("To", exact=True).select_option(whom)
    tab.get_by_label("Text", exact=True).fill(text)
    tab.get_by_role("button", name="Send").click()
    expect(tab.get_by_label("Text", exact=True)).to_have_value("")


def bell(tab):
    return tab.locator(".bell summary")


@serving("notifications")
def test_notifications_reach_one_user_on_every_page_and_no_other(recipe, window):
    ada, mio = window("ada"), window("mio")
    reading = window("mio", "/reading/")
    notify(ada, "Mio", "Tea is ready")
    for tab in (mio, reading):
        expect(bell(tab)).to_have_text("1 unread")
        bell(tab).click()
        expect(tab.locator("#notifications li")).to_have_text([re.compile("Ada: Tea is ready")])
    notify(ada, "Mio", "It gets cold")
    notify(ada, "Ada", "To myself")
    # Her own came after Mio's, and hers alone has come.
    expect(bell(ada)).to_have_text("1 unread")
    bell(ada).click()
    expect(ada.locator("#notifications .wide")).to_have_text(["Ada: To myself"])
    for tab in (mio, reading):
        expect(bell(tab)).to_have_text("2 unread")
        expect(tab.locator("#notifications .wide")).to_have_text(["Ada: It gets cold", "Ada: Tea is ready"])
    # What is read on one page is read on the others.
    reading.locator("#notifications li", has_text="Tea").get_by_role("button").click()
    for tab in (mio, reading):
        expect(bell(tab)).to_have_text("1 unread")
    mio.get_by_role("button", name="Mark all as read").click()
    for tab in (mio, reading):
        expect(bell(tab)).to_have_text("Nothing new")
        expect(tab.locator("#notifications .unread")).to_have_count(0)
    expect(bell(ada)).to_have_text("1 unread")


# A live list


def add(tab, *texts):
    field = tab.get_by_label("A new task")
    for text in texts:
        field.fill(text)
        field.press("Enter")
        expect(field).to_have_value("")
        expect(task(tab, text)).to_have_count(1)


def task(tab, text):
    """The element of a task, found by what its field holds now."""
    return tab.locator("#tasks li").filter(has=tab.locator(f'form input[value="{text}"]'))


def shows(tab, *texts, done=()):
    """Wait until the page shows these tasks in this order, and no others."""
    fields = tab.locator("#tasks form input")
    expect(fields).to_have_count(len(texts))
    for position, text in enumerate(texts):
        expect(fields.nth(position)).to_have_value(text)
        expect(tab.locator("#tasks [type=checkbox]").nth(position)).to_be_checked(checked=text in done)


@serving("live_list")
def test_a_list_changes_in_every_window(recipe, window):
    ada, mio = window("ada"), window("mio")
    add(ada, "Ferns", "Bread")
    add(mio, "Heron <b>")
    for tab in (ada, mio):
        shows(tab, "Ferns", "Bread", "Heron <b>")
    task(mio, "Bread").get_by_role("checkbox").check()
    shows(ada, "Ferns", "Bread", "Heron <b>", done=["Bread"])
    field = ada.get_by_label("Rename Ferns")
    field.fill("Water the ferns")
    field.press("Enter")
    task(mio, "Heron <b>").get_by_role("button", name="Delete").click()
    for tab in (ada, mio):
        shows(tab, "Water the ferns", "Bread", done=["Bread"])
    add(ada, "Tea")
    mio.get_by_role("button", name="All done").click()
    for tab in (ada, mio):
        shows(tab, "Water the ferns", "Bread", "Tea", done=["Water the ferns", "Bread", "Tea"])
    task(ada, "Bread").get_by_role("checkbox").uncheck()
    for tab in (ada, mio):
        shows(tab, "Water the ferns", "Bread", "Tea", done=["Water the ferns", "Tea"])
    # Who is typing is left in peace, but by a new name.
    field = ada.get_by_label("Rename Bread")
    field.fill("Bread and b")
    task(mio, "Bread").get_by_role("checkbox").check()
    expect(task(ada, "Bread").get_by_role("checkbox")).to_be_checked()
    expect(field).to_have_value("Bread and b")
    expect(field).to_be_focused()
    other = mio.get_by_label("Rename Bread")
    other.fill("Rye bread")
    other.press("Enter")
    expect(ada.get_by_label("Rename Rye bread").first).to_have_value("Rye bread")


# The progress of a job


def percent(tab):
    return tab.locator(".percent")


@serving("progress")
def test_a_job_moves_the_bar_of_its_page(recipe, window):
    ada = window("ada")
    ada.get_by_role("button", name="Start a long job").click()
    expect(ada.get_by_role("heading", level=1)).to_have_text("Job 1")
    expect(percent(ada)).to_have_text(re.compile("[1-9]"))
    ada.wait("document.querySelector('progress').value > 0")
    before = int(percent(ada).inner_text())
    # A page that is loaded in the middle begins there.
    ada.goto("/jobs/1/")
    assert int(percent(ada).inner_text()) >= before


# The server around each


@pytest.mark.servers
def test_port_that_is_in_use_is_one_clear_line(tmp_path):
    recipe = Recipe("wall", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        recipe.port = taken.getsockname()[1]
        recipe._launch()
        assert recipe.process.wait(30) == 1
    log = recipe.log()
    recipe.stop()
    assert log == f"Port {recipe.port} cannot be used: Address already in use. Choose another one with --port.\n"


# A wall of notes


@serving("wall")
def test_a_note_is_on_the_wall_in_every_window(recipe, window):
    ada, guest = window("ada"), window(None)
    for tab, text in ((ada, "From Ada"), (guest, "From <i>nobody</i>")):
        tab.get_by_label("A note").fill(text)
        tab.get_by_role("button").click()
        for each in (ada, guest):
            expect(each.locator("#notes li").last).to_have_text(text)
    ada.reload()
    for tab in (ada, guest):
        expect(tab.locator("#notes li")).to_have_text(["From Ada", "From <i>nobody</i>"])
    # Ctrl-C ends it, with its pages open.
    assert recipe.sigint() < 5
    assert recipe.process.returncode == 0
    for tab in (ada, guest):
        expect(tab.locator(".connection")).to_have_text("Reconnecting…")


# Cursors


def point(tab, x, y):
    """Move the pointer to a place on the board, given as parts of its size."""
    box = tab.locator(".board").bounding_box()
    tab.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)


def is_at(tab, name, x, y):
    """Wait until the page shows this person's cursor there."""
    expect(tab.locator(".cursor", has_text=name)).to_be_visible()
    tab.wait(f"""(() => {{
        const cursor = [...document.querySelectorAll('.cursor')].find(each => each.innerText.includes('{name}'));
        const board = document.querySelector('.board').getBoundingClientRect(), box = cursor.getBoundingClientRect();
        return Math.abs(box.x - board.x - {x} * board.width) < 2 && Math.abs(box.y - board.y - {y} * board.height) < 2;
    }})()""")


@serving("cursors")
def test_cursors_of_others_move_and_are_in_no_history(recipe, window):
    ada, mio = window("ada"), window("mio")
    expect(ada.locator(".cursor")).to_have_count(2)
    for x in (0.1, 0.3, 0.5):
        point(ada, x, x / 2)
    is_at(mio, "Ada", 0.5, 0.25)
    point(mio, 0.9, 0.1)
    is_at(ada, "Mio", 0.9, 0.1)
    # One's own pointer is the browser's.
    expect(ada.locator(".cursor", has_text="Ada")).to_be_hidden()
    # Who comes later sees the people, and their cursors from the next move on.
    luis = window("luis")
    expect(luis.locator(".cursor")).to_have_count(3)
    expect(luis.locator(".cursor", has_text="Ada")).to_be_hidden()
    point(ada, 0.2, 0.8)
    for tab in (mio, luis):
        is_at(tab, "Ada", 0.2, 0.8)
    expect(luis.locator(".cursor", has_text="Mio")).to_be_hidden()
    ada.goto("/as/")
    for tab in (mio, luis):
        expect(tab.locator(".cursor")).to_have_text(["Mio", "Luis"])


# The admin's changelist


def save_order(tab, path, **fields):
    """Send a form of the admin."""
    tab.evaluate(
        """async ([path, fields]) => {
            fields.csrfmiddlewaretoken = document.querySelector('[name=csrfmiddlewaretoken]').value;
            const answer = await fetch(`/admin/live_admin/order/${path}/`,
                {method: 'POST', body: new URLSearchParams(fields), redirect: 'manual'});
            if (answer.type !== 'opaqueredirect') throw Error(await answer.text());
        }""",
        [path, {"status": "open", "total": "10", **fields}],
    )


async def no_icon(route):
    """Answer for the icon that the pages of the admin do not have."""
    await route.fulfill(status=204)


def customers(tab):
    return tab.locator("#result_list .field-customer")


@serving("live_admin")
def test_changelist_is_live_with_its_filters_and_selection(recipe, window):
    icon = ("**/favicon.ico", no_icon)
    mio = window("mio", "/admin/live_admin/order/add/", route=icon)
    for customer in ("Fern & Co", "Fern Ltd"):
        save_order(mio, "add", customer=customer)
    ada = window("ada", "/admin/live_admin/order/?status__exact=open&q=fern&o=2", route=icon)
    expect(ada.locator("[data-broadcast=live]")).to_have_count(1)
    expect(customers(ada)).to_have_text(["Fern & Co", "Fern Ltd"])
    ada.locator("tr", has_text="Fern Ltd").get_by_role("checkbox").check()
    ada.locator("#searchbar").fill("fern tree")
    ada.evaluate("document.documentElement.dataset.theme = 'dark'; document.getElementById('main').className = 'main'")
    save_order(mio, "add", customer="Alfern")
    expect(customers(ada)).to_have_text(["Alfern", "Fern & Co", "Fern Ltd"])
    # What Ada was about to do is as it was.
    assert ada.url.endswith("?status__exact=open&q=fern&o=2")
    assert ada.evaluate("[document.documentElement.dataset.theme, document.getElementById('main').className]") == [
        "dark",
        "main",
    ]
    assert ada.locator("#searchbar").input_value() == "fern tree"
    expect(ada.locator("#searchbar")).to_be_focused()
    expect(ada.locator(".action-select:checked")).to_have_count(1)
    expect(ada.locator("tr.selected .field-customer")).to_have_text(["Fern Ltd"])
    ada.locator("select[name=action]").select_option("delete_selected")
    ada.locator("button[name=index]").click()
    expect(ada.locator("#content")).to_contain_text("Order 2")
    ada.get_by_role("button", name="Yes").click()
    expect(customers(ada)).to_have_text(["Alfern", "Fern & Co"])


# A table for each viewer


def rename_ticket(tab, old, new):
    field = tab.get_by_label(f"Rename {old}", exact=True)
    field.fill(new)
    field.press("Enter")


def ticket(tab, title):
    return tab.locator("#tickets li").filter(has=tab.locator(f'input[value="{title}"]'))


def fill_table(tab, *titles):
    """Make tickets without waiting for each to be shown."""
    tab.evaluate(
        """async titles => {
            const csrfmiddlewaretoken = document.querySelector('[name=csrfmiddlewaretoken]').value;
            for (const title of titles)
                await fetch('/add/', {method: 'POST', body: new URLSearchParams({title, csrfmiddlewaretoken})});
        }""",
        list(titles),
    )


@serving("live_table")
def test_table_leaves_what_a_user_does_in_peace(recipe, window):
    ada, mio = window("ada"), window("mio")
    fill_table(ada, *(f"Ticket {number}" for number in range(9)))
    ada.goto("/?sort=title")
    ticket(ada, "Ticket 5").locator("summary").click()
    field = ada.get_by_label("Rename Ticket 5")
    field.fill("Half a na")
    ada.get_by_label("A new ticket").fill("Not sent yet")
    field.focus()
    ada.set_viewport_size({"width": 800, "height": 200})
    field.evaluate("field => { field.setSelectionRange(2, 4); scrollTo(0, 300); window.field = field }")
    rename_ticket(mio, "Ticket 3", "Ticket 3, renamed")
    rename_ticket(mio, "Ticket 7", "Zebra")
    mio.get_by_label("Vote for Ticket 5").click()
    expect(ticket(ada, "Ticket 5")).to_contain_text("+1")
    expect(ticket(ada, "Ticket 3, renamed")).to_have_count(1)
    expect(ada.locator("#tickets li input").last).to_have_value("Zebra")
    assert ada.evaluate("[field.value, field.selectionStart, field.selectionEnd, scrollY]") == ["Half a na", 2, 4, 300]
    expect(field).to_be_focused()
    # What the viewer opened, and what a script has written.
    expect(ticket(ada, "Ticket 5").get_by_role("button", name="idea")).to_be_visible()
    expect(ticket(ada, "Ticket 5").locator("time")).to_have_text(re.compile(r"\d:\d\d"))
    assert ada.get_by_label("A new ticket").input_value() == "Not sent yet"
