"""What an environment's row says: what it was asked to be, and where its sandbox is. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from orchestrator.policy.credentials import namings
from orchestrator.sandboxes.driver import Profile, Resources, SandboxRef, SandboxSpec
from orchestrator.store.records import EnvironmentRow
from orchestrator.wire.environments import EnvironmentSpec, parse_environment

_PRESERVED = "base-"


def dump_profile(profile: Profile) -> str:
    """As a row holds it."""
    return json.dumps(dataclasses.asdict(profile), sort_keys=True)


def parse_profile(text: str) -> Profile:
    """Of a row."""
    fields = json.loads(text)
    return Profile(**{**fields, "resources": Resources(**fields["resources"])})


def template_name(profile: Profile, base: EnvironmentSpec, project_id: str) -> str:
    """The same for the same files: whatever changes them changes the name. One that credentials had a part in is the
    project's own: to another they may be of the same name, and are not the same.
    """
    owner = f"\n{project_id}" if namings(base.network, base.env) else ""
    digest = hashlib.sha256(f"{dump_profile(profile)}\n{dump_spec(base)}{owner}".encode())
    return f"template-{digest.hexdigest()[:32]}"


def preserved_name(snapshot_id: str) -> str:
    """Of a snapshot that versions of agents begin with: it is a template as it is, and never built."""
    return f"{_PRESERVED}{snapshot_id}"


def is_preserved(template: str | None) -> bool:
    """Whether a row's template is one of these."""
    return template is not None and template.startswith(_PRESERVED)


def parse_spec(text: str) -> EnvironmentSpec:
    """Of a row."""
    spec = parse_environment(json.loads(text))
    return spec if spec is not None else EnvironmentSpec()


def read_spec(row: EnvironmentRow) -> EnvironmentSpec:
    """What the environment was asked to be."""
    return parse_spec(row.spec)


def dump_spec(spec: EnvironmentSpec) -> str:
    """As a row holds it; the same for the same environment."""
    return json.dumps(spec.model_dump(exclude_none=True, exclude={"environment_id"}), sort_keys=True)


def variables_of(spec: EnvironmentSpec) -> Mapping[str, str]:
    """As a sandbox has them: of credentials the placeholders."""
    return {name: variable.inside for name, variable in spec.env.items()}


def held_credentials(spec: EnvironmentSpec) -> frozenset[str]:
    """Ids of those whose placeholders its variables hold."""
    return frozenset(each.credential for each in spec.env.values() if each.credential is not None)


def ref_of(row: EnvironmentRow) -> SandboxRef:
    """Of the sandbox that the row names, as far as it does."""
    return SandboxRef(row.sandbox_id or "", row.sandbox_ref or "")


def sandbox_spec(sandbox_id: str, profile: Profile, name: str, snapshot: str, *, is_setup: bool = False) -> SandboxSpec:
    """Of a sandbox with such a profile that begins with the files of `snapshot`; empty for the image's own."""
    return SandboxSpec(
        sandbox_id,
        profile.image,
        profile.resources,
        name,
        runtime=profile.runtime,
        snapshot=snapshot,
        is_setup=is_setup,
    )
