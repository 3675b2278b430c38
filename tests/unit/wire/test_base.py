from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import (
    AnyCase,
    Base64,
    ByShape,
    ByType,
    Count,
    Few,
    Flag,
    Int64,
    ListOf,
    Number,
    WireModel,
    WireResource,
    dump,
    missing,
    parse,
    problem,
)


class Apple(WireModel):
    type: Literal["apple"] = "apple"
    text: str
    weight_g: Int64 | None = None


class Pear(WireModel):
    type: Literal["pear", "nashi"] = "pear"
    size: Count
    taste: Annotated[Literal["sweet", "sour"], AnyCase] | None = None


Fruit = Annotated[Apple | Pear, ByType("fruit", aliases={"williams": "pear"})]
Basket = Annotated[str | ListOf[Fruit] | dict[str, Any], ByShape("a string, a list or an object")]


class Shop(WireModel):
    name: str
    fruit: Fruit | None = None
    basket: Basket | None = None
    is_open: Flag = True
    rent: Number = 0.0
    prices: Annotated[dict[str, Int64], Few] | None = None


def refusal(data: Any, at: str = "") -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse(Shop, data, at)
    return caught.value.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "Invalid request: expected an object."),
        ({}, "Missing required parameter 'name'."),
        ({"name": None}, "Missing required parameter 'name'."),
        ({"name": 5}, "Invalid value at 'name': expected a string."),
        ({"name": "a", "isOpen": True}, "Unknown parameter 'isOpen' (closest known name: 'is_open')."),
        ({"name": "a", "IS-OPEN": True}, "Unknown parameter 'IS-OPEN' (closest known name: 'is_open')."),
        (
            {"name": "a", "zzz": 1},
            "Unknown parameter 'zzz' (known names: basket, fruit, is_open, name, prices, rent).",
        ),
        ({"name": "a", "is_open": 1}, "Invalid value at 'is_open': expected true or false."),
        ({"name": "a", "is_open": "yes"}, "Invalid value at 'is_open': expected true or false."),
        ({"name": "a", "rent": "5"}, "Invalid value at 'rent': expected a number."),
        ({"name": "a", "rent": True}, "Invalid value at 'rent': expected a number."),
        ({"name": "a", "rent": 10**400}, "Invalid value at 'rent': expected a number."),
        ({"name": "a", "fruit": 5}, "Invalid value at 'fruit': expected an object."),
        (
            {"name": "a", "fruit": {}},
            "Missing required parameter 'type' at 'fruit'; known fruit types: apple, pear, nashi.",
        ),
        ({"name": "a", "fruit": {"type": ["apple"]}}, "Invalid value at 'fruit.type': expected a string."),
        ({"name": "a", "fruit": {"type": None}}, "Invalid value at 'fruit.type': expected a string."),
        (
            {"name": "a", "fruit": {"type": "pea\n"}},
            "Unknown fruit type 'pea\\n' at 'fruit.type'; known: apple, pear, nashi.",
        ),
        ({"name": "a", "fruit": {"type": "apple"}}, "Missing required parameter 'text' at 'fruit'."),
        ({"name": "a", "fruit": {"type": "apple", "text": []}}, "Invalid value at 'fruit.text': expected a string."),
        (
            {"name": "a", "fruit": {"type": "apple", "text": "x", "apple": 1}},
            "Unknown parameter 'apple' at 'fruit' (known names: text, type, weight_g).",
        ),
        (
            {"name": "a", "fruit": {"type": "pear", "size": -1}},
            "Invalid value at 'fruit.size': expected an integer of at least 0.",
        ),
        (
            {"name": "a", "fruit": {"type": "pear", "size": 1, "taste": "bitter"}},
            "Invalid value at 'fruit.taste': expected 'sweet' or 'sour'.",
        ),
        ({"name": "a", "basket": 5}, "Invalid value at 'basket': expected a string, a list or an object."),
        (
            {"name": "a", "basket": [{"type": "apple", "text": "x"}, {"type": "apple", "txt": "x"}]},
            "Unknown parameter 'txt' at 'basket[1]' (closest known name: 'text').",
        ),
        ({"name": "a", "prices": {"a b": "x"}}, "Invalid value at 'prices[\"a b\"]': expected an integer."),
        ({"name": "a", "prices": {"a": 2.5}}, "Invalid value at 'prices.a': expected an integer."),
        ({"name": "a", "prices": {"a": True}}, "Invalid value at 'prices.a': expected an integer."),
        ({"name": "a", "prices": {"a": 2**63}}, "Invalid value at 'prices.a': expected an integer of at most 64 bits."),
        (
            {"name": "a", "prices": {"a": "9" * 19}},
            "Invalid value at 'prices.a': expected an integer of at most 64 bits.",
        ),
        ({"name": "a", "prices": {"a": "1" * 5000}}, "Invalid value at 'prices.a': expected an integer."),
        (
            {"name": "a", "prices": {str(i): "x" for i in range(1001)}},
            "Invalid value at 'prices': expected at most 1000 entries.",
        ),
    ],
)
def test_refusals_speak_of_the_callers_json(data: Any, message: str) -> None:
    assert refusal(data) == message


def test_paths_begin_where_the_value_was_found() -> None:
    assert refusal({"name": 5}, "shops[2]") == "Invalid value at 'shops[2].name': expected a string."
    assert refusal(5, "shops[2]") == "Invalid value at 'shops[2]': expected an object."
    assert refusal({}, "shops[2]") == "Missing required parameter 'name' at 'shops[2]'."


def test_canonical_values_of_lenient_fields() -> None:
    shop = parse(
        Shop,
        {
            "name": "a",
            "fruit": {"type": "Williams", "size": "12", "taste": "SWEET"},
            "basket": [{"type": "APPLE", "text": "x", "weight_g": "-9223372036854775808"}],
            "is_open": None,
            "rent": 3,
        },
    )
    assert dump(shop) == {
        "name": "a",
        "fruit": {"type": "pear", "size": 12, "taste": "sweet"},
        "basket": [{"type": "apple", "text": "x", "weight_g": -(2**63)}],
        "is_open": True,
        "rent": 3.0,
    }
    assert parse(Shop, dump(shop)) == shop


def test_a_callers_object_is_not_changed() -> None:
    data = {"name": "a", "fruit": {"type": "WILLIAMS", "size": "1"}, "basket": None}
    parse(Shop, data)
    assert data == {"name": "a", "fruit": {"type": "WILLIAMS", "size": "1"}, "basket": None}


def test_objects_of_the_union_pass_as_they_are() -> None:
    apple = Apple(text="x")
    assert Shop(name="a", fruit=apple, basket=[apple]).fruit is apple


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError):
        setattr(Apple(text="x"), "text", "y")  # noqa: B010  # as an assignment, the type checker refuses it


def test_resources_keep_what_newer_servers_say() -> None:
    class Thing(WireResource):
        id: str

    assert dump(parse(Thing, {"id": "a", "new": {"x": None}})) == {"id": "a", "new": {"x": None}}


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("", ""),
        ("YQ==", "YQ=="),
        ("YQ", "YQ=="),
        ("-_-_", "+/+/"),
        ("YW\r\nJj\n", "YWJj"),
        ("Y", None),
        ("YQ=", "YQ=="),
        ("YR==", "YR=="),
        ("Y Q", None),
        ("é", None),
        ("a=bc", None),
        ("\x00", None),
    ],
)
def test_base64(given: str, canonical: str | None) -> None:
    adapter: TypeAdapter[str] = TypeAdapter(Base64)
    if canonical is None:
        with pytest.raises(InvalidRequest, match="expected base64"):
            parse(adapter, given, "data")
    else:
        assert parse(adapter, given, "data") == canonical


def test_problems_raised_by_validators_lead_on_from_where_they_are_raised() -> None:
    def check(value: Any) -> Any:
        raise problem("too {sour}", "core", 0) if value else missing("core")

    from pydantic import BeforeValidator

    class Box(WireModel):
        item: Annotated[Any, BeforeValidator(check)]

    with pytest.raises(InvalidRequest) as caught:
        parse(Box, {"item": 1})
    assert caught.value.message == "Invalid value at 'item.core[0]': too {sour}."
    with pytest.raises(InvalidRequest) as caught:
        parse(Box, {"item": 0})
    assert caught.value.message == "Missing required parameter 'core' at 'item'."


def test_only_the_first_wrong_item_is_looked_at() -> None:
    """A body of half a million wrong items must not become as many errors."""
    adapter: TypeAdapter[list[Fruit]] = TypeAdapter(ListOf[Fruit])
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python([5] * 1000)
    assert caught.value.error_count() == 1
