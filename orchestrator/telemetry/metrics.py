"""What this server counts, for Prometheus. Imports `errors` only.

Each server has its own registry: nothing is global. Names and labels are the operator's interface; a label has few
values, whatever clients send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from orchestrator.errors import CorralError

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OTHER = "other"
"""The label of all models that have none of their own."""
_MOST_MODELS = 100
_LONGEST_NAME = 200


class Metrics:
    """The counters of one server, from its start."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        """`models`: those that the settings name. Clients may ask for more; a name of theirs counts by itself once a
        call of it has succeeded, for the first hundred, and as `other` till then: the names are the clients' words.
        """
        self._registry = CollectorRegistry()
        self._models = set(models)
        self._most_models = len(self._models) + _MOST_MODELS
        self._calls = self._counter(
            "corral_model_calls", "Model calls by outcome: ok, cancelled, or the error's code.", "model", "outcome"
        )
        self._tokens = self._counter(
            "corral_model_tokens", "Tokens of model calls that ended well. cached is part of input.", "model", "kind"
        )
        self._cost = self._counter("corral_model_cost_usd", "US dollars for model calls whose price is known.", "model")
        self._interactions = self._counter("corral_interactions", "Interactions that ended, by status.", "status")

    @contextmanager
    def model_call(self, model: str) -> Iterator[ModelCall]:
        """Counts a call of `model` when it is over, whichever way it ends."""
        call = ModelCall()
        outcome = "broken"
        try:
            yield call
            outcome = "ok"
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        except CorralError as error:
            outcome = error.code
            raise
        finally:
            name = self._label(model, is_good=outcome == "ok")
            self._calls.labels(name, outcome).inc()
            for kind, tokens in call.tokens.items():
                self._tokens.labels(name, kind).inc(tokens)
            if call.cost_usd is not None:
                self._cost.labels(name).inc(float(call.cost_usd))

    def interaction_ended(self, status: str) -> None:
        """Counts an interaction that ended, or that waits for its client."""
        self._interactions.labels(status).inc()

    def render(self) -> bytes:
        """All counters in Prometheus' text format, `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _label(self, model: str, *, is_good: bool) -> str:
        if is_good and len(self._models) < self._most_models and len(model) <= _LONGEST_NAME:
            self._models.add(model)
        return model if model in self._models else OTHER


class ModelCall:
    """What a call that goes on has taken."""

    def __init__(self) -> None:
        self.tokens: Mapping[str, int] = {}
        self.cost_usd: Decimal | None = None

    def took(self, tokens: Mapping[str, int], cost_usd: Decimal | None) -> None:
        """Notes the call's tokens, by kind, and its cost if that is known."""
        self.tokens, self.cost_usd = tokens, cost_usd
