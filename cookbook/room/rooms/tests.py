"""The tests of the demo: `python manage.py test`, in its folder."""

from django.contrib.auth import get_user_model
from django.test import TestCase

from ds_broadcaster import broadcast
from ds_broadcaster.testing import BroadcastTestMixin

from .channels import HomeChannel, RoomChannel
from .models import Room
from .people import PEOPLE


class RoomTests(BroadcastTestMixin, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.ada, cls.mio, cls.luis = (
            get_user_model().objects.create_user(username, first_name=name.split()[0])
            for username, name in PEOPLE.items()
        )

    def setUp(self):
        super().setUp()
        self.room = self.make_room("Garden")
        self.url = f"/rooms/{self.room.pk}/"

    def make_room(self, name):
        """Make a room of Mio's, with all three in it."""
        room = Room.objects.create(owner=self.mio, name=name)
        room.members.set([self.ada, self.mio, self.luis])
        return room

    def open(self, *users):
        """Return the room's page of each user."""
        return [self.live_page(self.url, user=user) for user in users]

    def states(self, page):
        """Return what a page says of each member."""
        page.settle()
        members = page.select(".member")
        return {each.select_one(".name").text.split()[0]: each.select_one(".state").text for each in members}

    def texts(self, page):
        page.settle()
        return [each.text for each in page.select("#messages .text")]

    def cards(self, page):
        page.settle()
        return [each.text for each in page.select("#rooms h2")]

    def write(self, page, *texts):
        for text in texts:
            assert page.post(f"{self.url}messages/", {"text": text}).status_code == 200

    # Messages

    def test_message_appears_in_both_windows_and_empties_the_field(self):
        mio, ada = self.open(self.mio, self.ada)
        mio.signals["_text"] = "<b>bold</b> {{ 7|add:7 }}"
        self.write(mio, mio.signals["_text"])
        self.write(ada, "there")
        assert self.texts(mio) == self.texts(ada) == ["<b>bold</b> {{ 7|add:7 }}", "there"]
        assert mio.signals["_text"] == ""

    def test_message_is_a_fragment_of_the_room_and_a_refresh_of_the_list(self):
        self.broadcasts.clear()
        self.room.messages.create(author=self.ada, text="  indented\n  lines")
        self.broadcasts.assert_sent(
            self.room.channel, mode="append", target="#messages", contains="  indented", count=1
        )
        self.broadcasts.assert_sent("rooms", verb="refresh", count=1)
        self.broadcasts.assert_max_queries(2)

    def test_hidden_tab_shows_everything_sent_meanwhile_once_and_in_order(self):
        mio, ada = self.open(self.mio, self.ada)
        ada.hide()
        self.write(mio, "1", "2", "3")
        assert self.texts(ada) == []
        ada.show()
        assert self.texts(ada) == ["1", "2", "3"]

    def test_message_is_saved_while_the_broker_is_away(self):
        with self.broadcaster_outage(), self.assertLogs("ds_broadcaster"):
            self.room.messages.create(author=self.ada, text="there all the same")
        [page] = self.open(self.mio)
        assert self.texts(page) == ["there all the same"]

    # Presence

    def test_who_is_here_and_away_and_gone(self):
        mio, ada, luis = self.open(self.mio, self.ada, self.luis)
        assert self.states(mio) == {"Ada": "Here now", "Luis": "Here now", "Mio": "Here now · owner"}
        luis.hide()
        ada.close()
        self.broadcaster_clock.advance(3)
        assert self.states(mio) == {"Ada": "Not here", "Luis": "Away", "Mio": "Here now · owner"}
        luis.show()
        assert self.states(mio)["Luis"] == "Here now"

    def test_typing_and_pointers_are_in_no_history(self):
        [ada] = self.open(self.ada)
        self.broadcasts.clear()
        ada.post(f"{self.url}typing/")
        ada.post(f"{self.url}pointer/", payload={"x": 0.25, "y": 0.5})
        typing, pointer = self.broadcasts.assert_sent(self.room.channel)
        assert (typing.transient, typing.key) == (True, f"typing-{self.ada.pk}")
        assert (pointer.transient, pointer.key) == (True, f"pointer-{self.ada.pk}")
        assert "translate: 25.00% 50.00%" in pointer.element.attrs["style"]
        ada.post(f"{self.url}pointer/", payload={})
        assert not self.broadcasts[-1].transient

    # Permission

    def test_a_room_is_for_its_members(self):
        self.assertMayListen(self.ada, RoomChannel, pk=self.room.pk)
        self.assertRefused(None, RoomChannel, pk=self.room.pk)
        self.assertRefused(self.ada, RoomChannel, pk=0)
        self.assertRefused(get_user_model().objects.create_user("eve"), RoomChannel, pk=self.room.pk)
        self.assertRefused(None, HomeChannel)

    def test_removed_user_is_told_and_may_not_return_until_let_in(self):
        mio, ada, luis = self.open(self.mio, self.ada, self.luis)
        mio.post(f"{self.url}members/{self.luis.pk}/kick/")
        luis.settle()
        assert luis.state == "closed"
        assert luis.select_one("[role=alert]").text.startswith("You are out of “Garden” Mio removed you.")
        self.assertRefused(self.luis, RoomChannel, pk=self.room.pk)
        assert self.states(mio)["Luis"] == self.states(ada)["Luis"] == "Removed"
        mio.post(f"{self.url}members/{self.luis.pk}/let-in/")
        self.assertMayListen(self.luis, RoomChannel, pk=self.room.pk)
        assert self.states(ada)["Luis"] == "Not here"

    def test_only_the_owner_removes_members_and_rooms(self):
        [ada] = self.open(self.ada)
        self.broadcasts.clear()
        assert ada.post(f"{self.url}members/{self.luis.pk}/kick/").status_code == 403
        assert ada.post(f"{self.url}delete/").status_code == 403
        self.broadcasts.assert_nothing_sent()

    def test_everybody_is_told_that_the_room_is_deleted(self):
        mio, ada = self.open(self.mio, self.ada)
        mio.post(f"{self.url}delete/")
        ada.settle()
        assert ada.state == "closed"
        assert "“Garden” is gone Mio deleted this room." in ada.select_one("[role=alert]").text
        self.assertRefused(self.ada, RoomChannel, pk=self.room.pk)

    # The list of rooms

    def test_list_of_rooms_is_in_the_order_of_news_and_that_of_its_viewer(self):
        ada, luis = self.live_page("/", user=self.ada), self.live_page("/", user=self.luis)
        [mio] = self.open(self.mio)
        self.write(mio, "hello")
        self.make_room("Studio").messages.create(author=self.ada, text="for all")
        assert self.cards(ada) == self.cards(luis) == ["Studio", "Garden"]
        mio.post(f"{self.url}members/{self.luis.pk}/kick/")
        self.write(mio, "not for Luis")
        self.make_room("New")
        assert self.cards(ada) == self.cards(luis) == ["New", "Garden", "Studio"]
        mine, theirs = (page.select("#rooms .card")[1].text for page in (ada, luis))
        assert "Mio not for Luis" in mine
        assert "1 here now" in mine
        assert "Mio removed you." in theirs
        assert "not for Luis" not in luis.html
        mio.post(f"{self.url}delete/")
        assert self.cards(ada) == ["New", "Studio"]

    def test_list_takes_as_many_queries_for_many_rooms_as_for_one(self):
        for number in range(5):
            self.make_room(f"Room {number}")
        broadcast.refresh("rooms")
        self.open_stream(HomeChannel, user=self.ada, cursor="of-before-1").next(target="#rooms")
        self.broadcasts.assert_max_queries(3)
