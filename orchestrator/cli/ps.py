"""`corral ps`: what is there now. The server decides what there is to see; each list that it sends becomes a table."""

from __future__ import annotations

from typing import Any

from orchestrator.cli.client import JsonFlag, KeyOption, UrlOption, connect
from orchestrator.cli.terminal import console, duration, moment, neutralise, print_json
from orchestrator.clock import SystemClock

_PIPE_COLUMNS = 1000
"""Nothing is cut off where another program reads."""
_AGES = ("since", "created", "updated", "last_accessed", "started")


def ps(as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """List environments, their sandboxes, and what runs in them."""
    with connect(url, key) as api:
        answer = api.call("GET", "/ops/ps")
    if as_json:
        print_json(answer)
        return
    out = console()
    if not out.is_terminal:
        out.width = _PIPE_COLUMNS
    tables = {name: rows for name, rows in answer.items() if isinstance(rows, list)}
    for name, rows in tables.items():
        if rows:
            out.print(_table(name, rows))
    if not any(tables.values()):
        out.print("nothing here: no environments, no interactions")


def _table(name: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict)))
    table = Table(title=neutralise(name).replace("_", " "), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(neutralise(column).replace("_", " ").upper(), overflow="fold", style="none")
    for row in rows:
        table.add_row(*(Text(_cell(column, row.get(column))) for column in columns))
    return table


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(_cell(column, item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = neutralise(str(value)).replace("\n", " ")
    at = moment(text) if column in _AGES else None
    return f"{duration(SystemClock().now() - at)} ago" if at is not None else text
