from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from orchestrator.errors import ModelError
from orchestrator.telemetry.metrics import Metrics


def counted(metrics: Metrics, name: str) -> dict[str, float]:
    """Labels, as they are written, to the value."""
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith(name + "{")]
    return {line[len(name) : line.index("}") + 1]: float(line.rpartition(" ")[2]) for line in lines}


def call(metrics: Metrics, model: str, error: BaseException | None = None) -> None:
    with metrics.model_call(model) as running:
        if error is not None:
            raise error
        running.took({"input": 10, "output": 5}, Decimal("0.25"))


def test_tokens_and_costs_add_up() -> None:
    metrics = Metrics(["a:1"])
    call(metrics, "a:1")
    call(metrics, "a:1")
    assert counted(metrics, "corral_model_tokens_total") == {
        '{kind="input",model="a:1"}': 20,
        '{kind="output",model="a:1"}': 10,
    }
    assert counted(metrics, "corral_model_cost_usd_total") == {'{model="a:1"}': 0.5}


def test_a_cost_that_is_not_known_is_not_counted() -> None:
    metrics = Metrics(["a:1"])
    with metrics.model_call("a:1") as running:
        running.took({"input": 10}, None)
    assert counted(metrics, "corral_model_cost_usd_total") == {}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ModelError("no", code="model_auth"), "model_auth"),
        (asyncio.CancelledError(), "cancelled"),
        (ZeroDivisionError(), "broken"),
    ],
)
def test_every_end_of_a_call_has_an_outcome(error: BaseException, outcome: str) -> None:
    metrics = Metrics(["a:1"])
    with pytest.raises(type(error)):
        call(metrics, "a:1", error)
    assert counted(metrics, "corral_model_calls_total") == {f'{{model="a:1",outcome="{outcome}"}}': 1}
    assert counted(metrics, "corral_model_tokens_total") == {}


def test_names_that_clients_make_up_do_not_become_labels() -> None:
    metrics = Metrics(["a:1"])
    for number in range(500):
        with pytest.raises(ModelError):
            call(metrics, f"a:nonsense-{number}", ModelError("no such model", code="model_bad_request"))
    call(metrics, "a:" + "x" * 10_000)
    assert counted(metrics, "corral_model_calls_total") == {
        '{model="other",outcome="model_bad_request"}': 500,
        '{model="other",outcome="ok"}': 1,
    }
    for number in range(500):
        call(metrics, f"a:good-{number}")
    call(metrics, "a:1")
    found = counted(metrics, "corral_model_calls_total")
    assert len(found) == 103
    assert found['{model="other",outcome="ok"}'] == 401
    assert found['{model="a:good-0",outcome="ok"}'] == 1
    assert found['{model="a:1",outcome="ok"}'] == 1


def test_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.interaction_ended("completed")
    assert counted(one, "corral_interactions_total") == {'{status="completed"}': 1}
    assert counted(other, "corral_interactions_total") == {}


def test_what_a_label_may_not_hold_is_escaped() -> None:
    metrics = Metrics(['a:"\n\\'])
    call(metrics, 'a:"\n\\')
    assert list(counted(metrics, "corral_model_cost_usd_total")) == ['{model="a:\\"\\n\\\\"}']
