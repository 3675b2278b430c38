"""`make demo`: a server of its own, an agent launched over REST in a real container, its steps as they come.

Plain HTTP against the public API, as any client would do it; only the printing of the steps and the last look at the
engine are Corral's own code. The agent's results are not taken on trust: the chart must be a whole PNG, and the report
must hold numbers that are computed here once more. Exit code 0 only if all of that holds and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NoReturn

import httpx2
from vega_datasets import local_data

from orchestrator.cli.steps import StepPrinter
from orchestrator.cli.terminal import console
from orchestrator.config import Settings
from orchestrator.errors import CorralError
from orchestrator.sandboxes.docker import DockerDriver, Tls

ROOT = Path(__file__).resolve().parents[1]
PROMPT = ROOT / "examples" / "weather" / "prompt.md"
OUTPUT = ROOT / "demo-output"
CHART, REPORT, RECORD, LOG = (
    OUTPUT / name for name in ("seattle-weather.png", "report.md", "interaction.json", "server.log")
)
_START_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 15
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


class Problem(Exception):
    """The demo did not show what it should."""


def main() -> int:
    """Runs the demo; returns the exit code."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    instance = f"demo-{secrets.token_hex(6)}"
    try:
        try:
            with tempfile.TemporaryDirectory(prefix="corral-demo-") as folder, serving(Path(folder), instance) as url:
                status = show(url, Path(local_data.seattle_weather.filepath).read_text(encoding="utf-8"))
        finally:
            left = asyncio.run(remove_containers(instance))
        if left:
            raise Problem(f"the server left {left} container(s) behind; they are removed now")
    except KeyboardInterrupt:
        print("\ndemo: interrupted; server and container are gone", file=sys.stderr)
        return 130
    except (Problem, CorralError) as problem:
        print(f"\ndemo: {problem}", file=sys.stderr)
        if LOG.is_file():
            print(f"demo: the server's last lines, of {LOG.relative_to(ROOT)}:", file=sys.stderr)
            print("\n".join(LOG.read_text(encoding="utf-8").splitlines()[-8:]), file=sys.stderr)
        return 1
    if (ROOT / ".corral" / "dockerd.pid").is_file():
        say("engine", "Docker, started for this folder, goes on running; `make clean` stops it")
    say("left", "no container, no process of the demo")
    say("status", f"{status}, {time.monotonic() - began:.1f} s with server and checks")
    return 0


@contextmanager
def serving(data_dir: Path, instance: str) -> Iterator[str]:
    """A server with a data folder and an identity of its own on a free port; gives its URL, stops it at the end."""
    command = [str(Path(sys.executable).with_name("corral")), "serve", "--host", "127.0.0.1", "--port", "0"]
    ours = {"CORRAL_LOG_FORMAT": "json", "CORRAL_LOG_LEVEL": "info", "CORRAL_MODEL": "scripted"}
    # The identity above all: a server removes containers that carry its own and that it does not know.
    environment = {**os.environ, **ours, "CORRAL_INSTANCE": instance}
    with LOG.open("wb") as log:
        server = subprocess.Popen(
            [*command, "--data-dir", str(data_dir)], stderr=log, stdout=log, env=environment, start_new_session=True
        )
    try:
        yield _wait_until_listening(server)
    finally:
        server.terminate()
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def show(url: str, weather: str) -> str:
    """Launches the agent, shows its steps, saves and checks what it made; returns the interaction's status."""
    request = {
        "agent": "antigravity-preview-09-2026",
        "input": PROMPT.read_text(encoding="utf-8"),
        "environment": {
            "type": "remote",
            "sources": [
                {
                    "type": "inline",
                    "target": "workspace/data/seattle-weather.csv",
                    "content": base64.b64encode(weather.encode()).decode(),
                    "encoding": "base64",
                }
            ],
        },
        "stream": True,
    }
    say("server", f"{url}, with a temporary data folder")
    say("model", f"the embedded scripted model: it plays the script in {PROMPT.relative_to(ROOT)}.")
    say("", "No language model takes part; what happens in the container is real. Language models are not")
    say("", "there yet: they will be set as CORRAL_MODEL=provider:model.")
    say("request", f"POST /v1beta/interactions {_shortened(request)}\n")
    began = time.monotonic()
    # Without the proxies of this machine's variables: the server is on loopback.
    with httpx2.Client(base_url=url, timeout=httpx2.Timeout(60, read=None), trust_env=False) as http:
        created = play(http, request)
        took_s = time.monotonic() - began
        record = answer(http, "GET", f"/v1beta/interactions/{created['id']}")
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        answer(http, "DELETE", f"/v1beta/environments/{created['environment_id']}")
    if record["status"] != "completed":
        raise Problem(f"the interaction ended {record['status']!r}, not completed")
    chart, report = results(record["steps"])
    CHART.write_bytes(chart)
    REPORT.write_text(report, encoding="utf-8")
    width, height = png_size(chart)
    facts = facts_of(weather)
    if missing := [fact for fact in facts if fact not in report]:
        raise Problem(f"the report lacks what the data says: {'; '.join(missing)}")
    print()
    say("run", f"{len(record['steps'])} steps in {took_s:.1f} s, container included")
    say("report", f"{REPORT.relative_to(ROOT)}; its {len(facts)} statements agree with the data, computed again here")
    say("chart", f"{CHART.relative_to(ROOT)}, a whole PNG of {width} × {height} points")
    say("record", f"{RECORD.relative_to(ROOT)}, the interaction as GET returns it")
    return str(record["status"])


def play(http: httpx2.Client, request: dict[str, Any]) -> dict[str, Any]:
    """Creates the interaction and prints its stream to the end; returns the `interaction` of its first event."""
    out = console()
    if not out.is_terminal:
        out.width = 120
    printer = StepPrinter(out)
    created: dict[str, Any] = {}
    try:
        with http.stream("POST", "/v1beta/interactions", json=request) as response:
            if response.is_error:
                response.read()
                raise Problem(f"the server answered {response.status_code}: {response.text}")
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return created
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if event["event_type"] == "interaction.created":
                        created = event["interaction"]
                    printer.event(event)
    except httpx2.HTTPError as error:
        raise Problem(f"the stream broke: {error!r}") from error
    finally:
        printer.close()
    raise Problem("the stream ended without its end marker")


def answer(http: httpx2.Client, method: str, path: str) -> Any:
    """The JSON that the server answers."""
    try:
        response = http.request(method, path)
    except httpx2.HTTPError as error:
        raise Problem(f"{method} {path}: {error!r}") from error
    if response.is_error:
        raise Problem(f"{method} {path} answered {response.status_code}: {response.text}")
    return response.json()


def results(steps: list[dict[str, Any]]) -> tuple[bytes, str]:
    """The chart's bytes and the report's text, from the steps in which they came back."""
    charts = [
        base64.b64decode(block["data"])
        for step in steps
        if step["type"] == "code_execution_result" and isinstance(step["result"], list)
        for block in step["result"]
        if block["type"] == "image"
    ]
    reports = [
        step["result"] for step in steps if step["type"] == "function_result" and step.get("name") == "read_file"
    ]
    if len(charts) != 1 or len(reports) != 1 or not isinstance(reports[0], str):
        raise Problem(f"expected one chart and one report, got {len(charts)} and {len(reports)}")
    return charts[0], reports[0]


def facts_of(weather: str) -> list[str]:
    """What the report must say, computed from the table without the agent's tools."""
    rows = list(csv.DictReader(io.StringIO(weather)))
    days = [row["date"].replace("/", "-") for row in rows]
    rain, high, low = ([float(row[name]) for row in rows] for name in ("precipitation", "temp_max", "temp_min"))
    years = sorted({day[:4] for day in days})
    facts = [f"{len(rows)} days, none missing"]
    for year in years:
        of_year = [index for index, day in enumerate(days) if day.startswith(year)]
        total_mm = math.fsum(rain[index] for index in of_year)
        wet_days = sum(rain[index] > 0 for index in of_year)
        mean_high = math.fsum(high[index] for index in of_year) / len(of_year)
        facts.append(f"| {year} | {total_mm:.0f} mm | {wet_days} | {mean_high:.1f} °C |")
    monthly = {
        name: math.fsum(mm for day, mm in zip(days, rain, strict=True) if int(day[5:7]) == number) / len(years)
        for number, name in enumerate(_MONTHS, start=1)
    }
    wet, dry = max(monthly, key=monthly.__getitem__), min(monthly, key=monthly.__getitem__)
    winter = math.fsum(monthly[name] for name in _MONTHS[:3] + _MONTHS[9:]) / math.fsum(monthly.values())
    spells = [list(group) for is_dry, group in groupby(range(len(rows)), lambda at: rain[at] == 0) if is_dry]
    spell = max(spells, key=lambda each: (len(each), each[0]))
    return [
        *facts,
        f"Wettest month: {wet}, {monthly[wet]:.0f} mm",
        f"Driest month: {dry}, {monthly[dry]:.0f} mm",
        f"October to March bring {winter:.0%}",
        f"{max(rain):.1f} mm on {days[rain.index(max(rain))]}",
        f"{max(high):.1f} °C on {days[high.index(max(high))]}",
        f"{min(low):.1f} °C on {days[low.index(min(low))]}",
        f"{len(spell)} days from {days[spell[0]]}",
    ]


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose every checksum and every row is right, and that is not of one colour."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise Problem("the chart is not a PNG")
    chunks: dict[bytes, bytes] = {}
    at, kind = 8, b""
    while at + 12 <= len(data) and kind != b"IEND":
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        body, checksum = data[at + 8 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        if zlib.crc32(kind + body).to_bytes(4) != checksum:
            raise Problem(f"the chart's PNG is damaged in {kind!r}")
        chunks[kind] = chunks.get(kind, b"") + body
        at += 12 + size
    if kind != b"IEND" or len(header := chunks.get(b"IHDR", b"")) != 13:
        raise Problem("the chart's PNG is cut off")
    width, height, depth, color = *(int.from_bytes(header[n : n + 4]) for n in (0, 4)), header[8], header[9]
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row_bytes = 1 + (width * samples * depth + 7) // 8
    try:
        pixels = zlib.decompress(chunks.get(b"IDAT", b""))
    except zlib.error as error:
        raise Problem(f"the chart's PNG cannot be decoded: {error}") from error
    rows = [pixels[start:end] for start, end in pairwise(range(0, len(pixels) + 1, row_bytes))]
    if len(rows) != height or len(set(rows)) < height // 10:
        raise Problem("the chart's PNG has no picture")
    return width, height


async def remove_containers(instance: str) -> int:
    """Removes what the demo's server may have left on the engine; returns how much that was."""
    settings = Settings.load()
    certificates = settings.engine_tls.model_dump(exclude_none=True)
    with tempfile.TemporaryDirectory() as folder:
        tls = Tls(**certificates) if certificates else None
        driver = DockerDriver(settings.engine_url, instance, tls=tls, folder=Path(folder))
        try:
            await driver.open()
            left = [found.ref async for found in driver.owned()]
            for ref in left:
                await driver.destroy(ref)
            return len(left)
        finally:
            await driver.aclose()


def say(what: str, text: str) -> None:
    """One line of the demo's own."""
    print(f"{what:>8}  {text}", flush=True)


def _wait_until_listening(server: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end and server.poll() is None:
        for line in LOG.read_text(encoding="utf-8").splitlines(keepends=True):
            if '"server_listening"' in line and line.endswith("\n"):
                return str(json.loads(line)["url"])
        time.sleep(0.05)
    raise Problem("the server did not start")


def _shortened(request: dict[str, Any]) -> str:
    """The request for people: long texts cut."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(each) for name, each in value.items()}
        if isinstance(value, list):
            return [cut(each) for each in value]
        return f"{value[:40]}… ({len(value):,} characters)" if isinstance(value, str) and len(value) > 60 else value

    return json.dumps(cut(request), ensure_ascii=False)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
