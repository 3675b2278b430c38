"""Setup of base environments in real containers: root while the template is built, a plain agent in all its forks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Settings
from tests.e2e.caller import ENVIRONMENTS, Caller, Json, as_object
from tests.e2e.server import ServerProcess

AGENTS = "/v1beta/agents"
PACKAGE = r"""set -e; cd /root; mkdir -p tool/DEBIAN tool/usr/bin
printf 'Package: tool\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example.com>\nDescription: a tool\n' \
  > tool/DEBIAN/control
printf '#!/bin/sh\necho installed for $(id -un)\n' > tool/usr/bin/tool; chmod 755 tool/usr/bin/tool
dpkg-deb --build tool && dpkg -i tool.deb"""


@pytest.fixture(scope="module", params=["disks", "layers"])
def caller(
    request: pytest.FixtureRequest, engine: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Caller]:
    settings = {"STORAGE": request.param, "RESOURCES__DISK_BYTES": str(200 << 20), "POOL__SIZE": "0"}
    server = ServerProcess(engine, tmp_path_factory.mktemp("server"), **settings)
    server.start()
    with server.caller() as caller:
        yield caller
    server.close()
    server.remove_templates()


def agent(caller: Caller, name: str, *commands: str, **base: Any) -> str:
    """An agent whose template is set up by these commands."""
    fields = {"id": name, "base_environment": {"type": "remote", "setup": list(commands), **base}}
    answer = caller.http.post(AGENTS, json=fields)
    assert answer.status_code == 200, answer.text
    return name


def bash(caller: Caller, code: str, environment: Any = "remote", **fields: Any) -> Json:
    made = caller.create(f"```bash\n{code}\n```", environment, **fields)
    assert made["status"] == "completed", made
    return made


def result_of(interaction: Json) -> str:
    (result,) = [step["result"] for step in interaction["steps"] if step["type"] == "code_execution_result"]
    return str(result)


def test_a_package_is_installed_once_and_used_by_all(caller: Caller) -> None:
    name = agent(caller, "with-package", PACKAGE, "date +%s%N > /etc/when")
    made = [bash(caller, "tool; dpkg -s tool | grep Version; cat /etc/when", agent=name) for _ in range(2)]
    first, second = (result_of(each).splitlines() for each in made)
    assert first[:2] == ["installed for agent", "Version: 1.0"]
    assert first == second
    assert made[0]["environment_id"] != made[1]["environment_id"]
    refused = bash(
        caller, "dpkg -r tool; echo x > /usr/bin/tool; rm /usr/bin/tool; tool; id -u", made[0]["environment_id"]
    )
    assert result_of(refused).endswith("installed for agent\n1000\n")
    fork = caller.http.post(ENVIRONMENTS, json={"from_environment": made[0]["environment_id"]})
    assert result_of(bash(caller, "tool", str(as_object(fork)["id"]))) == "installed for agent\n"


def test_it_outlives_its_container_and_its_server(engine: Settings, tmp_path: Path) -> None:
    server = ServerProcess(engine, tmp_path, STORAGE="disks", POOL__SIZE="0")
    server.start()
    with server.caller() as caller:
        environment = str(bash(caller, "true", agent=agent(caller, "lasting", PACKAGE))["environment_id"])
        server.container(environment).remove(force=True)
        assert result_of(bash(caller, "tool", environment)) == "installed for agent\n"
        server.container(environment).kill()
        server.kill()
    server.unmount()  # as after a start of the machine
    server.start()
    with server.caller() as caller:
        assert result_of(bash(caller, "tool", environment)) == "installed for agent\n"
        assert result_of(bash(caller, "tool", agent="lasting")) == "installed for agent\n"
        caller.delete_environments()
    server.close()


def test_the_agent_owns_what_setup_made_where_it_works(caller: Caller) -> None:
    source = {"type": "inline", "target": "workspace/data.txt", "content": "given"}
    name = agent(
        caller,
        "with-files",
        'cat data.txt; cp data.txt copy; mkdir -p deep/er; echo "$HOME $DEBIAN_FRONTEND" > deep/er/env',
        "echo 1 > ~agent/setting; chown 7 deep; ln -s /etc/passwd link",
        sources=[source],
    )
    made = bash(caller, "stat -c '%n %U' * deep/er/env ~/setting; cat deep/er/env; echo more >> copy", agent=name)
    assert result_of(made).splitlines() == [
        "copy agent",
        "data.txt agent",
        "deep lp",
        "link agent",
        "deep/er/env agent",
        "/home/agent/setting agent",
        "/root noninteractive",
    ]


def test_a_setup_that_fills_the_disk_fails_and_says_so(caller: Caller, tmp_path: Path) -> None:
    name = agent(caller, "too-large", "true", "head -c 30G /dev/zero > /opt/big")
    before = shutil.disk_usage(tmp_path).used
    made = caller.create("```bash\ntrue\n```", "remote", agent=name)
    assert made["status"] == "failed"
    (error,) = made["errors"]
    assert "command 2 of its setup failed" in error["message"]
    assert "No space left on device" in error["message"] or "disk_full" in error["message"]
    assert shutil.disk_usage(tmp_path).used < before + (2 << 30)


def test_what_setup_leaves_behind_gives_nobody_more_rights(caller: Caller) -> None:
    name = agent(
        caller,
        "raised",
        "cp /bin/bash /usr/local/bin/raised; chmod 4755 /usr/local/bin/raised; cp /bin/bash raised; chmod 4755 raised",
        "(trap '' TERM; while sleep 0.1; do echo x > /usr/local/alive; done) >/dev/null 2>&1 &",
    )
    look = (
        "for each in /usr/local/bin/raised ./raised; do $each -pc 'id -u'; done"
        "; grep Cap /proc/self/status | sort -u -k2; touch /usr/local/alive; pgrep -u 0 -af 'sleep|trap'"
        "; grep CapPrm /proc/1/status"
    )
    text = result_of(bash(caller, f"({look}) 2>/dev/null", agent=name))
    assert text.splitlines() == ["1000", "1000", "CapInh:\t0000000000000000", "CapPrm:\t00000000000001e0"], text


def test_a_fork_bomb_in_setup_ends_with_its_template(caller: Caller) -> None:
    name = agent(
        caller, "bomb", "bomb() { bomb | bomb & }; bomb; sleep 1; for n in {1..2000}; do sleep 60 & done; exit 3"
    )
    made = caller.create("```bash\ntrue\n```", "remote", agent=name)
    assert made["status"] == "failed"
    assert "setup" in made["errors"][0]["message"]


def test_a_command_that_fails_is_named(caller: Caller) -> None:
    name = agent(caller, "failing", "true", "dpkg -i /nowhere.deb")
    made = caller.create("```bash\ntrue\n```", "remote", agent=name)
    assert made["status"] == "failed"
    message = made["errors"][0]["message"]
    assert "command 2 of its setup failed (exit code 2)" in message
    assert "nowhere.deb" in message


def test_an_agent_begins_with_an_environment_as_it_was(caller: Caller) -> None:
    first = bash(caller, "echo kept > notes; echo also > ~/at-home", agent=agent(caller, "for-others", PACKAGE))
    environment = str(first["environment_id"])
    made = caller.http.post(AGENTS, json={"id": "heir", "base_environment": environment})
    assert made.status_code == 200, made.text
    assert made.json()["base_environment"] == {"type": "remote", "environment_id": environment}
    bash(caller, "echo later > notes", environment)
    look = "cat notes ~/at-home; tool; echo mine > notes"
    for _ in range(2):
        assert result_of(bash(caller, look, agent="heir")) == "kept\nalso\ninstalled for agent\n"
    changed = caller.http.patch(f"{AGENTS}/heir", json={"base_environment": {"environment_id": environment}})
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    caller.delete_environment(environment)
    assert result_of(bash(caller, "cat notes", agent="heir")) == "later\n"
    assert result_of(bash(caller, "cat notes", agent="heir@1")) == "kept\n"
    gone = caller.http.post(AGENTS, json={"id": "late", "base_environment": environment})
    assert gone.status_code == 404
    assert "'base_environment'" in gone.json()["error"]["message"]
    assert caller.http.delete(f"{AGENTS}/heir").status_code == 200
