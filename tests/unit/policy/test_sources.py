from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import InvalidRequest
from orchestrator.policy import sources as module
from orchestrator.policy.sources import check_base, check_sources
from orchestrator.wire.environments import EnvironmentSpec, parse_environment
from orchestrator.wire.sources import InlineSource, RepositorySource


def sources(*targets: str) -> list[InlineSource]:
    return [InlineSource.model_validate({"type": "inline", "target": each, "content": "x"}) for each in targets]


@pytest.mark.parametrize(
    "target",
    ["/workspace/a", "workspace/a/b/c", "/.agents/AGENTS.md", "/home/agent/.bashrc", "/tmp/x", "//workspace//a"],
)
def test_allowed_targets(target: str) -> None:
    check_sources(sources(target), None)


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "/workspace",
        "/workspace/",
        "/workspacex/a",
        "/home/other/a",
        "/home/agent",
        "/opt/corral/guest/main.py",
        "/run/corral/guest.sock",
        "/root/.profile",
    ],
)
def test_other_targets_are_refused_by_the_field(target: str) -> None:
    with pytest.raises(InvalidRequest, match=r"environment\.sources\[1\]\.target"):
        check_sources(sources("/workspace/fine", target), None)


@pytest.mark.parametrize("target", ["/workspace/../etc/passwd", "/workspace/a/../../etc/x", "workspace/../../x"])
def test_no_way_up(target: str) -> None:
    with pytest.raises((InvalidRequest, ValidationError)):
        check_sources(sources(target), None)


@pytest.mark.parametrize(
    "targets",
    [
        ("/workspace/a", "/workspace/a"),
        ("/workspace/a", "workspace//a/."),
        ("/workspace/a", "/workspace/a/b"),
        ("/workspace/a/b", "/workspace/a"),
        ("/workspace/a/b/c", "/workspace/x", "/workspace/a"),
    ],
)
def test_sources_that_cannot_both_be_are_refused_in_any_order(targets: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="target"):
        check_sources(sources(*targets), None)


def test_files_of_lfs_come_over_https_only() -> None:
    def repository(url: str, **fields: Any) -> list[Any]:
        return [RepositorySource.model_validate({"source": url, "target": "workspace/r", "lfs": True, **fields})]

    check_sources(repository("https://git.example/r"), None)
    with pytest.raises(InvalidRequest, match=r"'environment\.sources\[0\]\.lfs': .* over https only"):
        check_sources(repository("git@git.example:r", profile="own"), None)


def test_neighbours_are_fine() -> None:
    check_sources(sources("/workspace/a/b", "/workspace/a/c", "/workspace/ab", "/workspace/a.b"), None)


def test_one_file_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INLINE_LIMIT_BYTES", 3)
    source = InlineSource.model_validate({"type": "inline", "target": "workspace/a", "content": "ää"})
    with pytest.raises(InvalidRequest, match=r"environment\.sources\[0\]\.content"):
        check_sources([source], None)


# fetched ones

REPOSITORY = {"type": "repository", "source": "https://github.com/e/charts", "target": "workspace/charts"}
FETCHED: tuple[dict[str, Any], ...] = (
    REPOSITORY,
    {
        **REPOSITORY,
        "source": "ssh://git@git.example:2222/e/charts.git",
        "profile": "deploy",
        "ref": "v1.2/x",
        "path": "a/b",
    },
    {**REPOSITORY, "source": "git@git.example:e/charts.git", "profile": "deploy"},
    {"type": "gcs", "source": "gs://bucket/raw/2026/", "target": "workspace/raw"},
    {"type": "s3", "source": "s3://bucket/raw", "target": "workspace/raw", "endpoint": "https://minio.example:9000"},
    {"type": "http", "url": "https://example.com/a.csv?signature=x", "target": "workspace/a.csv"},
    {"type": "http", "source": "http://example.com/a.tgz", "target": "workspace", "extract": True, "sha256": "A" * 64},
    {"type": "sftp", "source": "sftp://me@example.com/in", "target": "workspace/in", "host_key": "ssh-ed25519 AAAA"},
    {"type": "local", "source": "reports/2026", "target": "workspace/reports"},
)


def spec(*sources: dict[str, Any], network: Any = None) -> EnvironmentSpec:
    parsed = parse_environment({"type": "remote", "sources": list(sources), "network": network})
    assert parsed is not None
    return parsed


def check(*sources: dict[str, Any], network: Any = None) -> None:
    wanted = spec(*sources, network=network)
    check_sources(wanted.sources, wanted.network)


@pytest.mark.parametrize("source", FETCHED, ids=str)
def test_fetched_sources_are_allowed_and_may_be_of_a_base(source: dict[str, Any]) -> None:
    check(source)
    check_base(spec(source), "base_environment")


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"source": "http://github.com/e/charts"}, "source"),
        ({"source": "file:///etc"}, "source"),
        ({"source": "/etc"}, "source"),
        ({"source": "ext::sh -c id"}, "source"),
        ({"source": "-u https://x/y"}, "source"),
        ({"source": "https://github.com"}, "source"),
        ({"source": "https://secret@github.com/e/charts"}, "source"),
        ({"source": "https://u:secret@github.com/e/charts"}, "source"),
        ({"source": "ssh://u:secret@github.com/e/charts", "profile": "p"}, "source"),
        ({"source": "ssh://-oProxyCommand=secret@github.com/e", "profile": "p"}, None),
        ({"source": "ssh://-oProxyCommand=secret/e", "profile": "p"}, "source"),
        ({"source": "https://github.com\\@evil.com/e/charts"}, "source"),
        ({"source": "https://a@b@github.com/e/charts"}, "source"),
        ({"source": "https://2130706433/e/charts"}, "source"),
        ({"source": "ssh://git@git.example/e"}, ""),
        ({"source": "https://git.example/e", "profile": "p"}, "profile"),
        ({"type": "gcs", "source": "s3://bucket"}, "source"),
        ({"type": "gcs", "source": "gs://../x"}, "source"),
        ({"type": "gcs", "source": "gs://b/x\n"}, "source"),
        ({"type": "s3", "source": "s3://B%/x"}, "source"),
        ({"type": "s3", "source": "s3://bucket/x", "endpoint": "minio:9000"}, "endpoint"),
        ({"type": "http", "source": "file:///etc/passwd"}, "source"),
        ({"type": "http", "source": "https://example.com:99999/x"}, "source"),
        ({"type": "sftp", "source": "ssh://example.com/x"}, "source"),
        ({"type": "local", "source": "/etc"}, "source"),
        ({"type": "local", "source": "reports/../../etc"}, "source"),
        ({"type": "local", "source": ".."}, "source"),
    ],
    ids=str,
)
def test_f5_f6_addresses_that_are_none_are_refused_by_the_field(source: dict[str, Any], field: str | None) -> None:
    wanted = {**REPOSITORY, "target": "workspace/x", **source}
    with pytest.raises(InvalidRequest) as caught:
        check(wanted)
    assert "environment.sources[0]" in caught.value.message
    if field:
        assert f"environment.sources[0].{field}" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("ref", ["-u", "--upload-pack=x", "a..b", "a b", "a@{1}", "a:b", "x.lock", "a\nb", "^a", ""])
def test_f5_references_that_are_none_are_refused(ref: str) -> None:
    with pytest.raises(InvalidRequest, match=r"environment\.sources\[0\]\.ref"):
        spec({**REPOSITORY, "ref": ref})


@pytest.mark.parametrize("path", ["..", "a/../..", "", "/", "a\nb"])
def test_f5_folders_stay_inside(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"environment\.sources\[0\]\.path"):
        spec({**REPOSITORY, "path": path})


def test_what_may_be_fetched_is_said_by_the_network_rules() -> None:
    check(REPOSITORY, network={"allowlist": [{"domain": "github.com"}]})
    check(REPOSITORY, network={"allowlist": [{"domain": "*"}]})
    with pytest.raises(InvalidRequest, match=r"sources\[0\]\.source': github\.com is not in the allowlist"):
        check(REPOSITORY, network={"allowlist": [{"domain": "*.github.com"}]})
    closed: tuple[Any, ...] = ("disabled", {"allowlist": []})
    for nobody in closed:
        for source in FETCHED[:-1]:
            with pytest.raises(InvalidRequest, match="lets nothing out"):
                check(source, network=nobody)
        check(FETCHED[-1], network=nobody)


def test_rules_that_are_none_are_refused_by_the_field() -> None:
    with pytest.raises(InvalidRequest, match=r"'environment\.network\.allowlist\[0\]\.domain'"):
        check(REPOSITORY, network={"allowlist": [{"domain": "http://github.com"}]})


def test_files_may_go_into_a_fetched_folder_and_nothing_lies_where_something_is() -> None:
    inline = {"type": "inline", "target": "workspace/charts/own.txt", "content": "x"}
    check(REPOSITORY, inline)
    check(inline, REPOSITORY)
    check({**REPOSITORY, "target": "workspace"}, inline)
    download = {"type": "http", "source": "https://e.org/x", "target": "workspace/charts"}
    for pair in ((REPOSITORY, download), (REPOSITORY, REPOSITORY), (download, inline), (inline, download)):
        with pytest.raises(InvalidRequest, match="target"):
            check(*pair)
    with pytest.raises(InvalidRequest, match="must be in one of"):
        check({**REPOSITORY, "target": "/etc/charts"})


def test_a_base_takes_rules() -> None:
    rules = {"allowlist": [{"domain": "github.com"}]}
    check_base(spec(REPOSITORY, network=rules), "base")
    check_base(spec(network=rules), "base")
    with pytest.raises(InvalidRequest, match=r"base\.network\.allowlist\[0\]\.domain"):
        check_base(spec(network={"allowlist": [{"domain": "a b"}]}), "base")
    with pytest.raises(InvalidRequest, match=r"base\.sources\[0\]\.target"):
        check_base(spec({**REPOSITORY, "target": "tmp/x"}), "base")
    check_base(spec({"type": "skill_registry", "source": "charts"}), "base")


def test_a_skill_of_the_server_has_a_place_like_others() -> None:
    skill = {"type": "skill_registry", "source": "charts"}
    check(skill)
    with pytest.raises(InvalidRequest, match=r"sources\[1\]\.target'.*the same as"):
        check(skill, {**skill, "target": "/.agents/skills/charts"})
    with pytest.raises(InvalidRequest, match=r"sources\[0\]\.target'.*must be in one of"):
        check({**skill, "target": "/etc/charts"})
