"""The description of the API: valid, complete, and the same for every version of the paths."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from orchestrator.api import openapi
from orchestrator.api.application import VERSIONS, create_application
from orchestrator.api.errors import STATUS
from orchestrator.api.openapi import PARAMETERS, PREFIX, describe
from tests.fakes.api import Api
from tests.fakes.rows import key_row

pytestmark = pytest.mark.anyio

DOCUMENT = describe()
OPERATIONS = [
    pytest.param(method, path, operation, id=f"{method} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
UNLISTED = {"/openapi.json"}
ALWAYS_REFUSED = ("uploadToRoot", "uploadElsewhere")
UPLOAD_PREFIX = f"/upload{PREFIX}"


def resolved(part: Any) -> Any:
    while "$ref" in part:
        found: Any = DOCUMENT
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def references(part: Any) -> set[str]:
    if isinstance(part, list):
        return {name for item in part for name in references(item)}
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
    if isinstance(part.get("mapping"), dict):
        own |= set(part["mapping"].values())
    return own.union(*(references(value) for value in part.values()))


def routes(app: FastAPI) -> set[tuple[str, str]]:
    return {
        (method.lower(), str(context.path_format))
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute)
        for method in context.methods or ()
    }


async def test_every_route_is_described_and_nothing_else(api: Api) -> None:
    found = {(method, path) for method, path in routes(create_application(api.services)) if path not in UNLISTED}
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    public = {(method, path.removeprefix(PREFIX)) for method, path in described if path.startswith(PREFIX)}
    uploads = {(method, path.removeprefix(UPLOAD_PREFIX)) for method, path in described if path.startswith("/upload/")}
    assert found == {(method, path) for method, path in described if not path.startswith((PREFIX, UPLOAD_PREFIX))} | {
        (method, f"{prefix}/{version}{path}")
        for version in VERSIONS
        for prefix, own in (("", public), ("/upload", uploads))
        for method, path in own
    }


def test_a_route_that_is_forgotten_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {endpoint: known for endpoint, known in openapi.OPERATIONS.items() if known.id != "getEnvironment"}
    monkeypatch.setattr(openapi, "OPERATIONS", rest)
    with pytest.raises(LookupError, match=r"/v1beta/environments/\{environment_id\} is not described"):
        describe()


def test_the_document_is_valid_and_refers_to_nothing_that_is_not_there() -> None:
    def without_items(part: Any) -> Any:
        """3.1 has no `itemSchema`, with which FastAPI and 3.2 describe streams."""
        if isinstance(part, list):
            return [without_items(item) for item in part]
        if isinstance(part, dict):
            return {name: without_items(value) for name, value in part.items() if name != "itemSchema"}
        return part

    schemathesis.openapi.from_dict(without_items(DOCUMENT)).validate()
    for reference in references(DOCUMENT):
        assert resolved({"$ref": reference}), reference
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        assert re.fullmatch(r"[A-Za-z0-9-]+", name)
    used = {name.removeprefix("#/components/schemas/") for name in references(DOCUMENT)}
    assert set(DOCUMENT["components"]["schemas"]) - used == {"InteractionEvent"}, "events without their frames"


def test_ids_of_operations_are_unique() -> None:
    ids = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_is_complete(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"].startswith(operation["summary"])
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    assert set(re.findall(r"{(\w+)}", path)) <= {parameter.get("name") for parameter in operation["parameters"]}
    for parameter in operation["parameters"]:
        assert resolved(parameter)["description"]
    answers = operation["responses"]
    assert "422" not in answers
    assert "500" in answers
    assert ("200" in answers) != operation["operationId"].startswith(ALWAYS_REFUSED)
    for status, answer in answers.items():
        found = resolved(answer)
        assert resolved(found["headers"]["x-request-id"])["required"]
        assert ("retry-after" in found["headers"]) == (int(status) in (409, 429, 502, 503)) or path == "/readyz"
        for kind in found.get("content", {}).values():
            assert kind.get("schema") or kind.get("itemSchema")
    if path not in ("/healthz", "/readyz"):
        assert {"400", "401", "403", "503"} <= set(answers)
        assert {"header": []} in operation["security"]
    assert ("{" in path) <= ("404" in answers)
    assert ("application/json" in operation.get("requestBody", {}).get("content", {})) == ("413" in answers)
    if "files" not in operation["tags"]:
        takes_body = method in ("post", "patch") and not operation["operationId"].startswith(
            ("cancel", "replay", "revoke")
        )
        assert ("requestBody" in operation) == takes_body


def test_a_status_of_the_table_of_errors_is_described_somewhere() -> None:
    assert {str(status) for status in STATUS.values()} == set(DOCUMENT["components"]["responses"])


def test_no_parameter_is_described_that_is_not_there() -> None:
    used = {
        parameter["name"]
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
        for parameter in operation["parameters"]
        if "name" in parameter
    }
    assert used == set(PARAMETERS)


async def test_it_is_served_without_a_key_and_in_every_form_of_its_path(api: Api) -> None:
    for path in ("/openapi.json", "//openapi.json/"):
        answer = await api.client.get(f"http://127.0.0.1{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == json.loads(json.dumps(DOCUMENT))


KEYS: dict[str, dict[str, Any]] = {
    "header": {"headers": {"x-goog-api-key": "crl_ours"}},
    "bearer": {"headers": {"authorization": "Bearer crl_ours"}},
    "query": {"params": {"key": "crl_ours"}},
}


async def test_keys_are_needed_and_may_be_sent_as_is_described(api: Api) -> None:
    owner = await api.store.ensure_project("ours")
    await api.store.create_key(key_row(owner.id), hashlib.sha256(b"crl_ours").digest())
    schemes: list[dict[str, list[str]]] = [{name: []} for name in KEYS]
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            asked = re.sub(r"{\w+}", "x", path)
            needs_key = "security" in operation
            # The address of an upload is a key to it, and is not guessed.
            refused = 404 if "{upload_id}" in path else 401
            assert ((await api.client.request(method, asked)).status_code == refused) == needs_key, asked
            assert operation.get("security", []) == [*schemes, {}][: len(schemes) + 1 if needs_key else 0]
            for sent in KEYS.values():
                assert (await api.client.request(method, asked, **sent)).status_code != 401, (asked, sent)


async def test_paths_of_before_are_still_not_there(api: Api) -> None:
    assert (await api.error("GET", "/docs"))[:2] == (404, "not_found")
    assert (await api.error("GET", "/v1beta/openapi.json"))[:2] == (404, "not_found")
