"""One agent over REST, with Google's own Python SDK: only the base URL is Corral's.

    pip install 'google-genai>=3'
    python examples/quickstart/sdk.py

The server: CORRAL_URL, else http://127.0.0.1:8080 (make serve). Where it has keys: CORRAL_API_KEY.
"""

from __future__ import annotations

import base64
import os

from google import genai
from google.genai import types

AGENT = "antigravity-preview-09-2026"
PROMPT = """\
Add up the sales.

```python
import pandas
sales = pandas.read_csv("sales.csv")
sales.groupby("item").amount.sum()
```
"""
FOLLOW_UP = """\
And in all?

```python
print("in all:", sales.amount.sum())
```
"""

client = genai.Client(
    api_key=os.environ.get("CORRAL_API_KEY", "none"),
    http_options=types.HttpOptions(base_url=os.environ.get("CORRAL_URL", "http://127.0.0.1:8080")),
)

first = client.interactions.create(
    agent=AGENT,
    input=PROMPT,
    environment={
        "type": "remote",
        "sources": [
            {
                "type": "inline",
                "target": "workspace/sales.csv",
                "content": base64.b64encode(b"item,amount\ntea,3\ncoffee,5\ntea,4\n").decode(),
                "encoding": "base64",
            }
        ],
    },
)
print(first.status, first.environment_id)
print(first.output_text)

# The same conversation in the same sandbox, its events as they come.
stream = client.interactions.create(
    agent=AGENT,
    input=FOLLOW_UP,
    previous_interaction_id=first.id,
    environment=first.environment_id,
    stream=True,
)
for event in stream:
    print(event.event_type, getattr(event, "delta", ""))
print()
print(client.interactions.get(id=first.id).status)
client.environments.delete(id=str(first.environment_id))
