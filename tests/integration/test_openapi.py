"""Everything that the API's own description allows, and what it forbids, against a real server.

schemathesis makes the requests: per route what is right, what is wrong in one place, and other methods. It is told of
ids that exist, so that not everything is 404. Of its checks two are not made as they are:

* That what is described is accepted. This API refuses on purpose: what it does not offer yet is 400 `not_supported`,
  and what no schema can tell (a page token that was never given) is 400 as well. So it is made for a document that is
  cut down to what is offered and needs no ids, where nothing may be refused.
* The `allow` header of `…:cancel`: as a path it is that of an interaction whose id ends so, which may be read.
"""

from __future__ import annotations

import copy
import json
import shutil
import signal
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import allow_header_conformance, positive_data_acceptance

from orchestrator.api.openapi import describe
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import ServerProcess

pytestmark = pytest.mark.timeout(180)

Case = schemathesis.Case[Any]

_REF = "#/components/schemas/"
_VARIABLE = {"type": "environment_variable", "value": "v", "injection_location": "header"}
_NAME = {"type": "string", "pattern": "^my_[a-z]{12}$"}


class Target:
    """A server with an interaction in it that has ended, and what became of requests to it."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.url = process.url
        made = process.create("Say hello.")
        process.ended(made["id"])
        agent = httpx2.post(f"{process.url}/v1beta/agents", json={"id": "clerk"}).json()
        self.ids = {
            "interaction_id": made["id"],
            "environment_id": made["environment_id"],
            "log_id": made["id"],
            "agent_id": agent["id"],
            "version": agent["version"],
        }
        self.seen: Counter[tuple[str, bool, int]] = Counter()
        self._uploads = count()

    def parameters(self, case: Case) -> dict[str, str]:
        """What the path of a request takes that is right, and is there."""
        found = {name: self.ids[name] for name in case.path_parameters if name in self.ids}
        if "path" in case.path_parameters:
            found["path"] = "workspace" if case.method == "GET" else f"workspace/{next(self._uploads)}"
        if "credential_id" in case.path_parameters:  # a new one: what is revoked cannot be changed
            found["credential_id"] = httpx2.post(f"{self.url}/v1beta/credentials", json=_VARIABLE).json()["id"]
            if id_of(case) == "changeCredential":
                case.body, case.query = {"type": _VARIABLE["type"], "value": "w"}, {"update_mask": "value"}
        if "upload_id" in case.path_parameters:
            place = f"{self.url}/upload/v1beta/environments/{self.ids['environment_id']}/files"
            headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
            begun = httpx2.put(f"{place}/workspace/{next(self._uploads)}", headers=headers)
            found["upload_id"] = begun.headers["x-goog-upload-url"].rpartition("/")[2]
        return found

    def ask(self, case: Case) -> schemathesis.Response:
        answer = case.call(base_url=self.url)
        self.seen[id_of(case), is_right(case), answer.status_code] += 1
        return answer


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    sandboxes = Path(tempfile.mkdtemp(prefix="c-", dir="/tmp"))
    data = tmp_path_factory.mktemp("openapi") / "data"
    process = ServerProcess(data, sandboxes, POOL__SIZE="0", MAX_ENVIRONMENTS_PER_PROJECT="10000")
    process.start()
    yield Target(process)
    process.end(signal.SIGTERM)
    LocalDriver(sandboxes).kill_all()
    shutil.rmtree(sandboxes)
    for fault in ("Traceback", '"level": "error"'):
        assert fault not in process.log, process.log


# documents


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """With answers that have no fields beside those that are described."""
    document = copy.deepcopy(document)
    schemas = document["components"]["schemas"]
    answers = [operation["responses"] for methods in document["paths"].values() for operation in methods.values()]
    done: set[str] = set()
    left = references([document["components"]["responses"], answers])
    while left:
        done |= left
        left = references([schemas[name] for name in left]) - done
    for name in done:
        if "properties" in schemas[name]:
            schemas[name].setdefault("additionalProperties", False)
    return document


def references(part: Any) -> set[str]:
    if isinstance(part, list):
        return {name for item in part for name in references(item)}
    if not isinstance(part, dict):
        return set()
    reference = str(part.get("$ref"))
    own = {reference.removeprefix(_REF)} if reference.startswith(_REF) else set()
    return own.union(*(references(value) for value in part.values()))


def offered(document: dict[str, Any]) -> dict[str, Any]:
    """Without what is not offered, and with names in place of what must exist."""
    document = copy.deepcopy(document)
    schemas = document["components"]["schemas"]

    def only(name: str, fields: dict[str, Any]) -> None:
        properties = schemas[name]["properties"]
        schemas[name]["properties"] = {field: properties[field] if at is ... else at for field, at in fields.items()}

    def members(name: str, kinds: set[str]) -> None:
        schemas[name]["oneOf"] = [each for each in schemas[name]["oneOf"] if each["$ref"].removeprefix(_REF) in kinds]
        mapping = schemas[name]["discriminator"]["mapping"]
        kept = {kind: at for kind, at in mapping.items() if at.removeprefix(_REF) in kinds}
        schemas[name]["discriminator"]["mapping"] = kept

    request = schemas["InteractionRequest"]["properties"]
    environment = request["environment"]["anyOf"]
    text = {"type": "string", "minLength": 1}
    said = [text, {"$ref": f"{_REF}UserInput-Input"}, {"$ref": f"{_REF}Content-Input"}, {"$ref": f"{_REF}Turn"}]
    only(
        "InteractionRequest",
        {
            "agent": {"const": "general"},
            "input": {"anyOf": [*said, *({"type": "array", "minItems": 1, "items": each} for each in said[1:])]},
            "system_instruction": ...,
            "tools": {"type": "array", "items": {"$ref": f"{_REF}Tool"}, "maxItems": 1},
            "environment": {"anyOf": [{"const": "remote"}, *(each for each in environment if "pattern" not in each)]},
            "stream": ...,
            "background": {"type": "boolean"},
            "agent_config": ...,
            "service_tier": ...,
            "labels": ...,
        },
    )
    schemas["InteractionRequest"]["required"] = ["agent", "input"]
    schemas["Turn"]["properties"]["content"]["anyOf"] = [text, {"$ref": f"{_REF}TextContent-Input"}]
    only("EnvironmentForm", {"type": ..., "network": {"const": "disabled"}, "env": ..., "sources": ..., "enabled": ...})
    only("EnvironmentCreate", {"network": {"const": "disabled"}, "sources": ...})
    only("EnvVar", {"value": ...})
    base = {"anyOf": [{"const": "remote"}, *(each for each in environment if "pattern" not in each)]}
    changes = {"description": ..., "system_instruction": ..., "base_environment": base}
    changes["tools"] = {"type": "array", "items": {"$ref": f"{_REF}Tool"}, "maxItems": 1}
    only("AgentCreate", {"id": {"type": "string", "pattern": "^my-[a-z]{12}$"}, **changes})
    only("AgentChange", {**changes, "base_agent": {"const": "general"}})
    schemas["AgentCreate"]["required"] = ["id"]
    only("AntigravityConfig", {"type": ..., "max_total_tokens": ...})
    only("FunctionTool-Input", {"type": ..., "name": _NAME, "description": ..., "parameters": ...})
    members("CredentialCreate", {"BearerToken", "EnvironmentVariable"})
    only("CredentialChange", {"type": ...})
    secret = {"type": "string", "pattern": "^[a-z]{12}$"}
    only("BearerToken", {"type": ..., "token": secret, "prefix": {"const": ""}})
    only("EnvironmentVariable", {"type": ..., "value": secret, "injection_location": ...})
    members("Content-Input", {"TextContent-Input"})
    members("Tool", {"CodeExecutionTool", "FunctionTool-Input"})
    members("AgentConfig", {"AntigravityConfig"})
    members("Source", {"InlineSource"})
    schemas["InlineSource"]["properties"]["target"] = {"type": "string", "pattern": "^workspace/[a-z]{12}$"}
    for name in ("EnvironmentForm", "EnvironmentCreate"):
        schemas[name]["properties"]["sources"] = {"type": "array", "items": {"$ref": f"{_REF}Source"}, "maxItems": 1}
    keys = document["paths"]["/v1beta/interactions"]["post"]["parameters"]
    keys[:] = [parameter for parameter in keys if parameter.get("name") != "idempotency-key"]
    return document


def negatable(document: dict[str, Any]) -> dict[str, Any]:
    """Without what schemathesis cannot make wrong values of: environments within agents."""
    document = copy.deepcopy(document)
    for name in ("AgentCreate", "AgentChange"):
        del document["components"]["schemas"][name]["properties"]["base_environment"]
    return document


def loaded(document: dict[str, Any], examples: int, *, has_coverage: bool = True, is_right: bool = False) -> Any:
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig())
    modes = [schemathesis.GenerationMode.POSITIVE] if is_right else list(schemathesis.GenerationMode)
    schema.config.generation.update(max_examples=examples, deterministic=True, database="none", modes=modes)
    schema.config.phases.coverage.enabled = has_coverage
    return schema


DOCUMENT = closed(describe())
CREATES = ["createInteraction", "createEnvironment", "createAgent", "createCredential"]
LARGE = ["createInteraction", "createAgent", "changeAgent"]
every_route = loaded(DOCUMENT, 20).exclude(operation_id=LARGE)
# All that may be wrong in one place of such a body would be 8,000 requests.
creation = loaded(negatable(DOCUMENT), 100, has_coverage=False).include(operation_id=LARGE)
what_is_offered = loaded(offered(DOCUMENT), 50, is_right=True).include(operation_id=CREATES)
# Without lists: what others left in them would make a life come out differently each time.
lives = loaded(offered(DOCUMENT), 1, is_right=True).exclude(
    operation_id=[
        "watchFiles",
        "listAgents",
        "listCredentials",
        "listEnvironments",
        "listInteractions",
        "ps",
        "healthz",
        "readyz",
    ]
)
lives.config.phases.stateful.inference.algorithms = []
lives.config.checks.positive_data_acceptance.enabled = False


def id_of(case: Case) -> str:
    return str(case.operation.definition.raw["operationId"])


def is_right(case: Case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


# requests


@every_route.parametrize()
def test_every_route_does_what_is_described(case: Case, target: Target) -> None:
    # A watch of files would not end, and what is deleted is missed by the rest.
    unsafe = ("deleteInteraction", "deleteEnvironment", "deleteAgent", "watchFiles")
    is_safe = is_right(case) and id_of(case) not in unsafe
    if is_safe and zlib.crc32(str(case.query).encode()) % 2:
        case.path_parameters.update(target.parameters(case))
    answer = target.ask(case)
    left_out: list[Callable[..., Any]] = [positive_data_acceptance]
    if ":" in case.operation.path:
        left_out.append(allow_header_conformance)
    case.validate_response(answer, excluded_checks=left_out)


@creation.parametrize()
def test_creating_does_what_is_described(case: Case, target: Target) -> None:
    body: Any = case.body
    if isinstance(body, dict) and isinstance(body.get("agent"), str) and 0 < len(body["agent"]) <= 256:
        body["agent"] = "general"
    case.path_parameters.update({name: target.ids[name] for name in case.path_parameters})
    case.validate_response(target.ask(case), excluded_checks=[positive_data_acceptance])


@what_is_offered.parametrize()
def test_what_is_described_and_offered_is_accepted(case: Case, target: Target) -> None:
    answer = target.ask(case)
    assert answer.status_code == 200, answer.text
    case.validate_response(answer)
    if id_of(case) == "createAgent":  # the next one may be given the same id
        httpx2.delete(f"{target.url}/v1beta/agents/{answer.json()['id']}")


class Lives(lives.as_state_machine()):  # type: ignore[misc]
    """What was created is read, cancelled, deleted, and after that no longer there, in any order."""

    target: Target

    def get_call_kwargs(self, case: Case) -> dict[str, Any]:
        return {"base_url": self.target.url}

    def before_call(self, case: Case) -> None:
        if id_of(case) == "logs":
            case.query["follow"] = "false"  # of an environment, that would not end
        if id_of(case) == "createAgent":  # an earlier life may have left one with this id
            body: Any = case.body
            httpx2.delete(f"{self.target.url}/v1beta/agents/{body['id']}")

    def after_call(self, response: schemathesis.Response, case: Case) -> None:
        super().after_call(response, case)
        self.target.seen[id_of(case), True, response.status_code] += 1


def test_lives_of_what_was_created(target: Target) -> None:
    Lives.target = target
    Lives.run(settings=settings(max_examples=40, stateful_step_count=8, derandomize=True, database=None, deadline=None))


def test_what_was_created_can_be_deleted(target: Target) -> None:
    """Lives come to that by chance only."""
    made = target.process.create("Say hello.")
    target.process.ended(made["id"])
    for operation, path in (
        ("deleteInteraction", f"interactions/{made['id']}"),
        ("deleteEnvironment", f"environments/{made['environment_id']}"),
    ):
        answer = httpx2.delete(f"{target.url}/v1beta/{path}", timeout=20)
        assert (answer.status_code, answer.json()) == (200, {})
        assert httpx2.get(f"{target.url}/v1beta/{path}").status_code == 404
        target.seen[operation, True, answer.status_code] += 1


def test_lines_of_logs_are_as_described(target: Target) -> None:
    answer = httpx2.get(f"{target.url}/ops/logs/{target.ids['log_id']}")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert len(lines) > 3
    for line in lines:
        component("LogLine").validate(line)


def test_frames_of_watches_are_as_described(target: Target) -> None:
    environment = target.ids["environment_id"]
    with httpx2.stream("GET", f"{target.url}/ops/environments/{environment}/watch", timeout=20) as answer:
        assert answer.status_code == 200
        target.process.create("```bash\ntouch a.txt\n```", environment=environment)
        lines = (line for line in answer.iter_lines() if line and not line.startswith(":"))
        event, data = next(lines).removeprefix("event: "), next(lines).removeprefix("data: ")
    assert (event, json.loads(data)["path"]) == ("created", "a.txt")
    component("FileFrame").validate({"event": event, "data": data})
    component("FileEvent").validate(json.loads(data))


def component(name: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": _REF + name, "components": DOCUMENT["components"]})


def test_each_route_was_asked_rightly_and_wrongly(target: Target) -> None:
    if not target.seen:
        pytest.skip("the tests above were not run")
    operations = {operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()}
    done = {operation for operation, right, status in target.seen if right and status == 200}
    refused = {operation for operation, right, status in target.seen if not right and status >= 400}
    # Uploads to nowhere are described, since clients try them, and always refused.
    refusing = {f"{each}{end}" for each in ("uploadToRoot", "uploadElsewhere") for end in ("", "ByPost")}
    assert operations - done == {"watchFiles", *refusing}
    assert operations - refused == set()
