"""What requests of an environment get, and which must be read for that."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from orchestrator.egress.audit import Audit
from orchestrator.egress.gates import EgressSettings, Gates
from orchestrator.egress.injection import Injection, Insertion
from orchestrator.policy.network import Allowed, HostList, NetworkPolicy, Refusal
from orchestrator.policy.secrets import CredentialSecret, VariableSecret, header_secret
from orchestrator.store.records import NewEvent
from orchestrator.wire.environments import parse_environment
from orchestrator.wire.network import Network
from tests.fakes.clock import ManualClock

pytestmark = pytest.mark.anyio

BEARER = header_secret("crm", "Authorization", "Bearer", "t0ken")
HELD = VariableSecret("held", "v4lue", frozenset({"header"}), ("a.test",))


def network(*rules: dict[str, Any]) -> Network | None:
    spec = parse_environment({"type": "remote", "network": {"allowlist": list(rules)}})
    assert spec is not None
    return spec.network


def allowed(host: str, port: int, *rules: dict[str, Any]) -> Allowed:
    verdict = NetworkPolicy.of(network(*rules) if rules else None, HostList()).judge(host, port)
    assert isinstance(verdict, Allowed)
    return verdict


async def unheard(_log_id: str, _events: Sequence[NewEvent]) -> None:
    """Nothing is told in these tests."""


class Keeper:
    """Finds what it is given, and says what it was asked for."""

    def __init__(self, **known: CredentialSecret | Refusal) -> None:
        self.known = known
        self.asked: list[tuple[str, frozenset[str]]] = []

    async def in_project(self, project: str, ids: Collection[str]) -> Mapping[str, CredentialSecret | Refusal]:
        self.asked.append((project, frozenset(ids)))
        return {each: self.known.get(each, Refusal(f"there is no credential {each!r}")) for each in ids}

    async def __call__(self, ids: Collection[str]) -> Mapping[str, CredentialSecret | Refusal]:
        return await self.in_project("", ids)


async def test_only_what_needs_it_is_read() -> None:
    plain, holds = Injection(), Injection(frozenset({"held"}), Keeper(held=HELD))
    assert not await plain.reads(allowed("a.test", 443))
    for rule in ({"credential": "crm"}, {"transform": {"X": "1"}}, {"methods": ["GET"]}, {"paths": ["/"]}):
        assert await plain.reads(allowed("a.test", 443, {"domain": "*", **rule}))
    assert await holds.reads(allowed("b.test", 443)), "one that goes astray is told of"
    assert await holds.reads(allowed("a.test", 8443))
    assert not await holds.reads(allowed("b.test", 8443))


async def test_a_request_gets_what_its_rules_say_and_nothing_is_looked_up_for_others() -> None:
    keeper = Keeper(crm=BEARER, held=HELD)
    injection = Injection(frozenset({"held"}), keeper)
    made = await injection.prepared("a.test", allowed("a.test", 443, {"domain": "a.test", "credential": "crm"}).rules)
    assert isinstance(made, Insertion)
    assert made.headers == {"Authorization": "Bearer t0ken"}
    assert list(made.ids) == ["crm"], "a variable counts when it is used"
    assert made.swaps.rewrite(b"/", [(b"X", b"__GEMINI_CRED_held__")]) == (b"/", [(b"X", b"v4lue")])
    assert list(made.ids) == ["crm", "held"]
    assert "t0ken" not in repr(made)
    assert "v4lue" not in repr(made)
    await Injection(find=keeper).prepared("a.test", allowed("a.test", 443).rules)
    assert keeper.asked == [("", frozenset({"crm", "held"}))]


async def test_kinds_are_not_taken_for_one_another() -> None:
    injection = Injection(frozenset({"crm"}), Keeper(crm=BEARER, held=HELD))
    refused = await injection.prepared("a.test", allowed("a.test", 443, {"domain": "*", "credential": "held"}).rules)
    assert refused == Refusal("credential 'held' is not one that is sent in a header")
    made = await injection.prepared("a.test", allowed("a.test", 443).rules)
    assert isinstance(made, Insertion)
    wrong = made.swaps.rewrite(b"/", [(b"X", b"__GEMINI_CRED_crm__")])
    assert wrong == Refusal("credential 'crm' is not of the type 'environment_variable'")


async def test_without_anybody_who_finds_them_nothing_goes_out_without_its_credential() -> None:
    refused = await Injection().prepared("a.test", allowed("a.test", 443, {"domain": "*", "credential": "crm"}).rules)
    assert refused == Refusal("credential 'crm' cannot be had")


async def test_gates_ask_for_their_own_project_and_take_changes() -> None:
    keeper = Keeper(held=HELD)
    gates = Gates(EgressSettings(), Audit(unheard, ManualClock()), find=keeper.in_project)
    gate = gates.gate("env", network({"domain": "*"}), "ours", ["held"])
    other = gates.gate("other", None, "theirs", ["held"])
    assert await gate.injection.reads(allowed("a.test", 8443))
    assert await other.injection.reads(allowed("a.test", 8443))
    assert [project for project, _ in keeper.asked] == ["ours", "theirs"]
    assert gates.gate("env", network({"domain": "*"}), "ours") is gate
    assert not await gate.injection.reads(allowed("a.test", 443)), "it holds none any more"
    assert gates.living("env") is gate
    gates.forget("env")
    assert gates.living("env") is None
