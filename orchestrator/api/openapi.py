"""The description of the API, an OpenAPI document: every route with its body, its answers and its errors.

FastAPI reads paths and parameters off the routes; what they do by hand is in one table here, `OPERATIONS`, and a route
that is not in it fails a test. Imported at the first request for the document only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from orchestrator import __version__
from orchestrator.api import (
    agents,
    answers,
    credentials,
    environments,
    files,
    interactions,
    ops,
    reach,
    skills,
    uploads,
)
from orchestrator.sandboxes.reach import WatchKind
from orchestrator.wire.agents import AgentChange, AgentCreate, AgentResource, AgentRollback, AgentVersion
from orchestrator.wire.base import encode_json
from orchestrator.wire.content import Annotation, Content
from orchestrator.wire.credentials import CredentialChange, CredentialCreate, CredentialResource
from orchestrator.wire.environments import EnvironmentCreate
from orchestrator.wire.events import Delta, PublicEvent
from orchestrator.wire.generation import AgentConfig, ResponseFormat
from orchestrator.wire.interactions import LABEL_KEY, Interaction, InteractionRequest
from orchestrator.wire.schema import Components, Mode, schemas
from orchestrator.wire.sources import Source
from orchestrator.wire.steps import Step
from orchestrator.wire.tools import ToolDeclaration

PREFIX = "/v1beta"
"""Under which the public routes are described; the other versions' are the same."""

_JSON, _EVENTS, _LINES, _TEXT = "application/json", "text/event-stream", "application/x-ndjson", "text/plain"
_ANY = "*/*"
_UPLOAD_PREFIX = f"/upload{PREFIX}"
_REF = "#/components/schemas/"
_VERB = "Verb"
"""Ends the id of an operation that is the same as another, with a colon in its path."""
_BY_POST = "ByPost"
"""Ends the id of an operation that is the same as another, by POST in place of PUT."""
_ALWAYS = (400, 401, 403, 500, 503)
_RETRYABLE = (409, 429, 502, 503)

_DESCRIPTION = """\
Runs agents in Linux containers, in the format of the Interactions API.

The paths under `/v1beta` are served under `/v1` and `/v1alpha` as well, with no difference. Doubled slashes and a slash
at the end are ignored.

**Bodies** are JSON, whatever their content type says. Unknown fields are refused by name, null is the same as absent,
and names in `type` and in other enumerations may be written in any case. A field that is described here may be one
that this server does not offer yet: it is refused with 400 `not_supported`, never dropped.

**Answers** may get more fields in a later version.

**WebSockets**, which this format cannot describe: `/ops/environments/{environment_id}/terminal` and
`/ops/environments/{environment_id}/ports/{port}`.
"""
_TAGS = {
    "interactions": "Runs of agents. One that has ended never changes again.",
    "agents": "Definitions by name. Every change is a version, and `ID@3` calls one.",
    "credentials": "Secrets by name, for requests that leave sandboxes. No answer has one.",
    "environments": "Where agents work: a sandbox and its files.",
    "skills": "Instructions for one sort of task, which environments may have of the server.",
    "files": "Files of environments. Names may be any bytes; see `encoded_path`.",
    "operators": "For those who run the server; not of the public wire. A key reaches its project, an operator's all.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What a route does by hand."""

    id: str
    body: Any = None
    """Type of the JSON that it takes."""
    answer: Any = None
    """Type of the JSON that it answers with."""
    frames: str | None = None
    """Name of the events that it streams."""
    lines: Any = None
    """Type of the objects that it answers with, one a line."""
    is_text: bool = False
    """Whether it answers with plain text."""
    is_media: bool = False
    """Whether it may answer with the bytes of files."""
    takes_bytes: bool = False
    """Whether its body is any bytes."""
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Those that it reads by hand: name → schema."""
    others: tuple[int, ...] = ()
    """Further statuses that are no errors, with any body or none."""
    never_succeeds: bool = False
    errors: tuple[int, ...] = _ALWAYS
    links: Mapping[str, str] = field(default_factory=dict)
    """Operations that take the answer's `id`, and as which parameter."""
    needs_key: bool = True


_SIZE: Mapping[str, Any] = {"type": "string", "pattern": "^[0-9]{1,15}$"}
_UPLOAD_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "x-goog-upload-protocol": {"enum": ["resumable", "raw"]},
    "x-goog-upload-command": {"const": "start"},
    "x-goog-upload-header-content-length": _SIZE,
}
_PIECE_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "x-goog-upload-command": {"enum": ["upload", "upload, finalize", "finalize", "query", "cancel"]},
    "x-goog-upload-offset": _SIZE,
    "content-range": {"type": "string"},
}

OPERATIONS: Mapping[Callable[..., Any], Operation] = {
    interactions.create: Operation(
        id="createInteraction",
        body=InteractionRequest,
        answer=Interaction,
        frames="InteractionFrame",
        errors=(*_ALWAYS, 404, 413, 429, 502),
        links={
            "getInteraction": "interaction_id",
            "cancelInteraction": "interaction_id",
            "replayInteraction": "interaction_id",
            "deleteInteraction": "interaction_id",
            "logs": "log_id",
        },
    ),
    interactions.index: Operation(id="listInteractions", answer=answers.InteractionList),
    interactions.read: Operation(
        id="getInteraction", answer=Interaction, frames="InteractionFrame", errors=(*_ALWAYS, 404)
    ),
    interactions.cancel: Operation(id="cancelInteraction", answer=Interaction, errors=(*_ALWAYS, 404)),
    interactions.replay: Operation(
        id="replayInteraction",
        answer=Interaction,
        errors=(*_ALWAYS, 404, 409, 429),
        links={"getInteraction": "interaction_id"},
    ),
    interactions.delete: Operation(id="deleteInteraction", answer=answers.Nothing, errors=(*_ALWAYS, 404)),
    agents.create: Operation(
        id="createAgent",
        body=AgentCreate,
        answer=AgentResource,
        errors=(*_ALWAYS, 404, 409, 413, 429),
        links={
            "getAgent": "agent_id",
            "changeAgent": "agent_id",
            "deleteAgent": "agent_id",
            "listAgentVersions": "agent_id",
            "rollBackAgent": "agent_id",
        },
    ),
    agents.index: Operation(id="listAgents", answer=answers.AgentList),
    agents.read: Operation(id="getAgent", answer=AgentResource, errors=(*_ALWAYS, 404)),
    agents.change: Operation(
        id="changeAgent", body=AgentChange, answer=AgentResource, errors=(*_ALWAYS, 404, 409, 413, 429)
    ),
    agents.delete: Operation(id="deleteAgent", answer=answers.Nothing, errors=(*_ALWAYS, 404)),
    agents.versions: Operation(id="listAgentVersions", answer=answers.AgentVersionList, errors=(*_ALWAYS, 404)),
    agents.read_version: Operation(id="getAgentVersion", answer=AgentVersion, errors=(*_ALWAYS, 404)),
    agents.roll_back: Operation(
        id="rollBackAgent", body=AgentRollback, answer=AgentResource, errors=(*_ALWAYS, 404, 409, 413, 429)
    ),
    skills.index: Operation(id="listSkills", answer=answers.SkillList),
    credentials.create: Operation(
        id="createCredential",
        body=CredentialCreate,
        answer=CredentialResource,
        errors=(*_ALWAYS, 409, 413, 429),
        links={
            "getCredential": "credential_id",
            "changeCredential": "credential_id",
            "revokeCredential": "credential_id",
            "deleteCredential": "credential_id",
        },
    ),
    credentials.index: Operation(id="listCredentials", answer=answers.CredentialList),
    credentials.read: Operation(id="getCredential", answer=CredentialResource, errors=(*_ALWAYS, 404)),
    credentials.change: Operation(
        id="changeCredential", body=CredentialChange, answer=CredentialResource, errors=(*_ALWAYS, 404, 409, 413)
    ),
    credentials.revoke: Operation(id="revokeCredential", answer=CredentialResource, errors=(*_ALWAYS, 404)),
    credentials.delete: Operation(id="deleteCredential", answer=answers.Nothing, errors=(*_ALWAYS, 404)),
    environments.create: Operation(
        id="createEnvironment",
        body=EnvironmentCreate,
        answer=answers.Environment,
        errors=(*_ALWAYS, 404, 409, 413, 429, 502),
        links={
            "getEnvironment": "environment_id",
            "deleteEnvironment": "environment_id",
            "getUsage": "environment_id",
            "logs": "log_id",
        },
    ),
    environments.index: Operation(id="listEnvironments", answer=answers.EnvironmentList),
    environments.read: Operation(id="getEnvironment", answer=answers.Environment, errors=(*_ALWAYS, 404)),
    environments.delete: Operation(id="deleteEnvironment", answer=answers.Nothing, errors=(*_ALWAYS, 404, 502)),
    files.index: Operation(
        id="listRootFiles",
        answer=answers.FileList,
        is_media=True,
        errors=(*_ALWAYS, 404, 409, 416, 429, 502),
    ),
    files.read: Operation(
        id="getFiles",
        answer=answers.FileList,
        is_media=True,
        headers={"range": {"type": "string", "pattern": "^bytes=[0-9]{1,15}-[0-9]{0,15}$"}},
        others=(206,),
        errors=(*_ALWAYS, 404, 409, 416, 429, 502),
    ),
    files.snapshot: Operation(id="downloadFiles", is_media=True, errors=(*_ALWAYS, 404, 409, 429, 502)),
    uploads.begin: Operation(
        id="upload",
        answer=answers.UploadAnswer,
        takes_bytes=True,
        headers=_UPLOAD_HEADERS,
        errors=(*_ALWAYS, 404, 409, 429, 502),
    ),
    uploads.begin_at_root: Operation(id="uploadToRoot", takes_bytes=True, never_succeeds=True, errors=(*_ALWAYS, 404)),
    uploads.misplace: Operation(id="uploadElsewhere", takes_bytes=True, never_succeeds=True, errors=(*_ALWAYS, 404)),
    uploads.go_on: Operation(
        id="continueUpload",
        answer=answers.UploadAnswer,
        takes_bytes=True,
        headers=_PIECE_HEADERS,
        others=(308,),
        errors=(*_ALWAYS, 404, 409, 429, 502),
    ),
    uploads.cancel: Operation(id="cancelUpload", answer=answers.Nothing, errors=(*_ALWAYS, 404, 409, 429, 502)),
    ops.healthz: Operation(id="healthz", answer=answers.Health, errors=(500,), needs_key=False),
    ops.readyz: Operation(id="readyz", answer=answers.Readiness, errors=(500, 503), needs_key=False),
    ops.ps: Operation(id="ps", answer=answers.Processes),
    ops.metrics: Operation(id="metrics", is_text=True),
    ops.logs: Operation(id="logs", lines=answers.LogLine, errors=(*_ALWAYS, 404)),
    reach.usage: Operation(id="getUsage", answer=answers.SandboxUsage, errors=(*_ALWAYS, 404, 409, 502)),
    reach.watch: Operation(id="watchFiles", frames="FileFrame", errors=(*_ALWAYS, 404, 409, 429, 502)),
}

_UNIONS = {
    "AgentConfig": AgentConfig,
    "Annotation": Annotation,
    "Content": Content,
    "CredentialCreate": CredentialCreate,
    "Delta": Delta,
    "ResponseFormat": ResponseFormat,
    "Source": Source,
    "Step": Step,
    "Tool": ToolDeclaration,
}

PARAMETERS: Mapping[str, str] = {
    "interaction_id": "Id of an interaction of the key's project.",
    "agent_id": "Id of an agent of the key's project, or of the server.",
    "version": "1, 2, 3 …",
    "parent": "Said by some clients; must be empty.",
    "credential_id": "Id of a credential of the key's project.",
    "update_mask": "Names of the fields to change, with commas between; by default those that are given.",
    "environment_id": "Id of an environment of the key's project.",
    "log_id": "Id of an interaction or an environment.",
    "idempotency-key": "The caller's own name for this call: another with the same is a repetition of it.",
    "status": "Only those with this status.",
    "agent": "Only those of this agent or model, by the name that was called.",
    "previous_interaction_id": "Only those that follow on this one.",
    "label": "Only those with this label, `key=value`; all of them, if there are several.",
    "created_from": "Only those of this moment and later. RFC 3339 with an offset.",
    "created_before": "Only those before this moment. RFC 3339 with an offset.",
    "include_input": "Answers with `input` as well.",
    "stream": "Answers with server-sent events.",
    "last_event_id": "The `event_id` after which the stream begins; without it at the first event.",
    "page_size": "At most so many; more than 1,000 is 1,000.",
    "page_token": "`next_page_token` of the page before.",
    "kind": "Only entries of this kind, or of the kinds below it: `network`, `tool`, `tool.ended`.",
    "follow": "Goes on as things happen: to the end of the interaction, or until the reader leaves.",
    "path": "Of a file: from the environment's root, such as `workspace/data.csv`. Of a watch: folders below the "
    "working directory; by default that itself.",
    "recursive": "With everything below the folders.",
    "alt": "`media` answers with the file itself, or the folder as a tar.",
    "overwrite": "Replaces what is there; else that is 409 `aborted`.",
    "extract": "The body is a `.tar` or `.tar.gz`: it is unpacked, all of it or nothing.",
    "uploadType": "`media`: the body is the file. `resumable`: it comes later, with `Content-Range`.",
    "upload_id": "Of the address that a resumable upload was given.",
    "range": "One range of bytes of a file.",
    "x-goog-upload-protocol": "`resumable`: the bytes come later; else the body is the file.",
    "x-goog-upload-command": "What to do with a resumable upload.",
    "x-goog-upload-offset": "How many bytes come before this piece.",
    "x-goog-upload-header-content-length": "How many bytes there will be; 0 makes an empty file at once.",
    "content-range": "Which bytes these are: `bytes FIRST-LAST/SIZE`, or `bytes */SIZE` to ask how many have come.",
}
"""What the parameters of paths, queries and headers mean, wherever they occur."""
_SPELLED: Mapping[str, dict[str, Any]] = {
    "idempotency-key": {"pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    "label": {"items": {"type": "string", "pattern": f"^{LABEL_KEY.pattern}="}},
    "parent": {"maxLength": 0},
    "last_event_id": {"pattern": "^(evt_[1-9][0-9]{0,17})?$"},
}
"""What routes ask of them by hand."""

_EVERYWHERE = {
    "alt": {
        "name": "alt",
        "in": "query",
        "description": "Said by some clients. It changes nothing: the rest of the request decides.",
        "schema": {"type": "string", "pattern": "^(json|sse)(;.*)?$"},
    },
    "dollar_alt": {
        "name": "$alt",
        "in": "query",
        "description": "The same as `alt`.",
        "schema": {"type": "string", "pattern": "^(json|sse)(;.*)?$"},
    },
    "fields": {
        "name": "fields",
        "in": "query",
        "description": "Only the whole answer is there.",
        "schema": {"const": "*"},
    },
}
_SECURITY = {
    "header": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
    "query": {"type": "apiKey", "in": "query", "name": "key", "description": "The same key."},
}
_HEADERS = {
    "RequestId": {
        "description": "Names the request in the server's log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    },
    "RetryAfter": {
        "description": "Seconds. There if the same request may succeed later.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
_ERRORS = {
    400: "The request is at fault (`invalid_request`), or asks for what this server does not offer (`not_supported`).",
    401: "No API key, or one that is unknown or revoked. Never without keys, in single-user mode.",
    403: (
        "Without keys: the request comes from a web page, or not over loopback. With one: it is not an operator's. An "
        "agent of the server cannot be changed."
    ),
    404: "Unknown, or another project's, which is the same.",
    409: "The present state does not allow it.",
    416: "The file has not the bytes that were asked for.",
    413: "The body has more bytes than the server takes.",
    429: "A quota of the project is used up for now.",
    500: "The server is at fault; its log has the details.",
    502: "The sandbox could not be started, or broke.",
    503: "The store, the container engine or the server itself does not take work now.",
}


@functools.cache
def document() -> bytes:
    """The document, as JSON. Takes some tenths of a second the first time."""
    return encode_json(describe())


def describe() -> dict[str, Any]:
    """The document."""
    app = FastAPI(generate_unique_id_function=_operation_id)
    app.include_router(interactions.router, prefix=PREFIX)
    app.include_router(agents.router, prefix=PREFIX)
    app.include_router(credentials.router, prefix=PREFIX)
    app.include_router(environments.router, prefix=PREFIX)
    app.include_router(skills.router, prefix=PREFIX)
    app.include_router(files.router, prefix=PREFIX)
    app.include_router(uploads.misplaced, prefix=PREFIX)
    app.include_router(uploads.router, prefix=_UPLOAD_PREFIX)
    app.include_router(uploads.pieces, prefix=_UPLOAD_PREFIX)
    app.include_router(ops.router)
    app.include_router(reach.router)
    found = get_openapi(
        title="Corral",
        version=__version__,
        description=_DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        servers=[{"url": "/"}],
    )
    shapes, components = _shapes()
    operations = {operation.id: operation for operation in OPERATIONS.values()}
    for methods in found["paths"].values():
        for described in methods.values():
            _complete(
                described, operations[described["operationId"].removesuffix(_VERB).removesuffix(_BY_POST)], shapes
            )
    found["components"] = {
        "schemas": components,
        "headers": _HEADERS,
        "parameters": _EVERYWHERE,
        "responses": {str(status): _error(status, shapes) for status in _ERRORS},
        "securitySchemes": _SECURITY,
    }
    return found


def _operation_id(route: APIRoute) -> str:
    known = OPERATIONS.get(route.endpoint)
    if known is None:
        raise LookupError(f"{route.path} is not described: add it to OPERATIONS")
    if ":" in route.path_format and not known.is_media:
        return known.id + _VERB
    return known.id + _BY_POST if known.takes_bytes and route.methods == {"POST"} else known.id


# operations


def _complete(described: dict[str, Any], operation: Operation, shapes: _Shapes) -> None:
    """Adds to what FastAPI knows of a route what it does by hand."""
    text = described["description"]
    described["summary"] = re.split(r"[.:;,]", text)[0]
    for parameter in described.setdefault("parameters", []):
        parameter["description"] = PARAMETERS[parameter["name"]]
        parameter["schema"] = _plain(parameter["schema"]) | _SPELLED.get(parameter["name"], {})
    described["parameters"] += [
        {"name": name, "in": "header", "required": False, "description": PARAMETERS[name], "schema": dict(schema)}
        for name, schema in operation.headers.items()
    ]
    if operation.needs_key:
        own = {parameter["name"] for parameter in described["parameters"]}
        described["parameters"] += [
            {"$ref": f"#/components/parameters/{name}"} for name in _EVERYWHERE if name not in own
        ]
        described["security"] = [*({name: []} for name in _SECURITY), {}]
    if operation.body is not None:
        content = {_JSON: {"schema": shapes[operation.body, "validation"]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.takes_bytes:
        described["requestBody"] = {"content": {_ANY: {"schema": {"type": "string", "format": "binary"}}}}
    described["responses"] = {
        **({} if operation.never_succeeds else {"200": _success(operation, shapes)}),
        **{
            str(status): {"description": HTTPStatus(status).phrase, "headers": _named_headers(status)}
            for status in operation.others
        },
        **{str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(operation.errors)},
    }
    if operation.id == "readyz":
        either = {"anyOf": [shapes[operation.answer, "serialization"], shapes[answers.Error, "serialization"]]}
        described["responses"]["503"] = {
            "description": "The server stops, or its store would not keep new work.",
            "headers": _named_headers(503),
            "content": {_JSON: {"schema": either}},
        }


def _success(operation: Operation, shapes: _Shapes) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content[_JSON] = {"schema": shapes[operation.answer, "serialization"]}
    if operation.frames is not None:
        content[_EVENTS] = {"itemSchema": {"$ref": _REF + operation.frames}}
    if operation.lines is not None:
        content[_LINES] = {"itemSchema": shapes[operation.lines, "serialization"]}
    if operation.is_media:
        content[_ANY] = {"schema": {"type": "string", "format": "binary"}}
    if operation.is_text:
        content[_TEXT] = {"schema": {"type": "string"}}
    text = "JSON, or events if `stream` asks for them." if _JSON in content and _EVENTS in content else "The answer."
    success: dict[str, Any] = {"description": text, "headers": _named_headers(200), "content": content}
    if operation.links:
        success["links"] = {
            follower: {"operationId": follower, "parameters": {name: "$response.body#/id"}}
            for follower, name in operation.links.items()
        }
    return success


def _error(status: int, shapes: _Shapes) -> dict[str, Any]:
    return {
        "description": f"{HTTPStatus(status).phrase}. {_ERRORS[status]}",
        "headers": _named_headers(status),
        "content": {_JSON: {"schema": shapes[answers.Error, "serialization"]}},
    }


def _named_headers(status: int) -> dict[str, Any]:
    headers = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
    return headers | ({"retry-after": {"$ref": "#/components/headers/RetryAfter"}} if status in _RETRYABLE else {})


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without title and null: who has nothing to say in a query leaves the parameter out."""
    kept = {name: value for name, value in schema.items() if name not in ("title", "anyOf")}
    for choice in schema.get("anyOf", ()):
        if choice != {"type": "null"}:
            kept |= choice
    return kept


# schemas

_Shapes = Mapping[tuple[Any, Mode], dict[str, Any]]


def _shapes() -> tuple[_Shapes, Components]:
    """Schemas of all bodies and answers, and their components."""
    used: list[tuple[Any, Mode]] = [(answers.Error, "serialization"), (answers.FileEvent, "serialization")]
    used += [(kind, "serialization") for kind in get_args(PublicEvent)]
    for operation in OPERATIONS.values():
        used += [(operation.body, "validation")] if operation.body is not None else []
        used += [(kind, "serialization") for kind in (operation.answer, operation.lines) if kind is not None]
    found, components = schemas(used, _UNIONS)
    shapes = dict(zip(used, found, strict=True))
    events = {str(kind.model_fields["event_type"].default): kind for kind in get_args(PublicEvent)}
    for kind in events.values():
        event = components[kind.__name__]
        event["properties"]["event_id"] = {"type": "string", "description": "For `last_event_id`."}
        event["required"] = [*event["required"], "event_id"]
    components["InteractionEvent"] = {
        "description": "Of an interaction: that it was created, each step as start, deltas and stop, and its end.",
        "oneOf": [shapes[kind, "serialization"] for kind in events.values()],
        "discriminator": {
            "propertyName": "event_type",
            "mapping": {name: shapes[kind, "serialization"]["$ref"] for name, kind in events.items()},
        },
    }
    components["InteractionFrame"] = _frames({name: shapes[kind, "serialization"] for name, kind in events.items()})
    file_event = shapes[answers.FileEvent, "serialization"]
    components["FileFrame"] = _frames(
        {**dict.fromkeys(WatchKind, file_event), "error": shapes[answers.Error, "serialization"]}
    )
    return shapes, dict(sorted(components.items()))


def _frames(events: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One server-sent event: JSON on one line, as its name says, or the end marker."""

    def frame(name: str, data: dict[str, Any]) -> dict[str, Any]:
        properties = {"event": {"const": name}, "data": {"type": "string", **data}}
        return {"type": "object", "required": ["event", "data"], "properties": properties}

    return {
        "oneOf": [
            *(frame(name, {"contentMediaType": _JSON, "contentSchema": data}) for name, data in events.items()),
            frame("done", {"const": "[DONE]"}),
        ]
    }
