"""Forks of environments in real containers: independent in both directions, whatever the parent is doing."""

from __future__ import annotations

import pytest

from tests.e2e.caller import ENVIRONMENTS, Caller, Json, as_object


def fork(caller: Caller, parent: str) -> str:
    answer = caller.http.post(ENVIRONMENTS, json={"from_environment": parent})
    assert answer.status_code == 200, answer.text
    return str(as_object(answer)["id"])


def bash(caller: Caller, environment: str, code: str) -> str:
    return result_of(caller.create(f"```bash\n{code}\n```", environment))


def result_of(interaction: Json) -> str:
    (result,) = [step["result"] for step in interaction["steps"] if step["type"] == "code_execution_result"]
    assert isinstance(result, str)
    return result


def test_parent_and_child_are_independent_in_both_directions(caller: Caller) -> None:
    parent = caller.new_environment(
        "```bash\necho one > a; mkdir d; echo two > d/b; ln -s a link; echo x > ~/in-home\n```"
    )
    child = fork(caller, parent)
    bash(caller, parent, "echo changed by the parent > a; rm -r d")
    assert bash(caller, child, "cat a link d/b ~/in-home") == "one\none\ntwo\nx\n"
    bash(caller, child, "echo changed by the child > a; rm ~/in-home; touch new")
    assert bash(caller, parent, "cat a ~/in-home; ls") == "changed by the parent\nx\na\nlink\n"


def test_a_running_parent_goes_on(caller: Caller) -> None:
    """Its processes and Python variables are still there, and what it writes meanwhile is whole on either side."""
    writer = "(i=0; while sleep 0.01; do i=$((i+1)); echo $i >> log; done) >/dev/null 2>&1 &"
    program = f"```python\nx = 41\n```\n```bash\n{writer}\nuntil [ -s log ]; do sleep 0.01; done\n```"
    parent = caller.new_environment(program)
    running = caller.start("```bash\nsleep 3; echo finished\n```", parent)
    child = fork(caller, parent)
    lines = bash(caller, child, "cat log").split()
    assert lines == [str(number) for number in range(1, len(lines) + 1)], "a log as it was at one moment"
    assert bash(caller, child, "wc -l < log; sleep 0.3; wc -l < log").split() == [str(len(lines))] * 2
    assert result_of(caller.wait(running)) == "finished\n"
    assert result_of(caller.create("```python\nx + 1\n```", parent)) == "42\n"
    assert int(bash(caller, parent, "wc -l < log")) > len(lines)


def test_a_fork_outlives_its_parent_and_can_be_forked_again(caller: Caller) -> None:
    parent = caller.new_environment("```bash\nhead -c 20000000 /dev/urandom > big; md5sum < big > sum\n```")
    child = fork(caller, parent)
    caller.delete_environment(parent)
    grandchild = fork(caller, child)
    caller.delete_environment(child)
    assert bash(caller, grandchild, '[ "$(md5sum < big)" = "$(cat sum)" ] && echo same') == "same\n"


def test_a_created_environment_has_its_sources_and_its_fork_too(caller: Caller) -> None:
    sources = [{"type": "inline", "target": "workspace/given.txt", "content": "given"}]
    made = as_object(caller.http.post(ENVIRONMENTS, json={"sources": sources}))
    untouched = fork(caller, made["id"])
    assert bash(caller, made["id"], "cat given.txt; rm given.txt") == "given"
    assert bash(caller, untouched, "cat given.txt") == "given"
    assert bash(caller, fork(caller, made["id"]), "ls | wc -l") == "0\n", "what the parent deleted does not come back"


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"from_environment": "0" * 32}, 404, "from_environment"),
        (
            {"from_environment": "x", "sources": [{"type": "inline", "target": "workspace/a", "content": ""}]},
            400,
            "sources",
        ),
        ({"sources": [{"type": "inline", "target": "etc/passwd", "content": ""}]}, 400, "sources[0].target"),
        ({"network": {"allowlist": [{"domain": "*", "credential": "c"}]}}, 400, "network.allowlist[0].credential"),
        ({"env": {"A": {"credential": "x"}}}, 400, "env.A.credential"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(caller: Caller, body: Json, status: int, named: str) -> None:
    before = caller.environments()
    answer = caller.http.post(ENVIRONMENTS, json=body)
    assert (answer.status_code, named in answer.text) == (status, True), answer.text
    assert caller.environments() == before
