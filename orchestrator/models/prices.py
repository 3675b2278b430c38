"""What calls of models cost, by the price table of `genai-prices` and the operator's own prices. Imports `models.port`
and `config`; the table only in `load`, since it takes a tenth of a second.

The table is the one that was installed: nothing is fetched. A price that is not known is None and never a guess: what a
server of one's own costs, nobody can say but its operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from orchestrator.clock import Clock, SystemClock
from orchestrator.config import PriceSettings
from orchestrator.models.port import Usage

if TYPE_CHECKING:
    from genai_prices import Usage as Tokens
    from genai_prices.types import ModelPrice

_EXACT_TO = Decimal("1e-12")
"""Dollars: a hundredth of what one token costs where tokens are cheapest. Sums of it survive being written as JSON."""
_UNITS = {"text": "text", "image": "image", "audio": "audio", "video": "video", "document": "image"}
"""Modalities, and as which of them the table prices each."""


class Prices:
    """Prices of all models."""

    def __init__(self, own: Mapping[str, PriceSettings] | None = None, clock: Clock | None = None) -> None:
        """`own`: by `provider:model`, or by the model's name at whichever provider; they win."""
        self._own = dict(own or {})
        self._clock = clock or SystemClock()

    def load(self) -> None:
        """Reads the table, once in a process. Blocks: for a thread. Without it the first price does the same."""
        from genai_prices.data_snapshot import get_snapshot

        get_snapshot()

    def cost_usd(
        self, model: str, base_url: str, usage: Usage, terms: Mapping[str, str] | None = None
    ) -> Decimal | None:
        """What a call of `model` (`provider:model`) at `base_url` cost; None if its price is not known.

        `terms` are facts of the answer that prices may depend on, such as `service_tier`.
        """
        price = self._price(model, base_url, terms or {})
        if price is None or price.input_mtok is None or price.output_mtok is None:
            return None
        try:
            return price.calc_price(_tokens(usage))["total_price"].quantize(_EXACT_TO).normalize()
        except ValueError:
            return None  # counts that contradict each other, such as more cached than there were

    def _price(self, model: str, base_url: str, terms: Mapping[str, str]) -> ModelPrice | None:
        name = model.partition(":")[2]
        own = self._own.get(model) or self._own.get(name)
        if own is not None:
            return _as_price(own)
        from genai_prices.data_snapshot import get_snapshot

        try:
            _, found = get_snapshot().find_provider_model(name, None, None, base_url)
        except LookupError:
            return None
        return found.get_prices(self._clock.now(), terms)


def _as_price(own: PriceSettings) -> ModelPrice:
    from genai_prices.types import ModelPrice

    return ModelPrice(
        input_mtok=own.input_mtok,
        output_mtok=own.output_mtok,
        cache_read_mtok=own.cached_input_mtok,
        cache_write_mtok=own.cache_write_mtok,
    )


def _tokens(usage: Usage) -> Tokens:
    """A call's tokens as the table counts them: what a tool put in is input, thoughts are output."""
    from genai_prices import Usage as Tokens

    counts = Counter(
        input_tokens=usage.input_tokens + usage.tool_use_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens + usage.thought_tokens,
        output_reasoning_tokens=usage.thought_tokens,
    )
    for modality, unit in _UNITS.items():
        # Also zeros: where a modality has a price of its own, the table insists on knowing how much of it was cached.
        counts[f"input_{unit}_tokens"] += usage.input_by_modality.get(modality, 0)
        counts[f"input_{unit}_tokens"] += usage.tool_use_by_modality.get(modality, 0)
        counts[f"cache_{unit}_read_tokens"] += usage.cached_by_modality.get(modality, 0)
        counts[f"output_{unit}_tokens"] += usage.output_by_modality.get(modality, 0)
    return Tokens(**counts)
