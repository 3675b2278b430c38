"""`corral replay`: an interaction once more, with its model's answers of then, and where the results differ now."""

from __future__ import annotations

import difflib
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.client import (
    Api,
    JsonFlag,
    KeyOption,
    RequestFailed,
    StreamBroken,
    UrlOption,
    connect,
    path,
)
from orchestrator.cli.exits import BY_STATUS, Exit
from orchestrator.cli.terminal import complain, console, neutralise, print_json

if TYPE_CHECKING:
    from rich.console import Console

_INTERACTION = "/v1beta/interactions/{id}"
_RESUMES = 5
_RESUME_PAUSE_S = 0.5
_CALL_CHARS = 100


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one call, as text."""

    call: str
    """The tool and what it was asked, on one line."""
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The results of one call, then and now; None where the call was not made, or has no result."""

    call: str
    recorded: str | None
    now: str | None

    @property
    def differs(self) -> bool:
        return self.recorded != self.now


def replay(
    interaction: Annotated[str, typer.Argument(metavar="INTERACTION", help="An interaction that has ended.")],
    keep: Annotated[bool, typer.Option("--keep", help="Keep the new environment, to look into it.")] = False,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Run an interaction once more without its model: the answers are those of then, the sandbox is a fresh one.

    Shows where results differ. Exit code: 0 nowhere, 1 somewhere, 2 wrong use or refused, 130 cancelled.
    """
    with connect(url, key) as api:
        started = api.call("POST", path(_INTERACTION + "/replay", id=interaction))
        again = _Replay(api, started)
        try:
            ended = again.wait()
        except KeyboardInterrupt:
            again.cancel()
            again.clean(keep=keep)
            raise
        recorded = api.call("GET", path(_INTERACTION, id=interaction))
        again.clean(keep=keep)
    pairs = pair(results(recorded["steps"]), results(ended["steps"]))
    differs = any(each.differs for each in pairs) or recorded["status"] != ended["status"]
    if as_json:
        print_json(_report(recorded, ended, pairs, differs=differs))
    else:
        _show(console(), recorded, ended, pairs)
    raise typer.Exit(Exit.FAILED if differs else Exit.OK)


class _Replay:
    """The new interaction, as this command follows it."""

    def __init__(self, api: Api, started: dict[str, Any]) -> None:
        self._api = api
        self._id = str(started["id"])
        self._environment_id = started.get("environment_id")

    def wait(self) -> dict[str, Any]:
        """The interaction once it has ended."""
        where, cuts = path(_INTERACTION, id=self._id), 0
        while True:
            try:
                for _ in self._api.events("GET", where, params={"stream": "true"}):
                    pass
            except StreamBroken:
                cuts += 1
                if cuts > _RESUMES:
                    raise
            found: dict[str, Any] = self._api.call("GET", where)
            if found["status"] in BY_STATUS:
                return found
            time.sleep(_RESUME_PAUSE_S)

    def cancel(self) -> None:
        try:
            self._api.call("POST", path(_INTERACTION + "/cancel", id=self._id))
            complain(f"cancelled {self._id}")
        except RequestFailed as error:
            complain(f"could not cancel {self._id}: {error.message}")

    def clean(self, *, keep: bool) -> None:
        """Deletes the environment: it was made for this replay alone."""
        if self._environment_id is None:
            return
        if keep:
            typer.echo(f"environment {neutralise(str(self._environment_id))}", err=True)
            return
        try:
            self._api.call("DELETE", path("/v1beta/environments/{id}", id=str(self._environment_id)))
        except RequestFailed as error:
            complain(f"the environment {self._environment_id} is left: {error.message}")


def results(steps: Sequence[dict[str, Any]]) -> list[Result]:
    """What came of the calls of an interaction, in their order."""
    calls = {str(step["id"]): _call(step) for step in steps if str(step.get("type", "")).endswith("_call")}
    found = [step for step in steps if str(step.get("type", "")).endswith("_result")]
    return [Result(calls.get(str(step.get("call_id")), str(step["type"])), _text(step)) for step in found]


def pair(recorded: Sequence[Result], now: Sequence[Result]) -> list[Pair]:
    """The results of equal calls side by side; calls that were made only once stand alone."""
    matcher = difflib.SequenceMatcher(None, [each.call for each in recorded], [each.call for each in now], False)
    pairs = []
    for kind, first, last, start, end in matcher.get_opcodes():
        if kind == "equal":
            both = zip(recorded[first:last], now[start:end], strict=True)
            pairs += [Pair(then.call, then.text, later.text) for then, later in both]
        else:
            pairs += [Pair(each.call, each.text, None) for each in recorded[first:last]]
            pairs += [Pair(each.call, None, each.text) for each in now[start:end]]
    return pairs


def _call(step: dict[str, Any]) -> str:
    arguments = step.get("arguments") or {}
    if step["type"] == "code_execution_call":
        return f"{arguments.get('language', 'python')}: {arguments.get('code', '')}"
    return f"{step.get('name') or step['type'].removesuffix('_call')} {json.dumps(arguments, ensure_ascii=False)}"


def _text(step: dict[str, Any]) -> str:
    result = step.get("result")
    parts = result if isinstance(result, list) else [result]
    text = "".join(_part(each) for each in parts)
    return f"[failed]\n{text}" if step.get("is_error") else text


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text" and "text" in part:
        return str(part["text"])
    if isinstance(part, dict) and isinstance(part.get("data"), str):
        digest = hashlib.sha256(part["data"].encode()).hexdigest()[:16]
        return f"[{part.get('mime_type') or part.get('type')} {digest}]\n"
    return json.dumps(part, ensure_ascii=False, sort_keys=True)


def _report(recorded: dict[str, Any], now: dict[str, Any], pairs: Sequence[Pair], *, differs: bool) -> dict[str, Any]:
    return {
        "interaction": recorded["id"],
        "replay": now["id"],
        "differs": differs,
        "status": {"recorded": recorded["status"], "now": now["status"]},
        "errors": now.get("errors") or [],
        "results": [
            {"call": each.call, "recorded": each.recorded, "now": each.now, "differs": each.differs} for each in pairs
        ],
    }


def _show(out: Console, recorded: dict[str, Any], now: dict[str, Any], pairs: Sequence[Pair]) -> None:
    for number, each in enumerate(pairs, 1):
        line = " ".join(neutralise(each.call).split())
        shown = line if len(line) <= _CALL_CHARS else f"{line[:_CALL_CHARS]}…"
        verdict, style = ("differs", "bold red") if each.differs else ("same", "green")
        out.out(f"{number}. {shown}", style="bold cyan", highlight=False)
        out.out(f"  {verdict}", style=style, highlight=False)
        for text in _differences(each) if each.differs else ():
            out.out(f"  {text}", style={"+": "green", "-": "red"}.get(text[:1], "dim"), highlight=False)
    then, later = (neutralise(str(side["status"])) for side in (recorded, now))
    for error in now.get("errors") or ():
        said = f"{error.get('message', '')} [{error.get('code', '')}]"
        out.out(neutralise(said).replace("\n", " "), style="red", highlight=False)
    if then != later:
        out.out(f"then it was {then}, now it is {later}", style="bold red", highlight=False)
    count = sum(each.differs for each in pairs)
    style = "bold red" if count or then != later else "bold green"
    out.out(f"{count} of {len(pairs)} results differ", style=style, highlight=False)


def _differences(pair: Pair) -> list[str]:
    """A unified diff of the two texts."""
    then = "recorded" if pair.recorded is not None else "not recorded"
    now = "now" if pair.now is not None else "not made now"
    found = list(difflib.unified_diff(_lines(pair.recorded), _lines(pair.now), then, now, lineterm=""))
    return found or ["only characters differ that no terminal shows"]


def _lines(text: str | None) -> list[str]:
    """With the end of the last line shown where that is all that differs."""
    if not text:
        return []
    lines = neutralise(text).split("\n")
    return lines[:-1] if lines[-1] == "" else [*lines, "\\ no newline at the end"]
