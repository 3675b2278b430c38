from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import dump, encode_json, parse
from orchestrator.wire.usage import GroundingToolCount, ModalityTokens, Usage


def test_totals_are_always_told() -> None:
    assert dump(Usage()) == {
        "total_input_tokens": 0,
        "total_cached_tokens": 0,
        "total_output_tokens": 0,
        "total_thought_tokens": 0,
        "total_tool_use_tokens": 0,
        "total_tokens": 0,
    }


def test_plus_adds_every_field() -> None:
    numbers = {name: 10 + index for index, name in enumerate(Usage.model_fields) if name.startswith("total_")}
    first = Usage(
        **numbers,
        initial_input_tokens=7,
        input_tokens_by_modality=[
            ModalityTokens(modality="text", tokens=1),
            ModalityTokens(modality="image", tokens=2),
        ],
        grounding_tool_count=[GroundingToolCount(type="google_search", count=1)],
    )
    second = Usage(
        **numbers,
        initial_input_tokens=9,
        input_tokens_by_modality=[ModalityTokens(modality="image", tokens=3)],
        output_tokens_by_modality=[ModalityTokens(modality="text", tokens=4)],
        grounding_tool_count=[GroundingToolCount(type="google_search", count=2)],
    )
    total = dump(first.plus(second))
    assert {name: total[name] for name in numbers} == {name: 2 * value for name, value in numbers.items()}
    assert total["initial_input_tokens"] == 7
    assert total["input_tokens_by_modality"] == [
        {"modality": "text", "tokens": 1},
        {"modality": "image", "tokens": 5},
    ]
    assert total["output_tokens_by_modality"] == [{"modality": "text", "tokens": 4}]
    assert total["grounding_tool_count"] == [{"type": "google_search", "count": 3}]
    assert "cached_tokens_by_modality" not in total


def test_nothing_is_the_neutral_element() -> None:
    usage = Usage(total_tokens=3, initial_input_tokens=2)
    assert Usage().plus(usage) == usage
    assert usage.plus(Usage()) == usage


def test_a_cost_is_a_number_and_comes_back_as_it_was() -> None:
    usage = parse(Usage, {"initial_input_tokens": 1, "cost_usd": 0.1})
    assert usage.cost_usd == Decimal("0.1")
    assert dump(usage)["cost_usd"] == 0.1
    assert encode_json(usage.plus(usage)).endswith(b'"cost_usd":0.2}')
    with pytest.raises(InvalidRequest):
        parse(Usage, {"cost_usd": -1})


def test_strings_of_digits_are_numbers() -> None:
    assert parse(Usage, {"total_tokens": "9007199254740993"}).total_tokens == 9007199254740993
