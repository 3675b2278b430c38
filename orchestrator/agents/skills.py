"""Skills: from the front matter of a `SKILL.md` to what a model is told of it. Pure; imports `guidance` only.

The text comes out of a sandbox, so the front matter is read as far as the open SKILL.md standard needs it and no
further: nothing is constructed, nothing expanded, and whatever is of no use in a name and a description is refused.
"""

from __future__ import annotations

import re

import yaml

from orchestrator.agents.guidance import Skill, Unread, plain

FRONT_MATTER_LIMIT_BYTES = 8 * 1024
_NAME = re.compile(r"(?:[a-z0-9]+-)*[a-z0-9]+")
_NAME_CHARS = 64
_DESCRIPTION_CHARS = 1024
_BRACKETS = 100
"""More of them are no description, and each one in the other costs the scanner time."""
_DEPTH = 8


class _Refused(Exception):
    """Says what is wrong with the front matter."""


def read_skill(path: str, text: str) -> Skill | Unread:
    """The skill of the file at `path`, `…/NAME/SKILL.md`, by the beginning of its text; or why it is none."""
    folder = path.split("/")[-2]
    try:
        fields = _fields(_front_matter(plain(text)))
        name, description = _wanted(fields, "name"), " ".join(plain(_wanted(fields, "description")).split())
        if len(name) > _NAME_CHARS or not _NAME.fullmatch(name):
            raise _Refused(f"its name is not lowercase letters, digits and single hyphens, at most {_NAME_CHARS}")
        if name != folder:
            raise _Refused("its name is not that of its folder")
        if not 0 < len(description) <= _DESCRIPTION_CHARS:
            raise _Refused(f"its description does not have 1 to {_DESCRIPTION_CHARS} characters")
    except _Refused as error:
        return Unread(path, str(error))
    return Skill(name, description, path)


def _front_matter(text: str) -> str:
    first, *lines = text.splitlines()[:1000] or [""]
    if first.rstrip() != "---":
        raise _Refused("it does not begin with front matter, a line of three hyphens")
    end = next((at for at, line in enumerate(lines) if line.rstrip() == "---"), None)
    found = "\n".join(lines[:end])
    if end is None or len(found.encode("utf-8", "replace")) > FRONT_MATTER_LIMIT_BYTES:
        raise _Refused(f"its front matter has no end within {FRONT_MATTER_LIMIT_BYTES} bytes")
    return found


def _fields(front_matter: str) -> dict[str, str]:
    """The members of the front matter that are text; others, which the standard has too, are left alone."""
    if front_matter.count("[") + front_matter.count("{") > _BRACKETS:
        raise _Refused("its front matter is too deep")
    try:
        _check(front_matter)
        # Nodes, not values: constructing is what anchors, tags and large numbers are dangerous for.
        root = yaml.compose(front_matter, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _Refused(f"its front matter is not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise _Refused("its front matter is not valid YAML") from error
    if not isinstance(root, yaml.MappingNode):
        raise _Refused("its front matter has no fields")
    fields: dict[str, str] = {}
    for key, value in root.value:
        if isinstance(key, yaml.ScalarNode) and key.value in fields:
            raise _Refused("its front matter has a field twice")
        if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode):
            fields[key.value] = value.value
    return fields


def _check(front_matter: str) -> None:
    depth = 0
    for event in yaml.parse(front_matter, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused("its front matter has anchors or aliases")
        if getattr(event, "tag", None) is not None:
            raise _Refused("its front matter has tags")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise _Refused("its front matter is too deep")


def _wanted(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise _Refused(f"its front matter has no {name}")
    return fields[name]
