"""Writes docs/configuration.md from the docstrings of `orchestrator.config`, so that there is one text of each setting.

.venv/bin/python scripts/configuration_docs.py
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from orchestrator.config import Settings

TARGET = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_COMPUTED = {"data_dir": "`/var/lib/corral` for root, else `~/.local/share/corral`"}
"""Defaults that depend on the machine."""
_HEAD = """\
# Configuration

<!-- Written by scripts/configuration_docs.py from orchestrator/config.py. Edit the docstrings there. -->

Later wins: defaults, then the settings file, then `CORRAL_*` variables, then options of the command line. The file is
TOML: the one that `CORRAL_CONFIG` names, else `./corral.toml`, else `corral.toml` in the data folder. Nothing else
reads the environment. An unknown setting or a value that is not allowed ends the start with a message that names it,
says where it was set, and gives the closest known name. `corral doctor` checks what the settings lead to.

```toml
port = 8080
data_dir = "/srv/corral"

[resources]
memory_bytes = 4294967296
```
"""


def render() -> str:
    """The page."""
    nested = {name: field for name, field in Settings.model_fields.items() if _is_nested(field)}
    plain = {name: field for name, field in Settings.model_fields.items() if name not in nested}
    lines = [_HEAD, "## Settings", "", *_sections(plain, "CORRAL_")]
    for name, field in nested.items():
        model = cast(type[BaseModel], field.annotation)
        lines += [f"## `[{name}]`", "", f"{_one_line(model.__doc__)} {_one_line(field.description)}", ""]
        lines += _sections(model.model_fields, f"CORRAL_{name.upper()}__")
    return "\n".join(lines)


def _sections(fields: dict[str, FieldInfo], prefix: str) -> list[str]:
    lines: list[str] = []
    for name, field in fields.items():
        facts = [f"default {_default(name, field)}", *_limits(field), f"variable `{prefix}{name.upper()}`"]
        lines += [f"### `{name}`", "", " · ".join(facts), "", _one_line(field.description), ""]
    return lines


def _default(name: str, field: FieldInfo) -> str:
    if name in _COMPUTED:
        return _COMPUTED[name]
    value = field.get_default(call_default_factory=True, validated_data={})
    return "not set" if value is None else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, Enum | SecretStr | Path):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def _limits(field: FieldInfo) -> list[str]:
    if get_origin(field.annotation) is Literal:
        return ["one of " + ", ".join(f"`{each}`" for each in get_args(field.annotation))]
    words = {Gt: "more than {0.gt}", Ge: "at least {0.ge}", Lt: "less than {0.lt}", Le: "at most {0.le}"}
    return [words[type(each)].format(each) for each in field.metadata if type(each) in words]


def _is_nested(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(TARGET)
