from __future__ import annotations

from pydantic import BaseModel

from orchestrator.config import Settings
from scripts.configuration_docs import TARGET, render


def test_the_page_is_up_to_date():
    assert TARGET.read_text(encoding="utf-8") == render(), "run scripts/configuration_docs.py"


def test_every_setting_is_there_with_a_text():
    page = render()
    assert missing(Settings, "CORRAL_", page) == []


def missing(model: type[BaseModel], prefix: str, page: str) -> list[str]:
    """Variables of settings that the page does not name or that have no docstring."""
    found = []
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if not field.description:
            found.append(variable)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += missing(field.annotation, f"{variable}__", page)
        elif f"`{variable}`" not in page:
            found.append(variable)
    return found
