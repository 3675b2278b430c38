#!/usr/bin/env python3
"""Launches an agent over plain HTTP and prints its steps as they come. Standard library only.

    ask.py [--url URL] [--agent NAME] [--environment ID|remote] [--after INTERACTION] TEXT

The key, where one is needed, is in CORRAL_API_KEY. Ends with `interaction ID` and `environment ID`; exit code 1 unless
the interaction is `completed`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--url", default=os.environ.get("CORRAL_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--agent", default="antigravity-preview-09-2026")
    parser.add_argument("--environment", default="remote", help="where to go on; default: a new one")
    parser.add_argument("--after", help="interaction whose conversation goes on")
    asked = parser.parse_args()
    body = {"agent": asked.agent, "input": asked.text, "environment": asked.environment, "stream": True}
    if asked.after:
        body["previous_interaction_id"] = asked.after
    last: dict[str, object] = {}
    try:
        for event in events(f"{asked.url.rstrip('/')}/v1beta/interactions", body):
            show(event)
            last = event.get("interaction", last)
    except urllib.error.HTTPError as error:
        print(f"{error.code}: {error.read().decode(errors='replace')}", file=sys.stderr)
        return 1
    except urllib.error.URLError as error:
        print(f"{asked.url}: {error.reason}", file=sys.stderr)
        return 1
    print(f"\n{last.get('status')}\ninteraction {last.get('id')}\nenvironment {last.get('environment_id')}")
    return 0 if last.get("status") == "completed" else 1


def events(url: str, body: dict[str, object]) -> Iterator[dict[str, object]]:
    """The stream's events as they come. Raises `HTTPError` with the server's reason in its body."""
    headers = {"Content-Type": "application/json", "x-goog-api-key": os.environ.get("CORRAL_API_KEY", "none")}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line.removeprefix(b"data: "))


def show(event: dict) -> None:
    """Code, what came of it, and text."""
    step, delta = event.get("step") or {}, event.get("delta") or {}
    if event["event_type"] == "step.start":
        print(f"\n[{step.get('type')}]", flush=True)
    elif event["event_type"] == "step.delta":
        for key in ("text", "code", "result"):
            if isinstance(delta.get(key), str):
                print(delta[key], end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
