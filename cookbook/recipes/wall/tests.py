from .models import Note


def test_note_is_on_the_wall_in_every_window(db, live_page):
    page, other = live_page("/"), live_page("/")
    page.post("/", {"text": "From one"})
    other.post("/", {"text": "From <i>another</i>"})
    for each in (page, other, live_page("/")):
        each.settle()
        assert [note.text for note in each.select("#notes li")] == ["From one", "From <i>another</i>"]


def test_note_is_sent_once_and_escaped(db, broadcasts):
    Note.objects.create(text="<script>")
    broadcasts.assert_sent("wall", mode="append", target="#notes", contains="&lt;script&gt;")
    assert len(broadcasts) == 1
