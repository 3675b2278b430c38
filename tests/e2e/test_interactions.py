"""The public record of an interaction: the same thing by every way of reading it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e import streams
from tests.e2e.caller import ENVIRONMENTS, INTERACTIONS, Caller
from tests.e2e.programs import bash, call, only_result, results, run_bash, run_python, script, text_of

EVERYTHING = script(
    {"thought": "First the folder, then the numbers.", "chunk": 7, **run_bash("rm -f note.txt; echo seen; exit 3")},
    run_python("21 * 2"),
    call("write_file", path="note.txt", content="zeile\n"),
    {"text": "All of it is done.", "chunk": 4},
)


def test_unary_answer_is_the_fold_of_the_stream(caller: Caller, environment: str) -> None:
    with caller.stream(EVERYTHING, environment) as pieces:
        live = b"".join(pieces)
    steps, frame = streams.fold(streams.events([live]))
    unary = caller.create(EVERYTHING, environment)
    assert _without_ids(steps) == _without_ids(unary["steps"])
    assert [step["type"] for step in steps] == [
        "thought",
        "code_execution_call",
        "code_execution_result",
        "code_execution_call",
        "code_execution_result",
        "function_call",
        "function_result",
        "model_output",
    ]
    for name in ("object", "status", "agent", "environment_id", "usage"):
        assert frame[name] == unary[name], name
    assert unary["output_text"] == "All of it is done."
    assert text_of(results(unary)[0]) == "seen\n[exit code 3]"


def test_get_after_the_end_is_the_same_with_the_input_before_it(caller: Caller, environment: str) -> None:
    with caller.stream(EVERYTHING, environment) as pieces:
        steps, frame = streams.fold(streams.events(pieces))
    read = caller.read(frame["id"], stream="false")
    given, *produced = read["steps"]
    assert produced == steps
    assert given == {"type": "user_input", "content": [{"type": "text", "text": EVERYTHING}]}
    assert {name: read[name] for name in frame} == frame
    assert caller.read_raw(frame["id"]).content == caller.read_raw(frame["id"]).content


def test_replay_has_the_bytes_of_the_live_stream(caller: Caller, environment: str) -> None:
    with caller.stream(EVERYTHING, environment) as pieces:
        live = b"".join(pieces)
    first = next(streams.events([live]))
    assert caller.replay(first["interaction"]["id"]) == live


def test_resume_from_every_event_gives_the_rest_of_the_bytes(caller: Caller, environment: str) -> None:
    interaction_id = caller.create(EVERYTHING, environment)["id"]
    whole = caller.replay(interaction_id)
    ids = [event["event_id"] for event in streams.events([whole])]
    assert len(set(ids)) == len(ids)
    for event_id in ids:
        rest = caller.replay(interaction_id, after=event_id)
        assert whole.endswith(b"\n\n" + rest)
        assert [each["event_id"] for each in streams.events([rest])] == ids[ids.index(event_id) + 1 :]


def test_second_reader_joins_a_running_stream_and_sees_the_same_bytes(caller: Caller, environment: str) -> None:
    program = script(run_bash("echo one"), run_bash("sleep 1; echo two"), {"text": "done"})
    with caller.stream(program, environment) as pieces:
        began = next(pieces)
        interaction_id = next(streams.events([began]))["interaction"]["id"]
        with caller.tail(interaction_id) as second:
            assert b"".join([began, *pieces]) == b"".join(second)


def test_reader_who_leaves_does_not_end_the_run(caller: Caller, environment: str) -> None:
    with caller.stream(script(run_bash("sleep 1; echo finished"), {"text": "done"}), environment) as pieces:
        interaction_id = next(streams.events([next(pieces)]))["interaction"]["id"]
    ended = caller.wait(interaction_id)
    assert ended["status"] == "completed"
    assert only_result(ended) == "finished\n"


def test_deltas_arrive_while_the_run_goes_on(caller: Caller, environment: str) -> None:
    program = script({"text": "Before.", **run_bash("sleep 1")}, {"text": "After."})
    seen: list[dict[str, Any]] = []
    with caller.stream(program, environment) as pieces:
        for event in streams.events(pieces):
            if event["event_type"] == "step.delta":
                status = caller.read(seen[0]["interaction"]["id"])["status"]
                seen.append({"delta": event["delta"], "status": status})
            elif not seen:
                seen.append(event)
    texts = [(each["delta"].get("text"), each["status"]) for each in seen[1:] if each["delta"]["type"] == "text"]
    assert texts[0] == ("Before.", "in_progress")
    assert texts[-1][0] == "After."


def test_background_answers_at_once_and_can_be_polled(caller: Caller, environment: str) -> None:
    begun = caller.create(bash("sleep 1; echo polled"), environment, background=True)
    assert begun["status"] == "in_progress"
    assert begun["environment_id"] == environment
    ended = caller.wait(begun["id"])
    assert ended["status"] == "completed"
    assert only_result(ended) == "polled\n"


def test_background_and_stream_together(caller: Caller, environment: str) -> None:
    with caller.stream(bash("echo both"), environment, background=True) as pieces:
        _, frame = streams.fold(streams.events(pieces))
    assert frame["status"] == "completed"


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_every_version_prefix_has_the_same_routes(caller: Caller, environment: str, version: str) -> None:
    body = {"agent": "general", "input": bash("echo prefixed"), "environment": environment}
    made = caller.http.post(f"/{version}/interactions", json=body).json()
    assert only_result(made) == "prefixed\n"
    read = caller.http.get(f"/{version}/interactions/{made['id']}")
    assert read.json()["status"] == "completed"
    assert caller.http.get(f"/{version}//environments/{environment}/").json()["id"] == environment


def test_input_is_returned_on_request_only(caller: Caller, environment: str) -> None:
    interaction_id = caller.create(bash("true"), environment)["id"]
    assert "input" not in caller.read(interaction_id)
    read = caller.read(interaction_id, include_input="true")
    assert read["input"] == [{"type": "user_input", "content": [{"type": "text", "text": bash("true")}]}]


def test_deleted_interaction_is_gone_and_its_environment_stays(caller: Caller, environment: str) -> None:
    interaction_id = caller.create(bash("echo kept >kept.txt"), environment)["id"]
    deleted = caller.http.delete(f"{INTERACTIONS}/{interaction_id}")
    assert (deleted.status_code, deleted.json()) == (200, {})
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", ":cancel")):
        answer = caller.http.request(method, f"{INTERACTIONS}/{interaction_id}{path}")
        assert answer.status_code == 404, (method, path)
        assert answer.json()["error"]["code"] == "not_found"
    assert caller.http.get(f"/ops/logs/{interaction_id}").status_code == 404
    assert only_result(caller.create(bash("cat kept.txt"), environment)) == "kept\n"


def test_deleting_a_running_interaction_ends_it_and_its_streams(caller: Caller, environment: str) -> None:
    interaction_id = caller.start(bash("echo begun; sleep 60"), environment)
    caller.await_output(interaction_id, "begun")
    with caller.tail(interaction_id) as pieces:
        next(pieces)
        assert caller.http.delete(f"{INTERACTIONS}/{interaction_id}").status_code == 200
        for _ in pieces:
            pass
    assert caller.http.get(f"{INTERACTIONS}/{interaction_id}").status_code == 404
    assert interaction_id not in str(caller.ps())


def test_deleted_environment_is_gone_with_its_runs(caller: Caller) -> None:
    doomed = caller.new_environment()
    interaction_id = caller.start(bash("echo begun; sleep 60"), doomed)
    caller.await_output(interaction_id, "begun")
    caller.delete_environment(doomed)
    assert caller.read(interaction_id)["status"] == "cancelled"
    assert caller.http.get(f"{ENVIRONMENTS}/{doomed}").status_code == 404
    assert caller.http.delete(f"{ENVIRONMENTS}/{doomed}").status_code == 404
    assert caller.post("x", doomed).status_code == 404
    assert doomed not in str(caller.ps())


def test_conversation_is_carried_by_the_previous_interaction(caller: Caller, environment: str) -> None:
    first = caller.create(bash("echo chained >chained.txt"), environment)
    second = caller.create(bash("cat chained.txt"), previous_interaction_id=first["id"])
    assert second["previous_interaction_id"] == first["id"]
    assert second["environment_id"] == environment
    assert only_result(second) == "chained\n"
    elsewhere = caller.create(bash("ls"), "remote", previous_interaction_id=first["id"])
    assert elsewhere["environment_id"] != environment
    assert only_result(elsewhere) == ""
    caller.delete_environment(elsewhere["environment_id"])


def test_running_interaction_cannot_be_continued(caller: Caller, environment: str) -> None:
    running = caller.start(bash("sleep 60"), environment)
    refused = caller.post("x", environment, previous_interaction_id=running)
    caller.cancel(running)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_request"
    assert "'previous_interaction_id'" in refused.json()["error"]["message"]
    assert caller.create("x", environment, previous_interaction_id=running)["status"] == "completed"


def test_failed_run_says_why_in_every_reading(caller: Caller) -> None:
    broken = script({"text": "So far."}, {"error": {"code": "model_refused", "message": "Not this."}})
    program = script({"error": {"code": "model_refused", "message": "Not this."}})
    unary = caller.create(program)
    assert unary["status"] == "failed"
    assert unary["errors"] == [{"code": "model_refused", "message": "Not this."}]
    stream = list(streams.events([caller.replay(unary["id"])]))
    assert [event["event_type"] for event in stream[-2:]] == ["error", "interaction.completed"]
    assert stream[-1]["interaction"]["status"] == "failed"
    assert caller.create(broken)["status"] == "completed", "a turn without calls ends the run"


def test_overloaded_model_is_asked_again(caller: Caller) -> None:
    program = script({"text": "Now.", "error": {"code": "model_overloaded", "times": 1, "message": "Busy."}})
    ended = caller.create(program)
    assert (ended["status"], ended["output_text"]) == ("completed", "Now.")


def _without_ids(steps: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{name: value for name, value in step.items() if name not in ("id", "call_id")} for step in steps]
