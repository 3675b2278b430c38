from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import dump, parse
from orchestrator.wire.environments import (
    EnvironmentCreate,
    EnvironmentResource,
    EnvironmentSpec,
    EnvVar,
    dump_environment,
    parse_environment,
)
from orchestrator.wire.network import AllowedDomain, NetworkRules, public_network
from orchestrator.wire.sources import GcsSource, InlineSource, RepositorySource, public_sources
from tests.unit.wire.strategies import json_values

ID = "3f0c9a52d1e84b7fa6c2b8e07d915c44"


@pytest.mark.parametrize(
    ("given_form", "canonical"),
    [
        ("remote", EnvironmentSpec()),
        ("Remote", EnvironmentSpec()),
        ({}, EnvironmentSpec()),
        ({"type": "REMOTE", "sources": None, "env": None}, EnvironmentSpec()),
        ({"enabled": True}, EnvironmentSpec()),
        ({"enabled": False}, None),
        (None, None),
        (ID, EnvironmentSpec(environment_id=ID)),
        (f"environments/{ID}", EnvironmentSpec(environment_id=ID)),
        ({"env_id": ID}, EnvironmentSpec(environment_id=ID)),
        ({"type": "remote", "environment_id": f"environments/{ID}"}, EnvironmentSpec(environment_id=ID)),
        ({"environment_id": ID, "network": "DISABLED"}, EnvironmentSpec(environment_id=ID, network="disabled")),
        ({"network": {"allowlist": "disabled"}}, EnvironmentSpec(network="disabled")),
        ({"network": {"allowlist": []}}, EnvironmentSpec(network=NetworkRules(allowlist=[]))),
        (
            {"env": {"MODE": "test", "T": {"credential": "crm"}, "X": {"value": ""}}},
            EnvironmentSpec(env={"MODE": EnvVar(value="test"), "T": EnvVar(credential="crm"), "X": EnvVar(value="")}),
        ),
        (
            {"sources": [{"type": "github", "source": "https://e.org/r", "target": "/workspace/r"}]},
            EnvironmentSpec(sources=[RepositorySource(source="https://e.org/r", target="/workspace/r")]),
        ),
        (
            {"sources": [{"type": "git", "url": "https://e.org/r", "target": "r"}]},
            EnvironmentSpec(sources=[RepositorySource(source="https://e.org/r", target="r")]),
        ),
        (
            {"sources": [{"type": "GCS", "source": "gs://b/raw", "target": "workspace/raw"}]},
            EnvironmentSpec(sources=[GcsSource(source="gs://b/raw", target="workspace/raw")]),
        ),
        (
            {"sources": [{"type": "INLINE", "content": "_-8", "encoding": "BASE64", "target": "a"}]},
            EnvironmentSpec(sources=[InlineSource(content="/+8=", encoding="base64", target="a")]),
        ),
    ],
)
def test_all_ways_to_write_an_environment(given_form: Any, canonical: EnvironmentSpec | None) -> None:
    spec = parse_environment(given_form)
    assert spec == canonical
    if spec is not None:
        assert parse_environment(dump(spec)) == spec


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "'environment': expected 'remote', an environment id or an object."),
        ("", "'environment': expected 'remote', an environment id or an object."),
        ("environments/", "'environment': expected 'remote', an environment id or an object."),
        ("a\nb", "'environment': expected 'remote', an environment id or an object."),
        ("a" * 200, "'environment': expected 'remote', an environment id or an object."),
        ({"env_id": 5}, "'environment.env_id': expected a string."),
        (
            {"env_id": "a", "environment_id": "a"},
            "'environment.env_id': give either 'environment_id' or 'env_id', not both.",
        ),
        ({"enabled": "true"}, "'environment.enabled': expected true or false."),
        ({"enabled": False, "env": {}}, "'environment.enabled': false leaves nothing to configure."),
        ({"type": "local"}, "'environment.type': expected 'remote'."),
        ({"environmentId": "a"}, "'environmentId' at 'environment' (closest known name: 'environment_id')."),
        ({"sources": {}}, "'environment.sources': expected a list."),
        (
            {"sources": [{"type": "ftp"}]},
            "source type 'ftp' at 'environment.sources[0].type'; known: inline, repository, gcs, s3, http, sftp, "
            "local, skill_registry.",
        ),
        (
            {"sources": [{"type": "inline", "target": "a", "contnet": "x"}]},
            "'contnet' at 'environment.sources[0]' (closest known name: 'content').",
        ),
        ({"sources": [{"type": "inline", "content": "x"}]}, "'target' at 'environment.sources[0]'."),
        (
            {"sources": [{"type": "inline", "content": "YQ=!", "encoding": "base64", "target": "a"}]},
            "'environment.sources[0].content': expected base64.",
        ),
        (
            {"sources": [{"type": "inline", "content": "a", "encoding": "gzip", "target": "a"}]},
            "'environment.sources[0].encoding': expected 'base64'.",
        ),
        ({"network": 5}, "'environment.network': expected 'disabled' or an object with an 'allowlist'."),
        ({"network": "open"}, "'environment.network': expected 'disabled'."),
        ({"network": {"allowlist": "all"}}, "'environment.network.allowlist': expected 'disabled' or a list."),
        ({"network": {"allowlist": ["a.org"]}}, "'environment.network.allowlist[0]': expected an object."),
        (
            {"network": {"allow_internet_access": True}},
            "'allow_internet_access' at 'environment.network' (known names: allowlist).",
        ),
        (
            {"network": {"allowlist": [{"domian": "a.org"}]}},
            "'domian' at 'environment.network.allowlist[0]' (closest known name: 'domain').",
        ),
        (
            {"network": {"allowlist": [{"domain": "a.org", "transform": "x"}]}},
            "'environment.network.allowlist[0].transform': expected an object or a list of objects.",
        ),
        (
            {"network": {"allowlist": [{"domain": "a.org", "transform": [{"A": "b"}, {"a": "c"}]}]}},
            "'environment.network.allowlist[0].transform[1].a': this header is given twice.",
        ),
        (
            {"network": {"allowlist": [{"domain": "a.org", "transform": {"A": "b\r\nHost: evil"}}]}},
            "'environment.network.allowlist[0].transform.A': not a valid HTTP header field.",
        ),
        (
            {"network": {"allowlist": [{"domain": "a.org", "transform": {"A:": "b"}}]}},
            "'environment.network.allowlist[0].transform[\"A:\"]': not a valid HTTP header field.",
        ),
        ({"env": ["A=b"]}, "'environment.env': expected an object."),
        (
            {"env": {"A B": "x"}},
            "'environment.env[\"A B\"]': names of variables are letters, digits and '_', not beginning with a digit.",
        ),
        (
            {"env": {"É": "x"}},
            "'environment.env[\"É\"]': names of variables are letters, digits and '_', not beginning with a digit.",
        ),
        (
            {"env": {"A\n": "x"}},
            "'environment.env[\"A\\n\"]': names of variables are letters, digits and '_', not beginning with a digit.",
        ),
        ({"env": {"A": 5}}, "'environment.env.A': expected a string or an object with 'value' or 'credential'."),
        ({"env": {"A": "x\0"}}, "'environment.env.A': must not contain NUL."),
        ({"env": {"A": {"value": "x\0"}}}, "'environment.env.A.value': must not contain NUL."),
        ({"env": {"A": {}}}, "'environment.env.A': expected either 'value' or 'credential'."),
        (
            {"env": {"A": {"value": "a", "credential": "b"}}},
            "'environment.env.A': expected either 'value' or 'credential'.",
        ),
        ({"env": {f"A{i}": "x" for i in range(1001)}}, "'environment.env': expected at most 1000 entries."),
    ],
)
def test_refusals(data: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_environment(data)
    assert caught.value.message.endswith(message)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("workspace/a", "/workspace/a"),
        ("/workspace//a/", "/workspace/a"),
        ("./.agents/AGENTS.md", "/.agents/AGENTS.md"),
        ("a..b/...", "/a..b/..."),
        ("tmp/ü \\x", "/tmp/ü \\x"),
        ("/", None),
        ("", None),
        ("//./", None),
        ("..", None),
        ("workspace/../etc", None),
        ("a\0b", None),
        ("é" * 2049, None),
    ],
)
def test_targets_stay_below_the_root(target: str, path: str | None) -> None:
    data = {"sources": [{"type": "inline", "target": target, "content": "x"}]}
    if path is None:
        with pytest.raises(InvalidRequest, match=r"^Invalid value at 'environment\.sources\[0\]\.target': "):
            parse_environment(data)
    else:
        spec = parse_environment(data)
        assert spec is not None
        [source] = spec.sources
        assert isinstance(source, InlineSource)
        assert source.path == path
        assert source.target == target


def test_answers_show_no_signatures_of_addresses() -> None:
    spec = parse_environment(
        {
            "sources": [
                {"type": "http", "url": "https://e.org/x?X-Amz-Signature=canary", "target": "workspace/x"},
                {"type": "git", "url": "https://e.org/r", "target": "workspace/r", "path": "/a//b/", "lfs": False},
            ]
        }
    )
    assert spec is not None
    assert public_sources(spec.sources) == [
        {"type": "http", "source": "https://e.org/x", "target": "workspace/x"},
        {"type": "repository", "source": "https://e.org/r", "target": "workspace/r", "path": "a/b", "lfs": False},
    ]
    assert parse_environment(spec.model_dump(exclude_none=True)) == spec


def test_a_skill_of_the_server_has_its_usual_place() -> None:
    skill = {"type": "SKILL_REGISTRY", "source": "data-analysis"}
    spec = parse_environment({"sources": [skill]})
    assert spec is not None
    assert public_sources(spec.sources) == [
        {"type": "skill_registry", "source": "data-analysis", "target": ".agents/skills/data-analysis"}
    ]
    assert parse_environment(spec.model_dump(exclude_none=True)) == spec


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "'source' at 'environment.sources[0]'"),
        ({"source": "../charts"}, "'environment.sources[0].source': must match"),
        ({"source": "Charts"}, "'environment.sources[0].source': must match"),
        ({"source": "a" * 65}, "'environment.sources[0].source'"),
        ({"source": 1}, "'environment.sources[0].source'"),
        ({"source": "charts", "target": ".agents/skills/other"}, "target': the last part must be the skill's name"),
        ({"source": "charts", "sha256": "x"}, "'environment.sources[0].sha256'"),
        ({"source": "charts", "skills": ["a"]}, "'skills' at 'environment.sources[0]'"),
    ],
)
def test_what_a_skill_of_the_server_is_called_is_checked(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_environment({"sources": [{"type": "skill_registry", **fields}]})
    assert named in caught.value.message


def test_inline_sources_give_bytes() -> None:
    assert InlineSource(target="a", content="é").data == "é".encode()
    assert InlineSource(target="a", content="/+8=", encoding="base64").data == b"\xff\xef"


def test_a_list_of_transforms_is_one_map() -> None:
    rule = AllowedDomain.model_validate({"domain": "a.org", "transform": [{"A": "b"}, {"C": "d\t\x80"}]})
    assert rule.transform == {"A": "b", "C": "d\t\x80"}


def test_secrets_do_not_show() -> None:
    spec = parse_environment(
        {
            "network": {"allowlist": [{"domain": "a.org", "credential": "crm", "transform": {"A": "canary"}}]},
            "env": {"A": "canary"},
            "sources": [{"type": "inline", "target": "a", "content": "canary"}],
        }
    )
    assert spec is not None
    assert "canary" not in repr(spec)
    assert public_network(spec.network) == {"allowlist": [{"domain": "a.org", "credential": "crm"}]}
    assert public_network("disabled") == "disabled"
    assert public_network(None) is None


def test_create() -> None:
    assert parse(EnvironmentCreate, {"from_environment": f"environments/{ID}"}).from_environment == ID
    with pytest.raises(InvalidRequest, match="'sources': must be empty together with 'from_environment'"):
        parse(
            EnvironmentCreate, {"from_environment": ID, "sources": [{"type": "inline", "target": "a", "content": ""}]}
        )
    assert parse(EnvironmentCreate, {"env": {"A": "1"}}).env["A"].value == "1"
    with pytest.raises(InvalidRequest, match="Unknown parameter 'envs'"):
        parse(EnvironmentCreate, {"envs": {}})


def test_resource_has_int64_as_strings_and_no_secrets() -> None:
    resource = parse(
        EnvironmentResource,
        {
            "id": ID,
            "status": "active",
            "created": "2026-11-20T09:00:00Z",
            "updated": "2026-11-20T09:00:41Z",
            "last_accessed": "2026-11-20T09:00:41Z",
            "file_count": "12",
            "size_bytes": 48211,
            "network": {"allowlist": [{"domain": "github.com", "transform": {"Authorization": "canary"}}]},
            "sources": [{"type": "REPOSITORY", "source": "https://github.com/e/charts", "target": "workspace/charts"}],
        },
    )
    assert dump_environment(resource, extra={"sandbox": "running"}) == {
        "id": ID,
        "status": "active",
        "created": "2026-11-20T09:00:00Z",
        "updated": "2026-11-20T09:00:41Z",
        "last_accessed": "2026-11-20T09:00:41Z",
        "file_count": "12",
        "size_bytes": "48211",
        "network": {"allowlist": [{"domain": "github.com"}]},
        "sources": [{"type": "repository", "target": "workspace/charts", "source": "https://github.com/e/charts"}],
        "sandbox": "running",
    }


@given(json_values)
def test_anything_is_an_environment_or_an_invalid_request(value: Any) -> None:
    try:
        spec = parse_environment(value)
    except InvalidRequest as error:
        assert "environment" in error.message
    else:
        assert spec is None or parse_environment(dump(spec)) == spec
