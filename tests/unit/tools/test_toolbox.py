from __future__ import annotations

from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.tools import CodeExecutionTool

FILES = ["delete_file", "edit_file", "list_files", "read_file", "search_files", "write_file"]


def test_file_tools_need_no_declaration() -> None:
    assert Toolbox.choose((), has_environment=True).names == FILES


def test_code_is_there_when_declared() -> None:
    toolbox = Toolbox.choose((CodeExecutionTool(), CodeExecutionTool()), has_environment=True)
    assert toolbox.names == ["code_execution", *FILES]
    found = toolbox.find("code_execution")
    assert found is not None
    assert found.is_code


def test_without_an_environment_there_is_nothing() -> None:
    toolbox = Toolbox.choose((CodeExecutionTool(),), has_environment=False)
    assert (toolbox.names, toolbox.specs()) == ([], ())


def test_what_is_not_there_is_not_found() -> None:
    assert Toolbox.choose((), has_environment=True).find("code_execution") is None


def test_models_see_every_tool_once() -> None:
    specs = Toolbox.choose((CodeExecutionTool(),), has_environment=True).specs()
    assert sorted(spec.name for spec in specs) == ["code_execution", *FILES]
    assert all(spec.description for spec in specs)
