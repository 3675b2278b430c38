"""What a model call took, as answers, events and counters show it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.models.port import Usage as ModelUsage
from orchestrator.wire.usage import ModalityTokens, Usage


def wire_usage(usage: ModelUsage) -> Usage:
    """What one model call took, as answers and events show it."""
    return Usage(
        total_input_tokens=usage.input_tokens,
        total_output_tokens=usage.output_tokens,
        total_thought_tokens=usage.thought_tokens,
        total_cached_tokens=usage.cached_tokens,
        total_tool_use_tokens=usage.tool_use_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens + usage.thought_tokens + usage.tool_use_tokens,
        initial_input_tokens=usage.input_tokens,
        input_tokens_by_modality=_modalities(usage.input_by_modality),
        output_tokens_by_modality=_modalities(usage.output_by_modality),
        cached_tokens_by_modality=_modalities(usage.cached_by_modality),
        tool_use_tokens_by_modality=_modalities(usage.tool_use_by_modality),
        cost_usd=usage.cost_usd,
    )


def counts_of(usage: ModelUsage) -> dict[str, int]:
    """Tokens of a call by kind, for counters."""
    return {
        "input": usage.input_tokens,
        "cached": usage.cached_tokens,
        "output": usage.output_tokens,
        "thought": usage.thought_tokens,
        "tool_use": usage.tool_use_tokens,
    }


def _modalities(tokens: Mapping[str, int]) -> list[ModalityTokens] | None:
    return [ModalityTokens(modality=name, tokens=count) for name, count in tokens.items()] or None
