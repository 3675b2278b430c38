"""The examples of the documentation run as they stand, against a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.providers import KEY, provider, settings_of
from tests.e2e.server import ServerProcess
from tests.fakes.model_servers import INPUT, Answer

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
CLIENTS_PYTHON = ROOT / ".venv-clients" / "bin" / "python"


def run_example(server: ServerProcess, *command: str, **variables: str) -> str:
    result = subprocess.run(
        command,
        env={**server.variables, "CORRAL_URL": server.url, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_quickstart_with_curl(server: ServerProcess) -> None:
    output = run_example(server, str(QUICKSTART / "curl.sh"))
    assert "event: interaction.completed" in output
    assert "\\n12" in output or "12\\n" in output, "the second call no longer knows the variable of the first"
    assert "4 sales.csv" in output
    assert "as it is stored: completed" in output


def test_quickstart_with_the_sdk(server: ServerProcess) -> None:
    output = run_example(server, str(CLIENTS_PYTHON), str(QUICKSTART / "sdk.py"))
    assert output.startswith("completed ")
    assert "in all: 12" in output


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_files_with_curl(server: ServerProcess) -> None:
    output = run_example(server, str(ROOT / "examples" / "files" / "curl.sh"))
    assert "tea,3\ntea,4\ncoffee,5\n" in output
    assert "out/sorted.csv\n" in output


def test_functions_and_an_answer_of_a_form(server: ServerProcess) -> None:
    output = run_example(server, str(CLIENTS_PYTHON), str(ROOT / "examples" / "functions" / "sdk.py"))
    assert output.splitlines() == ["asked: 300 120", "completed {'number': 881, 'amount': 300}"]


PROVIDERS = ROOT / "examples" / "providers"
ADDS_UP = "import pandas\npandas.read_csv('sales.csv').groupby('item').amount.sum()"
TURNS = (
    Answer(
        thought="Look into it.",
        signature="c2lnbmVk",
        text=("I add up.",),
        calls=(("code_execution", json.dumps({"language": "python", "code": ADDS_UP})),),
    ),
    Answer(text=("Tea sold ", "most: 7.")),
)


@pytest.mark.parametrize(
    ("kind", "model", "python"),
    [
        ("gemini", "gemini-3.8-flash", CLIENTS_PYTHON),
        ("openai", "gpt-5-mini", Path(sys.executable)),
        ("anthropic", "claude-sonnet-5", Path(sys.executable)),
    ],
)
def test_an_agent_with_a_model_of_each_provider(kind: str, model: str, python: Path, start_server: StartServer) -> None:
    with provider(kind, *TURNS, model=model) as wire:
        server = start_server(**settings_of(wire, kind))
        output = run_example(server, str(python), str(PROVIDERS / kind / "agent.py"))
        assert KEY in json.dumps(wire.headers)
        assert "coffee" in json.dumps(wire.requests[1]), "the model reads what came of its code"
        with server.caller() as caller:
            assert caller.http.get("/v1beta/environments").json()["environments"] == []
    shown = ("Look into it.", "I add up.", ADDS_UP, "tea       7", "Tea sold most: 7.")
    assert [each for each in shown if each not in output] == [], output
    assert sorted(shown, key=output.index) == list(shown)
    assert f"completed: {2 * INPUT} tokens in, " in output.splitlines()[-1]
    assert f"{kind}:{model}" in output.splitlines()[-1]


def test_quickstart_with_the_command_line(server: ServerProcess) -> None:
    output = run_example(server, str(QUICKSTART / "cli.sh"))
    assert "the longest word: " in output
    environment = output.split()[-1]
    assert all(row["id"] != environment for row in json.loads(server.cli("ps", "--json").stdout)["environments"])


def test_an_agent_from_its_folder(server: ServerProcess) -> None:
    output = run_example(server, str(ROOT / "examples" / "agents" / "cli.sh"))
    assert "✓ march" in output
    assert "+  inv-003,45.50" in output
    assert "3 statement.csv" in output
    assert "ledger-clerk: version 3" in output


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_report_from_private_data(server: ServerProcess, tmp_path: Path) -> None:
    walk = str(ROOT / "examples" / "branch-report" / "walk.sh")
    output = run_example(server, walk, str(tmp_path / "report.md"), PORT="18089", SDK_PYTHON=str(CLIENTS_PYTHON))
    assert "✓ knows its files" in output
    assert "branch-report: version 1" in output
    report = (tmp_path / "report.md").read_text()
    assert report.endswith("| s3 | Leeds | missing |\n\nIn all: 84.00 EUR\n")
    assert "| s1 | Lyon | 40.00 |\n| s2 | Basel | 44.00 |" in report


@pytest.mark.skipif(shutil.which("git") is None or shutil.which("curl") is None, reason="git or curl is not installed")
def test_a_push_to_a_private_host(server: ServerProcess) -> None:
    output = run_example(server, str(ROOT / "examples" / "private-push" / "walk.sh"))
    assert output.count("✓ ") == 11, output
    assert "git-receive-pack · with git-push" in output


def test_the_demo(server: ServerProcess) -> None:
    variables = {**os.environ, "CORRAL_IMAGE": server.variables["CORRAL_IMAGE"]}
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        env={**variables, "CORRAL_ENGINE_URL": server.variables["CORRAL_ENGINE_URL"]},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert "statements agree with the data" in result.stdout


def _blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_readmes_rest_call(server: ServerProcess) -> None:
    (block,) = [each for each in _blocks("bash") if each.startswith("curl")]
    assert "http://127.0.0.1:8080" in block
    output = run_example(server, "bash", "-c", block.replace("http://127.0.0.1:8080", server.url))
    assert '"result":"5050\\n"' in output
    assert "data: [DONE]" in output


def test_the_readmes_first_run(server: ServerProcess) -> None:
    (block,) = [each for each in _blocks("bash") if "corral run" in each]
    (line,) = [each for each in block.splitlines() if "corral run" in each]
    output = run_example(server, "bash", "-c", f"cd {ROOT} && {line}")
    assert "uid=1000(agent)" in output
    assert "completed · " in output


def test_the_readmes_sdk_program(server: ServerProcess) -> None:
    (block,) = _blocks("python")
    program = f"{block.replace('http://127.0.0.1:8080', server.url)}\nprint('it ran')"
    assert "it ran" in run_example(server, str(CLIENTS_PYTHON), "-c", program)
