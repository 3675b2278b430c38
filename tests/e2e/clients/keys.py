"""A server with API keys: the right one, a wrong one."""

from __future__ import annotations

import json
import os

from tests.e2e.clients.observing import AGENT, client


def main() -> None:
    good, bad = client(key=os.environ["GOOD_KEY"]), client(key="wrong")
    made = good.interactions.create(agent=AGENT, input="x")
    environment = good.environments.create().id
    files = good.environments.files
    files.upload(environment=environment, path="workspace/a", file=b"one")
    # With options of its own the SDK sends no key to the address that it was given for the bytes.
    files.upload(environment=environment, path="workspace/b", file=b"two", http_options={"timeout": 60_000})
    came_back = [files.download(environment=environment, path=f"workspace/{name}").decode() for name in "ab"]
    try:
        bad.interactions.create(agent=AGENT, input="x")
        refused = ["nothing", 0]
    except Exception as error:
        refused = [type(error).__name__, getattr(error, "status_code", 0)]
    print(json.dumps({"status": made.status, "refused": refused, "came_back": came_back}))


if __name__ == "__main__":
    main()
