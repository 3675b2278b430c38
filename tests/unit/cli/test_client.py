"""The command line's HTTP client."""

from __future__ import annotations

import pytest

from orchestrator.cli.client import Api


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"])
def test_a_proxy_is_not_asked_for_this_machine(url: str) -> None:
    assert not Api.uses_proxies(url)


@pytest.mark.parametrize("url", ["http://10.0.0.5:8080", "https://corral.example.com", "http://localhost.example.com"])
def test_a_proxy_may_be_needed_for_another_machine(url: str) -> None:
    assert Api.uses_proxies(url)
