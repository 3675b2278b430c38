"""Tokens used by a run, as answers and events show them (reference, section 8), and what they cost. No I/O."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from pydantic import ConfigDict, Field, PlainSerializer

from orchestrator.wire.base import Count, ListOf, WireResource

Dollars = Annotated[Decimal, Field(ge=0), PlainSerializer(float, return_type=float)]
"""Exact here; on the wire a number, as JSON has no other. Up to 15 digits come back as they were."""


class ModalityTokens(WireResource):
    modality: str
    tokens: Count


class GroundingToolCount(WireResource):
    type: str
    count: Count


class Usage(WireResource):
    """Sums over all model calls of the run so far. Of the modalities, absent means not broken down."""

    model_config = ConfigDict(extra="ignore")

    total_input_tokens: Count = 0
    total_cached_tokens: Count = 0
    total_output_tokens: Count = 0
    total_thought_tokens: Count = 0
    total_tool_use_tokens: Count = 0
    total_tokens: Count = 0
    initial_input_tokens: Count | None = None
    """Input of the run's first model call."""
    input_tokens_by_modality: ListOf[ModalityTokens] | None = None
    output_tokens_by_modality: ListOf[ModalityTokens] | None = None
    cached_tokens_by_modality: ListOf[ModalityTokens] | None = None
    tool_use_tokens_by_modality: ListOf[ModalityTokens] | None = None
    grounding_tool_count: ListOf[GroundingToolCount] | None = None
    cost_usd: Dollars | None = None
    """What the model calls cost, in US dollars. An extension of this server. Absent unless the price of every one of
    them is known: part of a cost must not look like all of it."""

    @property
    def has_calls(self) -> bool:
        """Whether it is of any model call."""
        return self.initial_input_tokens is not None

    def plus(self, other: Usage) -> Self:
        """The sum of both. `initial_input_tokens` is that of the earlier one, which is `self`."""
        first = self.initial_input_tokens
        return self.model_copy(
            update={
                "total_input_tokens": self.total_input_tokens + other.total_input_tokens,
                "total_cached_tokens": self.total_cached_tokens + other.total_cached_tokens,
                "total_output_tokens": self.total_output_tokens + other.total_output_tokens,
                "total_thought_tokens": self.total_thought_tokens + other.total_thought_tokens,
                "total_tool_use_tokens": self.total_tool_use_tokens + other.total_tool_use_tokens,
                "total_tokens": self.total_tokens + other.total_tokens,
                "initial_input_tokens": other.initial_input_tokens if first is None else first,
                "input_tokens_by_modality": _add_tokens(self.input_tokens_by_modality, other.input_tokens_by_modality),
                "output_tokens_by_modality": _add_tokens(
                    self.output_tokens_by_modality, other.output_tokens_by_modality
                ),
                "cached_tokens_by_modality": _add_tokens(
                    self.cached_tokens_by_modality, other.cached_tokens_by_modality
                ),
                "tool_use_tokens_by_modality": _add_tokens(
                    self.tool_use_tokens_by_modality, other.tool_use_tokens_by_modality
                ),
                "grounding_tool_count": _add_counts(self.grounding_tool_count, other.grounding_tool_count),
                "cost_usd": _add_costs(self, other),
            }
        )


def _add_tokens(left: list[ModalityTokens] | None, right: list[ModalityTokens] | None) -> list[ModalityTokens] | None:
    if left is None or right is None:
        return left or right
    sums: dict[str, int] = {}
    for part in (*left, *right):
        sums[part.modality] = sums.get(part.modality, 0) + part.tokens
    return [ModalityTokens(modality=name, tokens=tokens) for name, tokens in sums.items()]


def _add_counts(
    left: list[GroundingToolCount] | None, right: list[GroundingToolCount] | None
) -> list[GroundingToolCount] | None:
    if left is None or right is None:
        return left or right
    sums: dict[str, int] = {}
    for part in (*left, *right):
        sums[part.type] = sums.get(part.type, 0) + part.count
    return [GroundingToolCount(type=name, count=count) for name, count in sums.items()]


def _add_costs(left: Usage, right: Usage) -> Decimal | None:
    costs = [each.cost_usd for each in (left, right) if each.has_calls or each.cost_usd is not None]
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if known and len(known) == len(costs) else None
