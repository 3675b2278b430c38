from __future__ import annotations

import dataclasses

import pytest

from orchestrator.errors import ConfigError
from orchestrator.policy.bounds import Bounds, Maxima
from orchestrator.policy.limits import Limits


def test_an_agents_wishes_come_before_the_servers() -> None:
    server = Bounds(runtime="runc", memory_bytes=100, cpus=2.0)
    assert Bounds(memory_bytes=5, pids=40).over(server) == Bounds(runtime="runc", memory_bytes=5, cpus=2.0, pids=40)
    assert Bounds().over(server) == server
    assert Bounds(runtime="").over(server).runtime == "", "an agent may ask for the engine's own runtime"


def test_limits_of_runs_are_those_of_the_agent_where_it_says_so() -> None:
    server = Limits(call_timeout_s=10, run_timeout_s=20, output_limit_bytes=30, max_turns=4)
    bounds = Bounds(call_timeout_s=1, output_limit_bytes=3, memory_bytes=7)
    assert bounds.limits(server) == Limits(call_timeout_s=1, run_timeout_s=20, output_limit_bytes=3, max_turns=4)
    assert Bounds().limits(server) == server


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Bounds)])
def test_what_shapes_a_sandbox_is_told_from_what_bounds_a_run(name: str) -> None:
    is_of_runs = name in {"call_timeout_s", "run_timeout_s", "output_limit_bytes", "max_turns"}
    bounds = Bounds(**{name: "runc" if name == "runtime" else 100})  # type: ignore[arg-type]
    assert bounds.shapes_sandbox is not is_of_runs
    assert is_of_runs == (bounds.limits(Limits()) != Limits())


@pytest.mark.parametrize(
    ("bounds", "pids"),
    [
        (Bounds(), 1024),
        (Bounds(runtime="runc"), 1024),
        (Bounds(runtime="runsc"), 4096),
        (Bounds(runtime="runsc-kvm"), 4096),
        (Bounds(runtime="runsc", pids=100), 100),
    ],
)
def test_processes_depend_on_the_runtime_unless_somebody_says_how_many(bounds: Bounds, pids: int) -> None:
    assert bounds.pids_or_default == pids


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Maxima) if field.name != "runtimes"])
def test_a_bound_may_reach_its_maximum_and_not_pass_it(name: str) -> None:
    maximum = getattr(Maxima(), name)
    Bounds(**{name: maximum}).check(Maxima(), "here")
    with pytest.raises(ConfigError) as caught:
        Bounds(**{name: maximum + 1}).check(Maxima(), "here")
    assert caught.value.message == f"here.{name}: {maximum + 1} is more than setting 'maxima.{name}' allows, {maximum}"


def test_every_bound_has_a_maximum() -> None:
    names = {field.name for field in dataclasses.fields(Bounds)} - {"runtime"}
    assert names == {field.name for field in dataclasses.fields(Maxima)} - {"runtimes"}


def test_only_runtimes_that_the_operator_allows() -> None:
    maxima = Maxima(runtimes=("runc", "kata"))
    Bounds(runtime="kata").check(maxima, "here")
    Bounds(runtime="").check(maxima, "here")
    with pytest.raises(ConfigError, match=r"^here\.runtime: 'runsc' is not allowed .*runc, kata$"):
        Bounds(runtime="runsc").check(maxima, "here")
