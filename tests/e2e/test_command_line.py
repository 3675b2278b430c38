"""The `corral` command beside a running server, as people and scripts use it."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import IO

import pytest

import orchestrator
from orchestrator.cli.exits import Exit
from tests.e2e.caller import Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result, run_bash, script
from tests.e2e.server import ServerProcess

LINE_SECONDS = 0.4


def test_run_prints_the_steps_and_where_they_ran(server: ServerProcess, caller: Caller, environment: str) -> None:
    program = script({"thought": "Look first."} | run_bash("echo $((6 * 7))"), {"text": "The answer is **42**."})
    done = server.cli("run", program, "--env", environment)
    assert done.returncode == Exit.OK, done.stderr
    order = ["Look first.", "echo $((6 * 7))", "42", "The answer is **42**.", "completed", environment]
    positions = [done.stdout.index(each) for each in order[:2]]
    positions += [done.stdout.index(each, positions[-1] + len(order[1])) for each in order[2:]]
    assert positions == sorted(positions), done.stdout
    interaction_id = next(word for word in done.stdout.split() if word.startswith("v1_"))
    assert caller.read(interaction_id)["status"] == "completed"


def test_run_with_json_prints_one_event_a_line(server: ServerProcess, environment: str) -> None:
    done = server.cli("run", bash("echo piped"), "--env", environment, "--json")
    assert done.returncode == Exit.OK
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event_type"] == "interaction.created"
    assert events[-1]["interaction"]["status"] == "completed"
    results = [event["delta"]["result"] for event in events if "result" in event.get("delta", {})]
    assert results == ["piped\n"]


def test_run_in_the_background_prints_the_id(server: ServerProcess, caller: Caller, environment: str) -> None:
    before = time.monotonic()
    done = server.cli("run", bash("sleep 2; echo late"), "--env", environment, "--background")
    assert done.returncode == Exit.OK, done.stderr
    interaction_id = next(word for word in done.stdout.split() if word.startswith("v1_"))
    assert caller.read(interaction_id)["status"] == "in_progress"
    assert time.monotonic() - before < 2.5
    assert only_result(caller.wait(interaction_id)) == "late\n"


def test_run_takes_files_along_and_makes_an_environment(server: ServerProcess, caller: Caller, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"a,b\n1,\xff\n")
    (tmp_path / "odd name.txt").write_text("odd")
    done = server.cli(
        "run",
        bash("wc -c <data.csv; cat notes/odd.txt"),
        "--file",
        str(tmp_path / "data.csv"),
        "--file",
        f"{tmp_path / 'odd name.txt'}:workspace/notes/odd.txt",
        "--json",
    )
    assert done.returncode == Exit.OK, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["delta"]["result"] for event in events if "result" in event.get("delta", {})] == ["8\nodd"]
    environment_id = events[0]["interaction"]["environment_id"]
    assert environment_id in caller.environments()
    removed = server.cli("rm", environment_id)
    assert (removed.returncode, removed.stdout) == (Exit.OK, f"{environment_id}\n")
    assert environment_id not in caller.environments()


def test_exit_code_says_how_the_run_ended(start_server: StartServer) -> None:
    server = start_server(MAX_TURNS="1")
    refused = script({"error": {"code": "model_refused", "message": "Not this."}})
    failed = server.cli("run", refused, "--env", "none")
    assert failed.returncode == Exit.FAILED
    assert "Not this." in failed.stdout + failed.stderr
    incomplete = server.cli("run", script({"text": "x"} | run_bash("true"), {"text": "y"}), "--env", "none")
    assert incomplete.returncode == Exit.INCOMPLETE
    misuses = {"--agent generl": "'general'", f"--env {'0' * 32}": "not found", "--no-such": "--no-such"}
    for misuse, said in misuses.items():
        wrong = server.cli("run", "x", *misuse.split())
        assert wrong.returncode == Exit.USAGE, misuse
        assert said in wrong.stderr
        assert "Traceback" not in wrong.stderr
    nobody = server.cli("run", "x", variables={"CORRAL_URL": "http://127.0.0.1:1"})
    assert nobody.returncode == Exit.USAGE
    assert "corral serve" in nobody.stderr
    misspelt = server.cli("ps", variables={"CORRAL_PROT": "1"})
    assert misspelt.returncode == Exit.USAGE
    assert "CORRAL_PORT" in misspelt.stderr


def test_interrupted_run_is_cancelled(server: ServerProcess, caller: Caller, environment: str) -> None:
    with server.start_cli("run", bash("echo begun; sleep 60"), "--env", environment, "--json") as running:
        assert running.stdout is not None
        interaction_id = json.loads(running.stdout.readline())["interaction"]["id"]
        caller.await_output(interaction_id, "begun")
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=10)
    assert running.returncode == Exit.CANCELLED
    assert caller.read(interaction_id)["status"] == "cancelled"


def test_run_cancelled_elsewhere_says_so(server: ServerProcess, caller: Caller, environment: str) -> None:
    with server.start_cli("run", bash("echo begun; sleep 60"), "--env", environment, "--json") as running:
        assert running.stdout is not None
        interaction_id = json.loads(running.stdout.readline())["interaction"]["id"]
        caller.await_output(interaction_id, "begun")
        caller.cancel(interaction_id)
        running.communicate(timeout=10)
    assert running.returncode == Exit.CANCELLED


def test_ps_shows_what_is_there_and_what_runs(server: ServerProcess, caller: Caller, environment: str) -> None:
    running = caller.start(bash("echo begun; sleep 60"), environment)
    caller.await_output(running, "begun")
    shown = server.cli("ps")
    listed = json.loads(server.cli("ps", "--json").stdout)
    caller.cancel(running)
    assert shown.returncode == Exit.OK
    assert environment in shown.stdout
    assert running in shown.stdout
    (row,) = [each for each in listed["environments"] if each["id"] == environment]
    assert (row["status"], row["running"]) == ("active", [running])
    assert running not in server.cli("ps").stdout


@pytest.mark.parametrize("of", ["environment", "interaction"])
def test_logs_follow_a_running_agent(server: ServerProcess, caller: Caller, environment: str, of: str) -> None:
    """Lifecycle, calls and output appear while the agent works, in order, each within a second."""
    lines = 5
    program = script(
        {"sleep_ms": 1500, "thought": "Count."}
        | run_bash(f"for i in $(seq {lines}); do echo line $i; sleep {LINE_SECONDS}; done; echo err >&2; exit 3"),
        {"text": "Counted."},
    )
    interaction_id = caller.start(program, environment)
    with server.start_cli("logs", "-f", environment if of == "environment" else interaction_id) as following:
        assert following.stdout is not None
        reader = _Reader(following.stdout, interaction_id[-8:])
        reader.await_line("│ line 1", timeout_s=15)
        assert caller.read(interaction_id)["status"] == "in_progress", "the log is shown after the fact"
        reader.await_line("interaction completed", timeout_s=10)
        if of == "environment":
            time.sleep(0.2)
            assert following.poll() is None, "an environment goes on after its interaction"
            following.send_signal(signal.SIGINT)
        following.wait(timeout=10)
        reader.join()
    assert following.returncode == (Exit.CANCELLED if of == "environment" else Exit.OK)
    own = reader.lines
    output = [f"│ line {number}" for number in range(1, lines + 1)]
    order = ["Count.", "▶ bash: for i", *output, "│ err", "✗ exited 3", "Counted.", "interaction completed"]
    positions = [next((at for at, (_, line) in enumerate(own) if each in line), -1) for each in order]
    assert -1 not in positions, own
    assert positions == sorted(positions), own
    stamps = [line.split()[0] for _, line in own]
    assert stamps == sorted(stamps)
    arrivals = [at for at, line in own if "│ line" in line]
    spread = arrivals[-1] - arrivals[0]
    assert abs(spread - (lines - 1) * LINE_SECONDS) < 0.8, "lines come in lumps, not as they are written"


def test_logs_of_an_environment_tell_its_life(server: ServerProcess, caller: Caller) -> None:
    own = caller.new_environment(bash("echo hello"))
    shown = server.cli("logs", own)
    assert shown.returncode == Exit.OK
    for order in (("sandbox.started", "│ hello"), ("▶ bash: echo hello", "│ hello", "✓ exited 0")):
        places = [shown.stdout.index(each) for each in order]
        assert places == sorted(places), shown.stdout
    entries = [json.loads(line) for line in server.cli("logs", own, "--json").stdout.splitlines()]
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    with server.start_cli("logs", "-f", own) as following:
        assert following.stdout is not None
        following.stdout.readline()
        caller.delete_environment(own)
        following.communicate(timeout=10)
    assert following.returncode == Exit.OK, "the log of what is gone has an end"
    gone = server.cli("logs", own)
    assert gone.returncode == Exit.USAGE
    assert own in gone.stderr


def test_logs_do_not_obey_the_sandbox(server: ServerProcess, caller: Caller, environment: str) -> None:
    code = r"printf '\033]0;owned\007\033[2J\033[31mred\r\n\0\377'"
    ended = caller.create(bash(code), environment)
    for command in (["logs", ended["id"]], ["run", bash(code), "--env", environment]):
        shown = server.cli(*command).stdout
        assert "red" in shown
        for harmful in ("\x1b]0;", "\x1b[2J", "\x1b[31m", "\0", "\r"):
            assert harmful not in shown.replace(code, "")


def test_doctor_checks_everything_a_server_needs(server: ServerProcess) -> None:
    checked = server.cli("doctor", "--json", variables={"CORRAL_PORT": str(server.port)})
    report = json.loads(checked.stdout)
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert {"settings", "engine", "runtime", "image", "data folder", "models", "agents", "port"} <= verdicts.keys()
    assert {verdicts[name] for name in ("settings", "engine", "models", "agents", "port")} == {"ok"}
    assert checked.returncode == (Exit.OK if report["ok"] else Exit.FAILED)
    assert all(check["advice"] for check in report["checks"] if check["verdict"] == "broken")
    shown = server.cli("doctor", variables={"CORRAL_PORT": str(server.port)}).stdout
    assert all(name in shown for name in verdicts)


@pytest.mark.parametrize(
    ("variables", "name", "advice"),
    [
        ({"CORRAL_ENGINE_URL": "unix:///nonexistent/engine.sock"}, "engine", "CORRAL_ENGINE_URL"),
        ({"CORRAL_IMAGE": "corral/nope:latest"}, "image", "make images"),
        ({"CORRAL_DATA_DIR": "/proc/nothing"}, "data folder", "CORRAL_DATA_DIR"),
        ({"CORRAL_MODEL": "nobody:nothing"}, "models", "CORRAL_MODEL"),
        ({"CORRAL_RESOURCES__CPUS": "many"}, "settings", "correct"),
    ],
)
def test_doctor_says_what_is_broken_and_what_to_do(
    server: ServerProcess, variables: dict[str, str], name: str, advice: str
) -> None:
    checked = server.cli("doctor", "--json", variables=variables)
    assert checked.returncode == Exit.FAILED
    (check,) = [each for each in json.loads(checked.stdout)["checks"] if each["name"] == name]
    assert check["verdict"] == "broken"
    assert advice in check["advice"]
    assert "Traceback" not in checked.stderr


def test_version(server: ServerProcess) -> None:
    for arguments in (("version",), ("--version",)):
        assert server.cli(*arguments).stdout == f"{orchestrator.__version__}\n"
    assert json.loads(server.cli("version", "--json").stdout) == {"version": orchestrator.__version__}
    with server.caller() as caller:
        assert caller.http.get("/healthz").json()["version"] == orchestrator.__version__


class _Reader:
    """Notes when each line of a stream that has `mark` in it arrives."""

    def __init__(self, stream: IO[str], mark: str) -> None:
        self.lines: list[tuple[float, str]] = []
        self._stream = stream
        self._mark = mark
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def await_line(self, text: str, *, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not any(text in line for _, line in self.lines):
            assert time.monotonic() < deadline, f"no line {text!r} within {timeout_s} s: {self.lines}"
            time.sleep(0.02)

    def join(self) -> None:
        self._thread.join(5)

    def _read(self) -> None:
        for line in self._stream:
            if self._mark in line:
                self.lines.append((time.monotonic(), line))
