from __future__ import annotations

from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.tools import CodeExecutionTool, GoogleSearchTool, UrlContextTool

FILES = ["delete_file", "edit_file", "list_files", "read_file", "search_files", "write_file"]


def test_file_tools_need_no_declaration() -> None:
    assert Toolbox.choose((), has_environment=True).names == FILES


def test_code_is_there_when_declared() -> None:
    toolbox = Toolbox.choose((CodeExecutionTool(), CodeExecutionTool()), has_environment=True)
    assert toolbox.names == ["code_execution", *FILES]
    assert toolbox.find("code_execution") is not None
    form = toolbox.form_of("code_execution")
    assert form is not None
    assert form.call_type == "code_execution_call"
    assert toolbox.form_of("read_file") is None


def test_what_is_looked_up_needs_no_environment() -> None:
    toolbox = Toolbox.choose((GoogleSearchTool(), UrlContextTool()), has_environment=False)
    assert toolbox.names == ["google_search", "url_context"]
    assert Toolbox.choose((), has_environment=True).find("google_search") is None


def test_without_an_environment_there_is_nothing() -> None:
    toolbox = Toolbox.choose((CodeExecutionTool(),), has_environment=False)
    assert (toolbox.names, toolbox.specs()) == ([], ())
    assert toolbox.form_of("code_execution") is None, "a call of it shows as a function, as one of any unknown name"


def test_what_is_not_there_is_not_found() -> None:
    assert Toolbox.choose((), has_environment=True).find("code_execution") is None


def test_models_see_every_tool_once() -> None:
    specs = Toolbox.choose((CodeExecutionTool(),), has_environment=True).specs()
    assert sorted(spec.name for spec in specs) == ["code_execution", *FILES]
    assert all(spec.description for spec in specs)
