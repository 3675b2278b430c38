from __future__ import annotations

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.policy.variables import VARIABLE_LIMIT_BYTES, VARIABLES_LIMIT_BYTES, check_variables
from orchestrator.wire.environments import EnvVar


def test_what_fits() -> None:
    check_variables({})
    check_variables({"A": EnvVar(value=""), "B": EnvVar(value="x" * VARIABLE_LIMIT_BYTES), "C": EnvVar(credential="c")})


def test_one_that_is_too_large_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"environment\.env\.BIG"):
        check_variables({"A": EnvVar(value="x"), "BIG": EnvVar(value="ä" * (VARIABLE_LIMIT_BYTES // 2 + 1))})


def test_all_together_have_a_limit() -> None:
    count = VARIABLES_LIMIT_BYTES // 1000 + 1
    with pytest.raises(InvalidRequest, match="together"):
        check_variables({f"V{number}": EnvVar(value="x" * 1000) for number in range(count)})


def test_what_counts_together_is_how_long_they_are_on_their_way() -> None:
    """A frame that cannot carry them would make every call of the environment fail."""
    check_variables({"A": EnvVar(value="\x01" * 21_000)})
    with pytest.raises(InvalidRequest, match="together"):
        check_variables({"A": EnvVar(value="\x01" * 22_000)})
