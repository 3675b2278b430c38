"""Asks an agent of a Corral server and shows its steps as they come. Standard library only.

    python ask.py "What is in this folder?" --file data.csv
    python ask.py "And in all?" --after INTERACTION --environment ENVIRONMENT

The server: CORRAL_URL, else http://127.0.0.1:8080; its key: CORRAL_API_KEY. Exits 1 unless the run completes.
"""

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

API = os.environ.get("CORRAL_URL", "http://127.0.0.1:8080").rstrip("/") + "/v1beta"


def request(method, path, body=None):
    """An open answer. Errors end the program with what the server says."""
    asked = urllib.request.Request(
        API + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json", "x-goog-api-key": os.environ.get("CORRAL_API_KEY", "none")},
    )
    try:
        return urllib.request.urlopen(asked, timeout=600)
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {json.loads(error.read())['error']['message']}")
    except urllib.error.URLError as error:
        sys.exit(f"no server at {API}: {error.reason}")


def events(answer):
    """The events of a stream. Ends without `[DONE]` if it was cut."""
    for line in answer:
        data = line.decode().partition("data: ")[2].strip() if line.startswith(b"data: ") else ""
        if data == "[DONE]":
            return
        if data:
            yield json.loads(data)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("--agent", default="general")
    parser.add_argument("--file", action="append", default=[], type=Path, help="into the working directory")
    parser.add_argument("--skill", action="append", default=[], help="a skill that the server has")
    parser.add_argument("--environment", help="the id of one to go on in")
    parser.add_argument("--after", help="the id of the interaction before")
    given = parser.parse_args()
    sources = [
        {
            "type": "inline",
            "target": f"workspace/{file.name}",
            "content": base64.b64encode(file.read_bytes()).decode(),
            "encoding": "base64",
        }
        for file in given.file
    ]
    sources += [{"type": "skill_registry", "source": name} for name in given.skill]
    body = {
        "agent": given.agent,
        "input": given.prompt,
        "environment": given.environment or {"type": "remote", "sources": sources},
        "stream": True,
    }
    if given.after:
        body["previous_interaction_id"] = given.after
    ended = None
    for event in events(request("POST", "/interactions", body)):
        delta = event.get("delta", {})
        if delta.get("type") == "text":
            print(delta["text"], end="", flush=True)
        elif delta.get("type") == "code_execution_call":
            print("$", delta["arguments"].get("code", "").strip(), file=sys.stderr)
        elif delta.get("type") == "code_execution_result":
            print(delta["result"], file=sys.stderr)
        elif event["event_type"] == "interaction.completed":
            ended = event["interaction"]
    if ended is None:
        sys.exit("the stream was cut; the run goes on")
    print(f"\n{ended['status']} {ended['id']} environment {ended.get('environment_id')}", file=sys.stderr)
    if ended["status"] != "completed":
        sys.exit(1)


if __name__ == "__main__":
    main()
