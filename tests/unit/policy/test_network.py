"""Whom an environment may reach: case N1 and N5 of the attacks, and what holds for every host and address."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError, InvalidRequest
from orchestrator.policy.network import (
    Allowed,
    HostList,
    HostProblem,
    NetworkPolicy,
    Refusal,
    is_public,
    parse_host,
    parse_pattern,
)
from orchestrator.policy.secrets import HeaderSecret, header_secret
from orchestrator.wire.environments import parse_environment

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join).filter(lambda name: not name.split(".")[-1].isdigit())
NAMES = NAMES.filter(lambda name: not name.split(".")[-1].startswith("0x"))


def policy(*rules: Any, exceptions: tuple[str, ...] = ()) -> NetworkPolicy:
    listed = [rule if isinstance(rule, dict) else {"domain": rule} for rule in rules]
    spec = parse_environment({"type": "remote", "network": {"allowlist": listed}})
    assert spec is not None
    return NetworkPolicy.of(spec.network, HostList.parse(exceptions))


def is_allowed(policy: NetworkPolicy, host: str) -> bool:
    return isinstance(policy.judge(host, 443), Allowed)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("example。com", "example.com"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("[2606:4700::1111]", "2606:4700::1111"),
        ("2606:4700:0:0::1111", "2606:4700::1111"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("1.1.1.1", "1.1.1.1"),
    ],
)
def test_n5_hosts_have_one_form(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        ".example.com",
        "example.com..",
        "exa mple.com",
        "example.com\0.evil.com",
        "example.com\r\nHost: evil.com",
        "example.com\n",
        "user@example.com",
        "example.com:443",
        "[::1]:80",
        "example.com/",
        "example.com#",
        "example.com%2eevil.com",
        "-a.example",
        "a-.example",
        "a" * 64 + ".example",
        "a." * 130 + "example",
        "*.example.com",
        "fe80::1%eth0",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.2",
        "1.2.3.256",
        "\u202eexample.com",
        "exa\u0000mple。com",
    ],
)
def test_n5_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(HostProblem):
        parse_host(text)
    assert isinstance(NetworkPolicy().judge(text, 443), Refusal)


@given(st.text(max_size=40))
def test_a_parsed_host_stays_as_it_is_and_is_plain(text: str) -> None:
    try:
        host = parse_host(text)
    except HostProblem:
        return
    assert parse_host(host) == host
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.:")


@given(NAMES)
def test_however_a_name_is_written_it_is_judged_the_same(name: str) -> None:
    judged = policy(name)
    for written in (name, name.upper(), f"{name}.", name.title()):
        assert is_allowed(judged, written)
    assert not is_allowed(judged, f"x.{name}")
    assert not is_allowed(judged, f"x{name}")


@given(NAMES, LABELS)
def test_a_star_is_for_names_below_and_not_for_the_name_itself(name: str, label: str) -> None:
    judged = policy(f"*.{name}")
    assert is_allowed(judged, f"{label}.{name}")
    assert is_allowed(judged, f"a.{label}.{name}")
    assert not is_allowed(judged, name)
    assert not is_allowed(judged, f"{label}{name}")


@pytest.mark.parametrize("domain", ["**", "*.*", "a.*.b", "*x.com", "http://a.com", "a.com/b", "*.1.2.3.4", "a.com:8"])
def test_rules_that_are_none_are_refused_by_the_field(domain: str) -> None:
    with pytest.raises(InvalidRequest, match=r"network\.allowlist\[1\]\.domain"):
        policy("a.example", domain)


def bearer(name: str, token: str, header: str = "Authorization") -> HeaderSecret:
    return header_secret(name, header, "Bearer", token)


def given_to(policy: NetworkPolicy, host: str) -> Mapping[str, str] | Refusal:
    verdict = policy.judge(host, 443)
    assert isinstance(verdict, Allowed)
    return verdict.judge_request("GET", "/")


def test_a_credential_comes_first_and_transform_goes_over_it() -> None:
    rules = policy({"domain": "a.test", "credential": "crm", "transform": {"authorization": "mine", "X-A": "1"}})
    assert rules.credentials == {"crm"}
    armed = rules.with_secrets({"crm": bearer("crm", "t0ken")})
    assert armed.credentials == frozenset()
    assert given_to(armed, "a.test") == {"authorization": "mine", "X-A": "1"}
    plain = policy({"domain": "a.test", "credential": "crm"}).with_secrets({"crm": bearer("crm", "t0ken")})
    assert given_to(plain, "a.test") == {"Authorization": "Bearer t0ken"}
    assert "t0ken" not in repr(plain)


def test_a_credential_that_cannot_be_had_refuses_the_requests_of_its_rule_alone() -> None:
    rules = policy({"domain": "a.test", "credential": "gone"}, {"domain": "b.test", "credential": "crm"})
    armed = rules.with_secrets({"gone": Refusal("it is revoked"), "crm": bearer("crm", "t0ken")})
    assert given_to(armed, "a.test") == Refusal("it is revoked")
    assert given_to(armed, "b.test") == {"Authorization": "Bearer t0ken"}


def test_a_credential_that_nobody_looked_up_is_never_left_out_silently() -> None:
    given = given_to(policy({"domain": "a.test", "credential": "crm"}), "a.test")
    assert isinstance(given, Refusal)
    assert "'crm' cannot be had" in given.reason


def test_equally_exact_rules_that_disagree_are_refused() -> None:
    one, other = {"domain": "a.test", "credential": "one"}, {"domain": "a.test", "credential": "other"}
    found = {"one": bearer("one", "1"), "other": bearer("other", "2"), "else": bearer("else", "3", "X-Key")}
    given = given_to(policy(one, other).with_secrets(found), "a.test")
    assert isinstance(given, Refusal)
    assert "different values" in given.reason
    both = policy(one, {"domain": "a.test", "credential": "else"}).with_secrets(found)
    assert given_to(both, "a.test") == {"Authorization": "Bearer 1", "X-Key": "Bearer 3"}
    exact = policy({"domain": "*.test", "credential": "other"}, one).with_secrets(found)
    assert given_to(exact, "a.test") == {"Authorization": "Bearer 1"}


@pytest.mark.parametrize("name", ["Host", "host", "Content-Length", "Transfer-Encoding", "Proxy-Authorization"])
def test_n4_headers_that_make_it_another_request_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"network\.allowlist\[0\]\.transform"):
        policy({"domain": "a.example", "transform": {name: "b.example"}})


def test_no_rules_is_everybody_and_an_empty_list_or_disabled_is_nobody() -> None:
    assert is_allowed(NetworkPolicy.of(None, HostList()), "example.com")
    assert not is_allowed(NetworkPolicy.of("disabled", HostList()), "example.com")
    assert not is_allowed(policy(), "example.com")
    assert is_allowed(policy("*"), "example.com")


def test_the_more_exact_rule_wins_whatever_the_order_and_the_case_of_headers() -> None:
    judged = policy(
        {"domain": "api.example.com", "transform": {"x-a": "exact"}},
        {"domain": "*", "transform": {"X-A": "any", "X-B": "any"}},
        {"domain": "*.example.com", "transform": {"X-B": "below"}},
    )
    verdict = judged.judge("api.example.com", 443)
    assert isinstance(verdict, Allowed)
    assert verdict.judge_all() == {"x-a": "exact", "X-B": "below"}
    other = judged.judge("other.org", 443)
    assert isinstance(other, Allowed)
    assert other.judge_all() == {"X-A": "any", "X-B": "any"}


def test_headers_are_not_shown() -> None:
    judged = policy({"domain": "a.example", "transform": {"Authorization": "hidden-value"}})
    assert "hidden-value" not in repr(judged) + repr(judged.judge("a.example", 443))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_have_a_range(port: int) -> None:
    assert isinstance(NetworkPolicy().judge("example.com", port), Refusal)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.31.0.1",
        "192.168.1.1",
        "192.0.0.192",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "fe80::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_n1_addresses_that_are_not_public_are_refused_in_every_mode(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    for judged in (NetworkPolicy(), policy("*"), policy(address)):
        assert isinstance(judged.judge(address, 80), Refusal)
        assert judged.judge_address("example.com", ipaddress.ip_address(address), 80) is not None


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "140.82.121.4", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses_pass(address: str) -> None:
    assert is_allowed(NetworkPolicy(), address)


@given(st.ip_addresses(v=4))
def test_however_a_version_4_address_is_carried_it_is_judged_the_same(address: ipaddress.IPv4Address) -> None:
    for carrier in ("::ffff:0:0", "64:ff9b::"):
        carried = ipaddress.IPv6Address(int(ipaddress.IPv6Address(carrier)) | int(address))
        assert is_public(carried) == is_public(address)
    # The library's own opinion, as far as it goes.
    assert not is_public(address) or (address.is_global and not address.is_multicast)


@given(st.ip_addresses(v=6))
def test_no_version_6_address_is_public_that_the_library_holds_private(address: ipaddress.IPv6Address) -> None:
    if is_public(address) and address.ipv4_mapped is None and not str(address).startswith("64:ff9b:"):
        assert address.is_global
        assert not address.is_multicast


def test_exceptions_are_the_operators() -> None:
    exceptions = ("10.1.0.0/16", "127.0.0.1", "git.corp", "*.lab.corp")
    judged = NetworkPolicy(None, HostList.parse(exceptions))
    assert is_allowed(judged, "10.1.2.3")
    assert is_allowed(judged, "::ffff:10.1.2.3")
    assert is_allowed(judged, "127.0.0.1")
    assert not is_allowed(judged, "10.2.0.1")
    private = ipaddress.ip_address("192.168.0.1")
    assert judged.judge_address("git.corp", private, 80) is None
    assert judged.judge_address("a.lab.corp", private, 80) is None
    assert judged.judge_address("lab.corp", private, 80) is not None
    # They open addresses, not rules.
    assert not is_allowed(policy("example.com", exceptions=exceptions), "10.1.2.3")


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "a b", "http://git.corp", "git.corp:0", "git.corp:65536"])
def test_exceptions_that_are_none_stop_the_start(text: str) -> None:
    with pytest.raises(ConfigError, match="network_exceptions"):
        HostList.parse([text])


def test_exceptions_may_be_for_one_port() -> None:
    listed = ("127.0.0.1:8080", "git.corp:8443", "[fd00::1]:22", "::1")
    judged = NetworkPolicy(None, HostList.parse(listed))
    private = ipaddress.ip_address("192.168.0.1")
    allowed = [("127.0.0.1", 8080), ("fd00::1", 22), ("::1", 1234)]
    assert all(isinstance(judged.judge(host, port), Allowed) for host, port in allowed)
    refused = [("127.0.0.1", 80), ("fd00::1", 80)]
    assert all(isinstance(judged.judge(host, port), Refusal) for host, port in refused)
    assert judged.judge_address("git.corp", private, 8443) is None
    assert judged.judge_address("git.corp", private, 443) is not None


def test_what_the_operator_denies_is_denied_above_everything() -> None:
    denied = HostList.parse(["evil.example", "*.evil.example", "1.1.1.0/24", "half.example:80"], "network_denied")
    rules = parse_environment({"type": "remote", "network": {"allowlist": [{"domain": "*", "ports": [80, 443]}]}})
    assert rules is not None
    for network in (None, rules.network):
        judged = NetworkPolicy.of(network, HostList.parse(["0.0.0.0/0", "evil.example"]), denied=denied)
        for host in ("evil.example", "EVIL.example.", "a.evil.example", "1.1.1.1", "::ffff:1.1.1.1"):
            refusal = judged.judge(host, 443)
            assert isinstance(refusal, Refusal), host
            assert "operator" in refusal.reason
            assert not refusal.wanted
        assert judged.judge_address("fine.example", ipaddress.ip_address("1.1.1.9"), 443) is not None
        assert isinstance(judged.judge("half.example", 443), Allowed)
        assert isinstance(judged.judge("half.example", 80), Refusal)
        assert isinstance(judged.judge("fine.example", 443), Allowed)


@pytest.mark.parametrize("port", [25, 53, 853])
def test_n3_mail_and_name_servers_need_a_rule_that_names_their_port(port: int) -> None:
    for judged in (NetworkPolicy(), policy("*"), policy("a.example")):
        refusal = judged.judge("a.example", port)
        assert isinstance(refusal, Refusal)
        assert "ports" in refusal.reason
    assert isinstance(policy({"domain": "a.example", "ports": [port]}).judge("a.example", port), Allowed)


def test_a_rule_with_ports_opens_no_others_and_closes_none_of_another_rule() -> None:
    judged = policy({"domain": "a.example", "ports": [8443]}, "b.example")
    assert isinstance(judged.judge("a.example", 8443), Allowed)
    assert isinstance(judged.judge("a.example", 443), Refusal)
    assert isinstance(judged.judge("b.example", 443), Allowed)
    both = policy({"domain": "a.example", "ports": [8443], "transform": {"X": "1"}}, "*")
    plain = both.judge("a.example", 443)
    assert isinstance(plain, Allowed)
    assert not plain.adds
    assert plain.pattern == "*"


def test_a_refusal_says_which_domain_a_rule_would_name() -> None:
    refusal = policy("b.example").judge("A.example.", 443)
    assert isinstance(refusal, Refusal)
    assert refusal.wanted == "a.example"
    # A rule would not help.
    for judged, host in ((policy("b.example"), "10.0.0.1"), (policy(), "a.example"), (policy("b.example"), "a b")):
        hopeless = judged.judge(host, 443)
        assert isinstance(hopeless, Refusal)
        assert hopeless.wanted == ""


def test_requests_are_judged_by_method_and_path_and_get_what_their_own_rules_add() -> None:
    judged = policy(
        {"domain": "a.example", "methods": ["get"], "transform": {"X-Who": "reader"}},
        {"domain": "a.example", "paths": ["/push", "/api/*"], "transform": {"X-Who": "writer"}},
    ).judge("a.example", 443)
    assert isinstance(judged, Allowed)
    assert judged.is_narrow
    assert judged.judge_request("GET", "/anything") == {"X-Who": "reader"}
    assert judged.judge_request("POST", "/api/x") == {"X-Who": "writer"}
    assert judged.judge_request("POST", "/push") == {"X-Who": "writer"}
    for method, path in (("POST", "/"), ("POST", "/pushed"), ("DELETE", "/api"), ("POST", "/API/x")):
        assert isinstance(judged.judge_request(method, path), Refusal), path


@pytest.mark.parametrize(
    "path",
    ["/api/../admin", "/api/./x", "/api//x", "/api/%2e%2e/admin", "/api/%2E%2e/", "/api/a%2fb", "/api/a%5cb", "/api\\x",
     "/api/x%252e", "/api/..;/admin", "/api/x%00", "/api/..", "api/x", "", "*"],
)  # fmt: skip
def test_n10_paths_that_servers_may_read_otherwise_fit_no_rule_with_paths(path: str) -> None:
    judged = policy({"domain": "a.example", "paths": ["/api/*"]}).judge("a.example", 443)
    assert isinstance(judged, Allowed)
    assert isinstance(judged.judge_request("GET", path), Refusal)
    anything = policy("a.example").judge("a.example", 443)
    assert isinstance(anything, Allowed)
    assert anything.judge_request("GET", path) == {}


@pytest.mark.parametrize(
    "rule",
    [
        {"ports": []},
        {"ports": [0]},
        {"ports": [65536]},
        {"ports": ["80"]},
        {"methods": []},
        {"methods": ["G T"]},
        {"methods": [""]},
        {"paths": []},
        {"paths": ["api"]},
        {"paths": ["/a b"]},
        {"paths": ["/ä"]},
    ],
    ids=str,
)
def test_rules_that_are_none_are_refused_by_field(rule: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"network\.allowlist\[0\]\." + next(iter(rule))):
        policy({"domain": "a.example", **rule})


def test_patterns_have_one_form() -> None:
    assert parse_pattern("*.Bücher.example.") == "*.xn--bcher-kva.example"
