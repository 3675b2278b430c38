"""Agno: `GeminiInteractions` (on the official SDK), `AntigravityAgent` and `AntigravityTools` (on plain HTTP)."""

from __future__ import annotations

from typing import Any

from agno.agent import Agent  # type: ignore[import-not-found]
from agno.agents.antigravity import AntigravityAgent  # type: ignore[import-not-found]
from agno.db.in_memory import InMemoryDb  # type: ignore[import-not-found]
from agno.models.google import GeminiInteractions  # type: ignore[import-not-found]
from agno.tools.antigravity import AntigravityTools  # type: ignore[import-not-found]
from pydantic import BaseModel

from tests.e2e.clients.telling import AGENT, ASKS_TWICE, NOBODY, SEARCHES, SKIES, TELLS_FORECAST, bash, tell, url

WORKS = """```script
turns:
  - thought: Count first.
    calls: [{tool: code_execution, arguments: {language: bash, code: "seq 3"}}]
  - calls: [{tool: write_file, arguments: {path: counted.txt, content: "1 2 3"}}]
  - text: One, two, three.
    chunk: 4
```"""


class Forecast(BaseModel):
    city: str
    degrees: int


def get_weather(city: str) -> str:
    """The weather of a city."""
    return SKIES[city]


def model(**fields: Any) -> Any:
    """A model that is the agent of the server under test; without `agent` it is named as a model."""
    return GeminiInteractions(api_key="any", client_params={"http_options": {"base_url": url()}}, **fields)


def unary() -> dict[str, Any]:
    ran = Agent(model=model(agent=AGENT, environment="remote"), telemetry=False).run(WORKS)
    return {
        "status": ran.status.value,
        "text": ran.content,
        "thought": ran.reasoning_content,
        "tools": [[tool.tool_name, tool.result, tool.tool_call_error] for tool in ran.tools],
        "tokens": ran.metrics.total_tokens,
    }


def stream() -> dict[str, Any]:
    agent = Agent(model=model(agent=AGENT, environment="remote"), telemetry=False)
    events = list(agent.run(WORKS, stream=True, stream_events=True))
    return {
        "text": "".join(event.content for event in events if event.event == "RunContent" and event.content),
        "tools": [event.tool.tool_name for event in events if event.event == "ToolCallCompleted"],
        "last": events[-1].event,
    }


def functions() -> dict[str, Any]:
    ran = Agent(model=model(agent=AGENT), tools=[get_weather], telemetry=False).run(ASKS_TWICE)
    return {
        "status": ran.status.value,
        "tools": [[tool.tool_args["city"], tool.result] for tool in ran.tools],
        "text": ran.content,
    }


def functions_streamed() -> dict[str, Any]:
    agent = Agent(model=model(agent=AGENT), tools=[get_weather], telemetry=False)
    events = list(agent.run(ASKS_TWICE, stream=True, stream_events=True))
    return {
        "tools": [
            [event.tool.tool_args["city"], event.tool.result] for event in events if event.event == "ToolCallCompleted"
        ],
        "text": "".join(event.content for event in events if event.event == "RunContent" and event.content),
    }


def conversation() -> dict[str, Any]:
    """The second run sends only what is new, and the id of the first."""
    agent = Agent(
        model=model(agent=AGENT, environment="remote"),
        db=InMemoryDb(),
        session_id="one",
        add_history_to_context=True,
        telemetry=False,
    )
    first = agent.run(bash("echo kept >kept.txt"))
    earlier = first.messages[-1].provider_data["interaction_id"]
    interactions = agent.model.get_client().interactions
    agent.model.environment = interactions.get(earlier).environment_id
    second = agent.run(bash("cat kept.txt"))
    later = interactions.get(second.messages[-1].provider_data["interaction_id"])
    agent.model.environment = "remote"
    third = interactions.get(agent.run(bash("ls")).messages[-1].provider_data["interaction_id"])
    return {
        "remote_is_new": third.environment_id != later.environment_id,
        "previous": later.previous_interaction_id == earlier,
        "tools": [tool.result for tool in second.tools],
        "one_environment": later.environment_id == interactions.get(earlier).environment_id,
    }


def as_model() -> dict[str, Any]:
    """Where no `agent` is set, instructions go along."""
    agent = Agent(model=model(id="gemini-3.8-flash"), instructions="Be brief.", telemetry=False)
    ran = agent.run("```script\nturns: [{text: Short.}]\n```")
    read = agent.model.get_client().interactions.get(ran.messages[-1].provider_data["interaction_id"])
    return {"status": ran.status.value, "text": ran.content, "instruction": read.system_instruction}


def stateless() -> dict[str, Any]:
    ran = Agent(model=model(id="gemini-3.8-flash", store=False), telemetry=False).run(
        "```script\nturns: [{text: Short.}]\n```"
    )
    return {"text": ran.content, "id": ran.messages[-1].provider_data["interaction_id"]}


def structured() -> dict[str, Any]:
    ran = Agent(model=model(agent=AGENT), output_schema=Forecast, telemetry=False).run(TELLS_FORECAST)
    return {"class": type(ran.content).__name__, "answer": ran.content.model_dump()}


def offered() -> dict[str, Any]:
    ran = Agent(model=model(agent=AGENT, search=True, url_context=True), telemetry=False).run(SEARCHES)
    return {
        "status": ran.status.value,
        "tools": [[tool.tool_name, tool.tool_call_error] for tool in ran.tools],
        "text": ran.content,
    }


def errors() -> dict[str, Any]:
    def ended(**fields: Any) -> list[Any]:
        ran = Agent(model=model(**fields), telemetry=False).run("x")
        return [ran.status.value, ran.content]

    return {"agent": ended(agent="nobody"), "environment": ended(agent=AGENT, environment=NOBODY)}


def antigravity() -> dict[str, Any]:
    """Keeps the environment and the conversation of a session, from unary and from streamed answers."""
    agent = AntigravityAgent(
        name="Antigravity", api_key="any", base_url=f"{url()}/v1beta", agent=AGENT, db=InMemoryDb()
    )
    first = agent.run(
        "```script\nturns: [{calls: [{tool: write_file, arguments: "
        "{path: kept.txt, content: kept}}]}, {text: Written.}]\n```",
        session_id="one",
    )
    before = dict(agent.read_or_create_session("one").session_data)
    reads = (
        "```script\nturns: [{calls: [{tool: read_file, arguments: {path: kept.txt}}]}, {text: 'It says {{last}}'}]\n```"
    )
    events = list(agent.run(reads, session_id="one", stream=True))
    after = dict(agent.read_or_create_session("one").session_data)
    third = agent.run(reads, session_id="one")
    return {
        "texts": [first.content, third.content],
        "streamed": "".join(event.content for event in events if event.event == "RunContent" and event.content),
        "one_environment": before["antigravity_env_id"] == after["antigravity_env_id"],
        "went_on": before["antigravity_previous_interaction_id"] != after["antigravity_previous_interaction_id"],
        "refused": AntigravityAgent(name="Nobody", api_key="any", base_url=f"{url()}/v1beta", agent="nobody")
        .run("x")
        .status.value,
    }


def antigravity_seeded() -> dict[str, Any]:
    source = {"type": "inline", "content": "as agreed", "target": "/workspace/note.txt"}
    agent = AntigravityAgent(name="Seeded", api_key="any", base_url=f"{url()}/v1beta", agent=AGENT, sources=[source])
    return {"text": agent.run(bash("cat note.txt")).content}


def antigravity_tools() -> dict[str, Any]:
    """Delegates two tasks as an agent would that calls these tools."""
    tools = AntigravityTools(api_key="any", base_url=f"{url()}/v1beta", agent=AGENT)
    caller = Agent(telemetry=False)
    tools.run_antigravity_task(caller, bash("echo kept >kept.txt"))
    return {"text": tools.run_antigravity_task(caller, bash("cat kept.txt"))}


if __name__ == "__main__":
    tell(
        {
            "unary": unary,
            "stream": stream,
            "functions": functions,
            "functions streamed": functions_streamed,
            "conversation": conversation,
            "as model": as_model,
            "stateless": stateless,
            "structured": structured,
            "offered": offered,
            "errors": errors,
            "antigravity": antigravity,
            "antigravity seeded": antigravity_seeded,
            "antigravity tools": antigravity_tools,
        }
    )
