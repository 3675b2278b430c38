"""What calls cost. All sums are by hand: dollars per million tokens, as the price pages of the providers have them."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.config import PriceSettings, Settings
from orchestrator.models.port import Usage
from orchestrator.models.prices import Prices
from orchestrator.models.vendors import VENDORS
from tests.fakes.clock import ManualClock

OWN = PriceSettings(input_mtok=Decimal("0.4"), output_mtok=Decimal("1.6"), cached_input_mtok=Decimal("0.1"))


def cost(model: str, usage: Usage, **terms: str) -> Decimal | None:
    return Prices().cost_usd(model, VENDORS[model.partition(":")[0]].base_url, usage, terms)


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        # 600 input and 20 of a tool at 0.30, 400 cached at 0.03, 100 output and 50 thoughts at 2.50
        ("gemini:gemini-2.5-flash", Usage(1000, 100, 50, 400, 20), "0.000573"),
        # of the input 600 is audio at 1.00, with 100 of it cached at 0.10; of the text 300 of 400 is cached
        (
            "gemini:gemini-2.5-flash",
            Usage(
                1000,
                0,
                0,
                400,
                input_by_modality={"text": 400, "audio": 600},
                cached_by_modality={"text": 300, "audio": 100},
            ),
            "0.000549",
        ),
        # up to 200,000 of input 1.25 and 10, beyond it all of the call 2.50 and 15
        ("gemini:gemini-2.5-pro", Usage(200_000, 1000), "0.26"),
        ("gemini:gemini-2.5-pro", Usage(200_001, 1000), "0.5150025"),
        # 600 at 0.25, 400 cached at 0.025, 150 at 2
        ("openai:gpt-5-mini", Usage(1000, 100, 50, 400), "0.00046"),
        # 100 at 3, 400 cached at 0.30, 500 written to the cache at 3.75, 150 at 15
        ("anthropic:claude-sonnet-4-5", Usage(1000, 100, 50, 400, cache_write_tokens=500), "0.004545"),
    ],
)
def test_public_prices(model: str, usage: Usage, dollars: str) -> None:
    assert cost(model, usage) == Decimal(dollars)


def test_a_tier_of_the_provider_has_its_own_price() -> None:
    prices = Prices(clock=ManualClock(datetime(2026, 11, 1, tzinfo=UTC)))
    usage = Usage(1_000_000, 1_000_000)
    found = [
        prices.cost_usd("openai:gpt-5-mini", VENDORS["openai"].base_url, usage, {"service_tier": tier})
        for tier in ("default", "flex", "priority", "whatever")
    ]
    assert found == [Decimal("2.25"), Decimal("1.125"), Decimal("4.05"), Decimal("2.25")]


def test_what_is_not_known_has_no_price() -> None:
    usage = Usage(1000, 100)
    assert cost("openai:a-model-of-nobody", usage) is None
    assert Prices().cost_usd("local:gpt-5-mini", "http://127.0.0.1:8000/v1", usage) is None
    assert Prices().cost_usd("gateway:gpt-5-mini", "https://models.example.com/v1", usage) is None
    # Sound by the hour: its tokens cost nothing in the table, which does not make them free.
    assert Prices().cost_usd("groq:whisper-large-v3", "https://api.groq.com/openai/v1", usage) is None


def test_counts_that_contradict_each_other_have_no_price() -> None:
    assert cost("openai:gpt-5-mini", Usage(100, 10, cached_tokens=200)) is None


def test_own_prices_win() -> None:
    usage = Usage(1000, 100, 50, 400, 20, cache_write_tokens=300)
    own = Decimal("0.000528")  # 620, what was written to the cache included, at 0.40, 400 at 0.10, 150 at 1.60
    for name in ("gpt-5-mini", "openai:gpt-5-mini"):
        prices = Prices({name: OWN, "local:gpt-5-mini": PriceSettings(input_mtok=0, output_mtok=0)})
        assert prices.cost_usd("openai:gpt-5-mini", VENDORS["openai"].base_url, usage) == own
        assert prices.cost_usd("local:gpt-5-mini", "http://127.0.0.1:8000/v1", usage) == 0
    prices = Prices({"llama3:8b": OWN})
    assert prices.cost_usd("ollama:llama3:8b", "http://127.0.0.1:11434/v1", usage) == own
    assert prices.cost_usd("ollama:llama3:70b", "http://127.0.0.1:11434/v1", usage) is None


COUNT = st.integers(0, 10**9)


@given(COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)
@settings(deadline=None)
def test_own_prices_are_plain_arithmetic(
    plain: int, cached: int, written: int, output: int, thought: int, tool: int
) -> None:
    price = PriceSettings(
        input_mtok=Decimal("0.15"), output_mtok=Decimal("2.5"), cached_input_mtok=Decimal("0.0375"), cache_write_mtok=1
    )
    usage = Usage(plain + cached + written, output, thought, cached, tool, cache_write_tokens=written)
    wanted = (plain + tool) * 150_000 + cached * 37_500 + written * 1_000_000 + (output + thought) * 2_500_000
    assert Prices({"m": price}).cost_usd("local:m", "http://127.0.0.1", usage) == Decimal(wanted) / 10**12


def test_prices_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_MODEL_PRICES", '{"local:m": {"input_mtok": 0.1, "output_mtok": "0.3"}}')
    price = Settings.load().model_prices["local:m"]
    assert (price.input_mtok, price.output_mtok, price.cached_input_mtok) == (Decimal("0.1"), Decimal("0.3"), None)


@pytest.mark.parametrize(
    "given",
    [
        {"m": {"input_mtok": 1}},
        {"m": {"input_mtok": -1, "output_mtok": 1}},
        {"m": {"input_mtok": "nan", "output_mtok": 1}},
        {"m": {"input_mtok": 1, "output_mtok": 1, "thought_mtok": 1}},
        {"scripted": {"input_mtok": 1, "output_mtok": 1}},
    ],
)
def test_prices_that_mean_nothing_are_refused(given: dict[str, dict[str, object]]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"model_prices": given})


def test_the_table_is_read_when_it_is_needed() -> None:
    program = (
        "import sys\n"
        "from orchestrator.models.providers import open_registry\n"
        "from orchestrator.config import Settings\n"
        "registry = open_registry(Settings(providers={'openai': {'api_key': 'x'}}, model='openai:gpt-5-mini'))\n"
        "registry.resolve()\n"
        "print('genai_prices' in sys.modules)\n"
        "from orchestrator.models.prices import Prices\n"
        "Prices().load()\n"
        "print('genai_prices.data' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
