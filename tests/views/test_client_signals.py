"""Signals from clients: typed by the view's model, and errors that name a field and nothing else."""

import enum
import json
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from django.http import HttpRequest, QueryDict
from django.test import RequestFactory
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from ds_broadcaster.streams.tabs import TAB
from ds_broadcaster.views.client_signals import MAX_ERROR_LENGTH, BadSignals, signals_of
from tests.fakes import FACTOR

SECRET = "c7Pq9-what-the-client-wrote"


class Point(BaseModel):
    x: int
    y: int = Field(default=0, alias="whY")


class Search(BaseModel):
    query: str = Field(default="", alias="searchFor", max_length=40)
    page: int = 1
    near: Point | None = None
    points: list[Point] = []
    counts: dict[str, int] = {}
    kind: int | Point = 0


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    class Color(enum.Enum):
        RED = "red"

    day: date = date(2026, 1, 1)
    key: UUID | None = None
    color: Color = Color.RED
    pair: tuple[int, int] = (0, 0)


def request_with(signals, **headers):
    text = signals if isinstance(signals, str) else json.dumps(signals)
    return RequestFactory().get("/", {"datastar": text}, headers={"Datastar-Request": "true", **headers})


def complaint(signals, model=None):
    with pytest.raises(BadSignals) as caught:
        signals_of(request_with(signals), model)
    return str(caught.value)


# What a view gets


def test_signals_are_a_dict_without_a_model_and_an_instance_with_one():
    assert signals_of(request_with({"searchFor": "a"}), None) == {"searchFor": "a"}
    found = signals_of(request_with({"searchFor": "a", "page": 2, "unknown": 1}), Search)
    assert found == Search(searchFor="a", page=2)


def test_the_schemas_aliases_are_the_names_of_the_signals():
    assert signals_of(request_with({"query": "by its name"}), Search).query == ""
    generated = type("Generated", (Search,), {"model_config": ConfigDict(alias_generator=to_camel)})
    extended = type("Extended", (generated,), {"__annotations__": {"per_page": int}})
    assert signals_of(request_with({"perPage": 3}), extended).per_page == 3
    assert complaint({"perPage": SECRET}, extended) == "Bad signals: perPage."


def test_no_signals_are_empty_signals():
    factory = RequestFactory()
    for request in (
        factory.get("/"),
        factory.get("/", headers={"Datastar-Request": "true"}),
        factory.get("/", {"datastar": ""}, headers={"Datastar-Request": "true"}),
        factory.get("/", {"datastar": "{}"}, headers={"Datastar-Request": "true"}),
        request_with("null"),
        factory.get("/", {"datastar": SECRET}),  # Not a Datastar client: none of its signals.
        factory.post("/", {"datastar": SECRET}, headers={"Datastar-Request": "true"}),
    ):
        assert signals_of(request, None) == {}
        assert signals_of(request, Search) == Search()


def test_missing_signals_are_named():
    assert complaint({}, Point) == "Bad signals: x."
    with pytest.raises(BadSignals, match=r"^Bad signals: x\.$"):
        signals_of(RequestFactory().get("/"), Point)


def test_signals_are_read_from_the_body_where_they_are_there():
    request = RequestFactory().post(
        "/", b'{"page": 4}', content_type="application/json", headers={"Datastar-Request": "true"}
    )
    assert signals_of(request, Search).page == 4


def test_the_signal_of_the_tab_is_hidden_from_views():
    assert signals_of(request_with({TAB: "12345678", "a": 1}), None) == {"a": 1}
    assert signals_of(request_with({TAB: "12345678"}), Strict) == Strict()


def test_a_strict_model_takes_dates_and_enums_from_strings():
    key = "5e1ab8d4-9f2e-4a0e-8ad5-3f1f1f6f2f11"
    found = signals_of(request_with({"day": "2026-11-23", "key": key, "color": "red", "pair": [1, 2]}), Strict)
    assert (found.day, found.key, found.color, found.pair) == (date(2026, 11, 23), UUID(key), Strict.Color.RED, (1, 2))
    assert complaint({"pair": ["1", 2]}, Strict) == "Bad signals: pair."


def test_of_two_keys_of_one_name_the_last_counts():
    assert signals_of(request_with('{"page": "x", "page": 3}'), Search).page == 3
    assert complaint('{"page": 3, "page": "x"}', Search) == "Bad signals: page."


# Errors


@pytest.mark.parametrize("text", ["[1]", '"a"', "7", "true", f'["{SECRET}"]', "NaN"])
def test_signals_that_are_no_object_are_refused(text):
    assert complaint(text) == complaint(text, Search) == "Bad signals: they are not a JSON object."


@pytest.mark.parametrize(
    "text", ["{", SECRET, "{'a': 1}", "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\0", "\ufeff{}"]
)
def test_signals_that_are_no_json_are_refused(text):
    assert complaint(text) == complaint(text, Search) == "Bad signals: they are not JSON."


@pytest.mark.parametrize("depth", [190, 300, 900])
def test_signals_nested_deep_are_taken_or_refused(depth):
    deep = '{"deep":' * depth + "1" + "}" * depth
    for model in (Search, type("Open", (BaseModel,), {"__annotations__": {"deep": Any}})):
        try:
            signals_of(request_with(deep), model)
        except BadSignals as error:
            assert str(error).startswith("Bad signals")  # noqa: PT017


@pytest.mark.parametrize(
    "signals, said",
    [
        ({"page": SECRET}, "page"),
        ({"searchFor": SECRET * 9}, "searchFor"),
        ({"searchFor": [SECRET]}, "searchFor"),
        ({"page": SECRET, "searchFor": 7}, "searchFor, page"),
        ({"near": {"x": SECRET}}, "near.x"),
        ({"near": {"x": 1, "whY": SECRET}}, "near.whY"),
        ({"near": {SECRET: 1}}, "near.x"),
        ({"near": SECRET}, "near"),
        ({"points": [{"x": 1}, {"x": SECRET}, {"x": SECRET}]}, "points"),
        ({"counts": {SECRET: SECRET}}, "counts"),
        ({"kind": {"x": SECRET, SECRET: 1}}, "kind"),
        ({"page": float("nan")}, "page"),
        ({"page": 10**40, "searchFor": "\ud800"}, None),
    ],
)
def test_an_error_names_the_field_and_nothing_else(signals, said):
    text = complaint(signals, Search)
    if said is not None:
        assert text == f"Bad signals: {said}."
    assert SECRET not in text


def test_an_unknown_field_is_not_repeated():
    assert complaint({SECRET: 1}, Strict) == "Bad signals: signals."
    assert complaint({SECRET: SECRET}, RootModel[dict[str, int]]) == "Bad signals: signals."

    class Typed(BaseModel):
        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, int]

    assert complaint({SECRET: SECRET}, Typed) == "Bad signals: signals."


def test_aliases_of_every_kind_are_named():
    class Aliased(BaseModel):
        one: int = Field(default=0, validation_alias=AliasChoices("uno", "ein"))
        two: int = Field(default=0, validation_alias=AliasPath("deux", "value"))
        three: int = Field(default=0, validation_alias="drei", alias="tre")

    assert complaint({"uno": SECRET}, Aliased) == "Bad signals: uno."
    assert complaint({"ein": SECRET}, Aliased) == "Bad signals: ein."
    assert complaint({"deux": {"value": SECRET}}, Aliased) == "Bad signals: deux."
    assert complaint({"drei": SECRET}, Aliased) == "Bad signals: drei."


def test_the_message_of_a_projects_validator_is_not_sent():
    class Checked(BaseModel):
        word: str = ""

        @field_validator("word")
        @classmethod
        def known(cls, value):
            raise ValueError(f"{value} is not in our secret list")

        @model_validator(mode="before")
        @classmethod
        def whole(cls, values):
            assert "all" not in values, f"{values} cannot be"
            return values

    assert complaint({"word": SECRET}, Checked) == "Bad signals: word."
    assert complaint({"all": SECRET}, Checked) == "Bad signals: signals."


def test_a_complaint_is_short_however_much_is_wrong():
    names = [f"a_rather_long_name_{number}" for number in range(100)]
    wide = type("Wide", (BaseModel,), {"__annotations__": dict.fromkeys(names, int)})
    assert len(complaint(dict.fromkeys(names, SECRET), wide)) == MAX_ERROR_LENGTH + 1
    assert complaint({"points": [{"x": SECRET}] * 20_000}, Search) == "Bad signals: points."


# Whatever they send

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(SECRET) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.just(SECRET), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(["searchFor", "query", "page", "near", "points", "counts", "kind", "x", TAB, SECRET])
documents = st.dictionaries(names, json_values | st.dictionaries(names, json_values, max_size=3), max_size=5)


@given(documents.map(json.dumps) | json_values.map(json.dumps) | st.text(st.characters(codec="utf-8")))
@settings(deadline=None, max_examples=300 * FACTOR)
def test_any_text_is_accepted_or_refused_without_a_word_of_it(text):
    for model in (None, Search, Strict, Point, RootModel[dict[str, Point]]):
        try:
            found = signals_of(request_with(text), model)
        except BadSignals as error:
            said = str(error)
            assert said.startswith("Bad signals: ")
            fields = said.removeprefix("Bad signals: ").removesuffix(".")
            known = {"signals", "they are not JSON", "they are not a JSON object", "they are nested too deep"}
            declared = {*Search.model_fields, *Strict.model_fields, "searchFor", "x", "whY"}
            assert fields in known or all(set(each.split(".")) <= declared for each in fields.split(", ")), said
        else:
            assert isinstance(found, dict if model is None else model)


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=200 * FACTOR)
def test_any_bytes_in_the_query(data):
    request = HttpRequest()
    request.method = "GET"
    request.META = {"HTTP_DATASTAR_REQUEST": "true"}
    request._body = b""
    request.GET = QueryDict(b"datastar=" + data.replace(b"&", b"%26"))
    try:
        signals_of(request, Search)
    except BadSignals as error:
        assert str(error).startswith("Bad signals: ")  # noqa: PT017
