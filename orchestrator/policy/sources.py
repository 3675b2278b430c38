"""Where data sources may be put, how large they may be, and from whom they may be fetched. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from orchestrator.errors import InvalidRequest
from orchestrator.policy.locations import hosts_of, repository_url
from orchestrator.policy.network import HostList, NetworkPolicy, Refusal
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.network import Network
from orchestrator.wire.sources import (
    HttpSource,
    InlineSource,
    LocalSource,
    RepositorySource,
    SkillRegistrySource,
    Source,
)

TARGET_ROOTS = ("/workspace", "/.agents", "/home/agent", "/tmp")  # noqa: S108 - inside the sandbox
"""Design 4.6: targets are relative to `/` and may lie under these."""
INLINE_LIMIT_BYTES = 16 << 20
"""One inline file. The request body's own limit bounds them together."""
_ANY_ADDRESS = HostList.parse(["0.0.0.0/0", "::/0"])
"""Addresses are judged where they are dialled: what the operator allows is known there."""


def is_fetched(source: Source) -> bool:
    """Whether it comes from outside, under the environment's network rules."""
    return not isinstance(source, InlineSource | LocalSource | SkillRegistrySource)


def check_sources(sources: Sequence[Source], network: Network | None, at: str = "environment.sources") -> None:
    """Raises `InvalidRequest`, naming the field, if a target, a size or an address is not allowed, two sources collide,
    or a rule is none.
    """
    _check_places(sources, at)
    policy = NetworkPolicy.of(network, _ANY_ADDRESS, f"{at.removesuffix('sources')}network")
    for index, source in enumerate(sources):
        where = f"{at}[{index}]"
        if is_fetched(source) and policy.rules == ():
            raise InvalidRequest(f"Invalid value at '{where}': it cannot be fetched where 'network' lets nothing out.")
        if isinstance(source, RepositorySource) and source.lfs and repository_url(source, where).scheme != "https":
            raise InvalidRequest(f"Invalid value at '{where}.lfs': files of LFS come over https only.")
        for host, port in hosts_of(source, where):
            if isinstance(verdict := policy.judge(host, port), Refusal):
                raise InvalidRequest(f"Invalid value at '{where}.source': {verdict.reason}.")


def _check_places(sources: Sequence[Source], at: str) -> None:
    """Nothing lies where something else is. What lies below a fetched folder goes over it."""
    taken: dict[PurePosixPath, int] = {}
    files: dict[PurePosixPath, int] = {}
    folders: dict[PurePosixPath, int] = {}
    for index, source in enumerate(sources):
        path = PurePosixPath(source.path)
        where = f"{at}[{index}]"
        is_file = isinstance(source, InlineSource) or (isinstance(source, HttpSource) and not source.extract)
        if not any(path.is_relative_to(root) and not (is_file and str(path) == root) for root in TARGET_ROOTS):
            what, roots = "a file below" if is_file else "in", ", ".join(TARGET_ROOTS)
            raise InvalidRequest(f"Invalid value at '{where}.target': must be {what} one of {roots}.")
        if isinstance(source, InlineSource) and len(source.data) > INLINE_LIMIT_BYTES:
            raise InvalidRequest(f"Invalid value at '{where}.content': more than {INLINE_LIMIT_BYTES} bytes.")
        if path in taken:
            raise InvalidRequest(f"Invalid value at '{where}.target': the same as '{at}[{taken[path]}].target'.")
        if is_file and path in folders:
            raise InvalidRequest(f"Invalid value at '{where}.target': '{at}[{folders[path]}].target' lies below it.")
        for parent in path.parents:
            if parent in files:
                raise InvalidRequest(
                    f"Invalid value at '{where}.target': '{at}[{files[parent]}].target' is a file, not a folder."
                )
            folders.setdefault(parent, index)
        taken[path] = index
        if is_file:
            files[path] = index


def check_base(spec: EnvironmentSpec, at: str) -> None:
    """Whether a template can be built of it. Raises `InvalidRequest`, naming the field."""
    for name in ("environment_id", "env"):
        if getattr(spec, name):
            raise InvalidRequest(f"Not supported: '{at}.{name}'.")
    check_sources(spec.sources, spec.network, f"{at}.sources")
    for index, source in enumerate(spec.sources):
        if PurePosixPath(source.path).is_relative_to("/tmp"):  # noqa: S108 - inside the sandbox
            raise InvalidRequest(
                f"Invalid value at '{at}.sources[{index}].target': /tmp is memory, which a template cannot hold."
            )
