"""The recipes: each is started by its own command and used by two people in a browser."""

import os
import re
import socket
import subprocess
import sys
from queue import SimpleQueue

import pytest

from tests.harness import Server, expect
from tests.harness.browser import Waiting
from tests.harness.server import ROOT

# What the browser and the client say about a server that is away for a moment.
OF_A_RESTART = re.compile("net::ERR_(CONNECTION|INCOMPLETE)|^network error|^Failed to fetch|retrying in")


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
        tab = chromium.tab(base_url=recipe.url)
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


@serving("live_list")
def test_a_list_that_was_rendered_before_and_connected_after_shows_each_change_once(recipe, window):
    ada = window("ada")
    add(ada, "Ferns", "Bread", "Heron")
    held = SimpleQueue()
    mio = window("mio", route=("**/events/tasks/**", lambda route: held.put(route)))
    request = Waiting(held.get(timeout=10))
    add(ada, "Tea")
    task(ada, "Ferns").get_by_role("checkbox").check()
    task(ada, "Bread").get_by_role("button", name="Delete").click()
    shows(ada, "Ferns", "Heron", "Tea", done=["Ferns"])
    shows(mio, "Ferns", "Bread", "Heron")
    request.continue_()
    shows(mio, "Ferns", "Heron", "Tea", done=["Ferns"])
    # A change after those: had one come twice, it would show by now.
    add(mio, "Last")
    for tab in (ada, mio):
        shows(tab, "Ferns", "Heron", "Tea", "Last", done=["Ferns"])


@serving("live_list")
def test_a_list_is_right_again_when_the_server_was_restarted(recipe, window):
    ada, mio = window("ada"), window("mio")
    add(ada, "Ferns", "Bread")
    shows(mio, "Ferns", "Bread")
    held = SimpleQueue()
    ada.route("**/events/tasks/**", lambda route: held.put(route))
    recipe.restart()
    request = Waiting(held.get(timeout=20))
    expect(ada.locator(".connection")).to_have_text("Reconnecting…")
    expect(mio.locator(".connection")).to_have_text("", timeout=20_000)
    add(mio, "Meanwhile")
    task(mio, "Ferns").get_by_role("button", name="Delete").click()
    shows(mio, "Bread", "Meanwhile")
    shows(ada, "Ferns", "Bread")
    request.continue_()
    shows(ada, "Bread", "Meanwhile")
    expect(ada.locator(".connection")).to_have_text("")


# The progress of a job


def percent(tab):
    return tab.locator(".percent")


@serving("progress")
def test_a_job_shows_its_progress_to_its_owner_wherever_they_look(recipe, window):
    ada, away, elsewhere = window("ada"), window("ada"), window("ada")
    ada.get_by_role("button", name="Start a long job").click()
    expect(ada.get_by_role("heading", level=1)).to_have_text("Job 1")
    away.goto("/jobs/1/")
    expect(away.locator("[data-broadcast=live]")).to_have_count(1)
    away.hide()
    # The bar moves, and a page that is loaded in the middle begins there.
    expect(percent(ada)).not_to_have_text("0")
    before = int(percent(ada).inner_text())
    elsewhere.goto("/jobs/1/")
    assert int(percent(elsewhere).inner_text()) >= before > 0
    for tab in (ada, elsewhere):
        expect(tab.locator("#result")).to_contain_text("The answer is")
        expect(percent(tab)).to_have_text("100")
        expect(tab.get_by_role("progressbar")).to_have_attribute("value", "100")
    answer = ada.locator("#result").inner_text()
    expect(away.locator("#result")).to_contain_text("It takes a few seconds.")
    # The server that it missed the end from is gone, and what it knew with it.
    recipe.restart()
    away.show()
    expect(away.locator("#result")).to_have_text(answer)
    expect(percent(away)).to_have_text("100")

    # For no other user.
    mio = window("mio")
    expect(mio.locator("main .rows li")).to_have_count(0)
    ask = "Promise.all(['/jobs/1/', '/events/jobs/1/'].map(url => fetch(url, {headers: {'Datastar-Request': 'true'}})))"
    assert mio.evaluate(f"{ask}.then(answers => answers.map(answer => answer.status))") == [404, 403]
    mio.errors.clear()


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
    assert recipe.sigint() < 3
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
    for customer in ("Fern & Co", "Moss", "Fern Ltd"):
        save_order(mio, "add", customer=customer)
    ada = window("ada", "/admin/live_admin/order/?status__exact=open&q=fern&o=2", route=icon)
    expect(ada.locator("[data-broadcast=live]")).to_have_count(1)
    expect(customers(ada)).to_have_text(["Fern & Co", "Fern Ltd"])
    ada.locator("tr", has_text="Fern Ltd").get_by_role("checkbox").check()
    ada.locator("#searchbar").fill("fern tree")
    ada.evaluate("document.documentElement.dataset.theme = 'dark'; document.getElementById('main').className = 'main'")
    save_order(mio, "add", customer="Alfern")
    expect(customers(ada)).to_have_text(["Alfern", "Fern & Co", "Fern Ltd"])
    save_order(mio, "add", customer="Moss again")
    save_order(mio, "1/change", customer="Fern & Co", status="paid")
    expect(customers(ada)).to_have_text(["Alfern", "Fern Ltd"])
    expect(ada.locator("#toolbar")).to_contain_text("2 results (5 total)")
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
    expect(ada.locator(".action-counter")).to_contain_text("1 of 2 selected")
    ada.locator("select[name=action]").select_option("delete_selected")
    ada.locator("button[name=index]").click()
    expect(ada.locator("#content")).to_contain_text("Order 3")
    ada.get_by_role("button", name="Yes").click()
    expect(customers(ada)).to_have_text(["Alfern"])


# A table for each viewer

# What came to the page, but for the signal that its stream is live.
KEEP_FRAMES = """
window.frames_of = [];
document.addEventListener('datastar-fetch', ({detail: {type, argsRaw}}) =>
    type.startsWith('datastar-') && argsRaw.heartbeat === undefined && frames_of.push(argsRaw.signals || type));
"""


def add_ticket(tab, *titles):
    for title in titles:
        field = tab.get_by_label("A new ticket")
        field.fill(title)
        field.press("Enter")
        expect(field).to_have_value("")


def rename_ticket(tab, old, new):
    field = tab.get_by_label(f"Rename {old}", exact=True)
    field.fill(new)
    field.press("Enter")


def lists(tab, *titles):
    """Wait until the page lists these tickets in this order, and no others."""
    tab.wait(f"""JSON.stringify([...document.querySelectorAll('#tickets li input')].map(each => each.value))
        === JSON.stringify({list(titles)})""")


def ticket(tab, title):
    return tab.locator("#tickets li").filter(has=tab.locator(f'input[value="{title}"]'))


@serving("live_table")
def test_table_is_right_for_each_of_three_viewers(recipe, window):
    ada, mio, luis = (
        window("ada", "/?sort=title"),
        window("mio", "/?label=bug"),
        window("luis", "/?state=open&sort=votes&title=o"),
    )
    add_ticket(ada, "Cold", "Hot", "Dry")
    lists(ada, "Cold", "Dry", "Hot")
    lists(mio)
    lists(luis, "Cold", "Hot")
    # Many-to-many changes.
    for title in ("Hot", "Cold"):
        ticket(ada, title).locator("summary").click()
        ticket(ada, title).get_by_role("button", name="bug").click()
        expect(ticket(ada, title).locator(".on")).to_have_text(["bug"])
    lists(mio, "Hot", "Cold")
    ticket(mio, "Cold").locator("summary").click()
    ticket(mio, "Cold").get_by_role("button", name="bug").click()
    lists(mio, "Hot")
    # Renames, and votes, which sort.
    rename_ticket(ada, "Dry", "A soggy floor")
    lists(ada, "A soggy floor", "Cold", "Hot")
    lists(luis, "Cold", "Hot", "A soggy floor")
    ticket(luis, "Hot").get_by_role("button", name="Vote").click()
    lists(luis, "Hot", "Cold", "A soggy floor")
    # A deletion, and one UPDATE of many.
    ticket(ada, "Cold").get_by_role("button", name="Delete").click()
    lists(ada, "A soggy floor", "Hot")
    lists(luis, "Hot", "A soggy floor")
    mio.get_by_role("button", name="Close these").click()
    lists(luis, "A soggy floor")
    expect(mio.locator("#tickets li.closed")).to_have_count(1)
    expect(ada.locator("#tickets li.closed")).to_have_count(1)


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


@serving("live_table")
def test_page_that_was_hidden_gets_one_table_and_one_step_of_the_import(recipe, window):
    away, luis = window("mio"), window("luis")
    fill_table(luis, *(f"Ticket {number}" for number in range(12)))
    away.add_init_script(KEEP_FRAMES)
    away.goto("/?page=2")
    expect(away.locator("[data-broadcast=live]")).to_have_count(1)
    away.hide()
    away.evaluate("frames_of = []")
    luis.get_by_role("button", name="Import 500").click()
    expect(luis.locator("#tickets p")).to_have_text("512 tickets, page 1 of 52", timeout=20_000)
    expect(luis.get_by_role("progressbar")).to_have_attribute("value", "500")
    away.show()
    expect(away.locator("#tickets p")).to_have_text("512 tickets, page 2 of 52")
    expect(away.get_by_role("progressbar")).to_have_attribute("value", "500")
    assert away.evaluate("frames_of.sort()") == ["datastar-patch-elements", '{"_imported":500}']
