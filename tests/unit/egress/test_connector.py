"""Names that take long to resolve, and addresses of this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import threading

import pytest

from orchestrator.egress import connector
from orchestrator.egress.addresses import OwnAddresses
from orchestrator.egress.connector import Resolver
from orchestrator.errors import NetworkError

pytestmark = pytest.mark.anyio


async def test_slow_names_take_their_own_places_only_and_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = threading.Event()
    running: list[str] = []

    def lookup(host: str, _port: int) -> list[str]:
        running.append(host)
        going_on.wait(10)
        return ["1.1.1.1"]

    monkeypatch.setattr(connector, "_RESOLVE_TIMEOUT_S", 0.2)
    resolver = Resolver(lookup, at_once=2)
    asked = await asyncio.gather(*(resolver.addresses(f"h{n}", 80) for n in range(5)), return_exceptions=True)
    assert all(isinstance(each, NetworkError) and "in time" in each.message for each in asked)
    assert len(running) == 2  # threads that hang keep their places
    going_on.set()
    monkeypatch.setattr(connector, "_RESOLVE_TIMEOUT_S", 10)
    assert await resolver.addresses("later", 80) == ["1.1.1.1"]


async def test_a_name_without_an_address_is_said() -> None:
    def lookup(_host: str, _port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    with pytest.raises(NetworkError, match=r"x\.example has no address: Name or service not known"):
        await Resolver(lookup).addresses("x.example", 80)


@pytest.mark.parametrize(("address", "is_own"), [("127.0.0.1", True), ("127.9.9.9", True), ("192.0.2.77", False)])
def test_the_kernel_says_which_addresses_are_this_machines(address: str, is_own: bool) -> None:
    own = OwnAddresses()
    own.check()
    assert own.hold(ipaddress.ip_address(address)) is is_own
