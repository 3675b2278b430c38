"""A server with API keys: the right one, a wrong one."""

from __future__ import annotations

import json
import os

from tests.e2e.clients.observing import AGENT, client


def main() -> None:
    good, bad = client(key=os.environ["GOOD_KEY"]), client(key="wrong")
    made = good.interactions.create(agent=AGENT, input="x")
    try:
        bad.interactions.create(agent=AGENT, input="x")
        refused = ["nothing", 0]
    except Exception as error:
        refused = [type(error).__name__, getattr(error, "status_code", 0)]
    print(json.dumps({"status": made.status, "refused": refused}))


if __name__ == "__main__":
    main()
