from __future__ import annotations

from typing import Any

from orchestrator.sandboxes.driver import Profile
from orchestrator.sandboxes.specs import held_credentials, template_name
from orchestrator.wire.environments import EnvironmentSpec, parse_environment

PROFILE = Profile(image="base")


def spec(**fields: Any) -> EnvironmentSpec:
    made = parse_environment({"type": "remote", "setup": ["true"], **fields})
    assert made is not None
    return made


def test_templates_are_shared_unless_credentials_had_a_part_in_them() -> None:
    plain = spec(network={"allowlist": [{"domain": "a.test"}]})
    assert template_name(PROFILE, plain, "ours") == template_name(PROFILE, plain, "theirs")
    secret = spec(network={"allowlist": [{"domain": "a.test", "credential": "crm"}]})
    assert template_name(PROFILE, secret, "ours") != template_name(PROFILE, secret, "theirs")
    assert template_name(PROFILE, secret, "ours") == template_name(PROFILE, secret, "ours")
    assert template_name(PROFILE, secret, "ours") != template_name(PROFILE, plain, "ours")


def test_variables_hold_the_credentials_that_they_name() -> None:
    made = spec(env={"A": "x", "B": {"credential": "crm"}, "C": {"credential": "crm"}, "D": {"credential": "git"}})
    assert held_credentials(made) == {"crm", "git"}
