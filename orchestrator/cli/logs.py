"""`corral logs`: what happened in an environment or an interaction, and what happens now."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.client import JsonFlag, KeyOption, UrlOption, connect, path
from orchestrator.cli.terminal import console, duration, moment, neutralise, print_json

if TYPE_CHECKING:
    from rich.console import Console

_NOTHING_TO_SAY = ("step.start", "interaction.status_update")


def logs(
    identity: Annotated[str, typer.Argument(metavar="ENVIRONMENT|INTERACTION", help="Whose log.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen, until Ctrl-C.")] = False,
    kind: Annotated[str, typer.Option("--kind", help="Only entries of this kind: network, tool, sandbox, …")] = "",
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Show lifecycle, tool calls and their output, with time stamps."""
    with connect(url, key) as api:
        view = _View(console())
        params = {"follow": "true" if follow else "false", **({"kind": kind} if kind else {})}
        lines = api.lines("GET", path("/ops/logs/{id}", id=identity), params=params)
        for line in lines:
            if not line.strip():
                continue
            entry = json.loads(line)
            if as_json:
                print_json(entry)
            else:
                view.show(entry)


class _View:
    """Turns journal entries into lines. Output comes in pieces; only whole lines are shown before the call ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._texts: dict[tuple[str, int], list[str]] = {}
        """Text of open thoughts and outputs, by log and index."""
        self._outputs: dict[tuple[str, str], str] = {}
        """The open last line of each call, by log and call id."""

    def show(self, entry: dict[str, Any]) -> None:
        body = entry.get("body") or {}
        log = str(entry.get("log", ""))
        at = str(entry.get("at", ""))
        kind = str(entry.get("kind", ""))
        for text, style in self._lines(log, kind, body if isinstance(body, dict) else {"body": body}):
            self._write(at, log, text, style)

    def _lines(self, log: str, kind: str, body: dict[str, Any]) -> list[tuple[str, str]]:
        match kind:
            case "tool.started":
                return self._started(body)
            case "tool.output":
                key = (log, str(body.get("call_id", "")))
                *whole, self._outputs[key] = (self._outputs.get(key, "") + _clean(body.get("text"))).split("\n")
                return [(f"  │ {line}", "none") for line in whole]
            case "tool.ended":
                rest = self._outputs.pop((log, str(body.get("call_id", ""))), "")
                return [*([(f"  │ {rest}", "none")] if rest else []), _ended(body)]
            case "context.read":
                return _read(body)
            case "network.connection" | "network.denied":
                return [_crossing(body)]
            case "step.delta":
                self._collect(log, body)
                return []
            case "step.stop":
                text = "".join(self._texts.pop((log, int(body.get("index", -1))), []))
                return [(line, "italic") for line in text.rstrip("\n").split("\n") if text]
            case "interaction.created":
                interaction = body.get("interaction") or {}
                name = interaction.get("agent") or interaction.get("model") or ""
                return [(f"interaction created: {_clean(name)}", "bold")]
            case "interaction.completed":
                status = _clean((body.get("interaction") or {}).get("status"))
                return [(f"interaction {status}", "bold green" if status == "completed" else "bold yellow")]
            case "error":
                error = body.get("error") or {}
                return [(f"error: {_clean(error.get('message'))} [{_clean(error.get('code'))}]", "bold red")]
            case _ if kind in _NOTHING_TO_SAY:
                return []
        fields = " ".join(f"{_clean(name)}={_value(value)}" for name, value in body.items() if value is not None)
        failed = kind.endswith((".failed", ".gone"))
        return [(f"{_clean(kind)} {fields}".rstrip(), "bold red" if failed else "cyan")]

    def _started(self, body: dict[str, Any]) -> list[tuple[str, str]]:
        arguments = body.get("arguments") or {}
        name = _clean(body.get("tool"))
        if "code" not in arguments:
            shown = " ".join(f"{_clean(key)}={_value(value)}" for key, value in arguments.items())
            return [(f"▶ {name} {shown}".rstrip(), "bold")]
        first, *rest = _clean(arguments["code"]).rstrip("\n").split("\n")
        language = _clean(arguments.get("language") or name)
        return [(f"▶ {language}: {first}", "bold"), *((f"  … {line}", "bold") for line in rest)]

    def _collect(self, log: str, body: dict[str, Any]) -> None:
        delta = body.get("delta") or {}
        kind = delta.get("type")
        content = delta if kind == "text" else delta.get("content") or {} if kind == "thought_summary" else {}
        if content.get("text"):
            begin = "thought: " if kind == "thought_summary" else "says: "
            pieces = self._texts.setdefault((log, int(body.get("index", -1))), [begin])
            pieces.append(_clean(content["text"]))

    def _write(self, at: str, log: str, text: str, style: str) -> None:
        from rich.text import Text

        when = moment(at)
        clock = when.astimezone().strftime("%H:%M:%S.%f")[:-3] if when is not None else _clean(at)
        # Ends differ where beginnings are alike: interaction ids of one conversation share theirs.
        self._console.print(Text.assemble((clock, "dim"), " ", (_clean(log)[-8:], "blue"), " ", (text, style)))


def _read(body: dict[str, Any]) -> list[tuple[str, str]]:
    """The files that a run was told of, a line each."""
    guides, skills, unread = (body.get(name) or [] for name in ("guides", "skills", "unread"))
    told = [f"read {_clean(each.get('path'))}: {len(each.get('text') or '')} characters" for each in guides]
    told += [f"skill {_clean(each.get('name'))}: {_value(each.get('description'))}" for each in skills]
    failed = [f"not read {_clean(each.get('path'))}: {_value(each.get('reason'))}" for each in unread]
    return [(line, "cyan") for line in told] + [(line, "bold red") for line in failed]


def _ended(body: dict[str, Any]) -> tuple[str, str]:
    verdict = _clean(body.get("verdict")) or "ended"
    code = body.get("exit_code")
    good = verdict in ("ok", "exited", "ended") and code in (None, 0)
    parts = [verdict if code is None else f"{verdict} {code}"]
    took = body.get("duration_ms")
    if isinstance(took, int | float):
        parts.append(f"{took:.0f} ms" if took < 1000 else duration(timedelta(milliseconds=took)))
    return f"{'✓' if good else '✗'} {' · '.join(parts)}", "green" if good else "red"


def _crossing(body: dict[str, Any]) -> tuple[str, str]:
    verdict = _clean(body.get("verdict"))
    asked = " ".join(_clean(body[name]) for name in ("method", "path") if body.get(name))
    moved = f"{body.get('sent_bytes', 0)} bytes out, {body.get('received_bytes', 0)} in"
    place = f"{_clean(body.get('host'))}:{_clean(body.get('port'))}"
    parts = [
        f"network {verdict}: {_clean(body.get('protocol'))} {place}",
        asked,
        f"with {', '.join(map(_clean, body['credentials']))}" if body.get("credentials") else "",
        moved,
        _value(body.get("reason") or ""),
    ]
    return " · ".join(filter(None, parts)), "cyan" if verdict == "allowed" else "bold red"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _clean(text).replace("\n", "\\n")
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def _clean(value: Any) -> str:
    return "" if value is None else neutralise(str(value))
