"""Calls the agent `branch-report` with Google's Python SDK and fetches its report.

    pip install 'google-genai>=3'
    python examples/branch-report/report.py report.md

The server: CORRAL_URL, else http://127.0.0.1:8080. Where it has keys: CORRAL_API_KEY.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from google import genai
from google.genai import types

# The scripted model runs the code blocks; a language model reads them as a suggestion.
PROMPT = """\
What did each shop take in, in euros? Write the report.

```python
import csv, pathlib

def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))

rates = {row["currency"]: float(row["euros"]) for row in rows("handbook/rates.csv")}
signs = {"sale": 1, "refund": -1, "training": 0}
lines = []
for shop in rows("shops.csv"):
    sales = rows(f"takings/{shop['shop']}.csv")
    euros = sum(signs[row["kind"]] * float(row["amount"]) for row in sales) * rates[shop["currency"]]
    lines.append(f"{shop['shop']} {shop['city']} {euros if sales else '-'}")
pathlib.Path("/tmp/figures").write_text("\\n".join(lines))
```

```bash
mkdir -p out
python3 /.agents/skills/write-report/scripts/report.py /tmp/figures > out/report.md && echo out/report.md
```
"""

client = genai.Client(
    api_key=os.environ.get("CORRAL_API_KEY", "none"),
    http_options=types.HttpOptions(base_url=os.environ.get("CORRAL_URL", "http://127.0.0.1:8080")),
)

# What the folder says comes along: a new environment begins with its files and sources.
done = client.interactions.create(agent="branch-report", input=PROMPT, environment="remote")
print(done.status, done.environment_id)
if done.status != "completed":
    sys.exit(str(done))
report = client.environments.files.download(environment=done.environment_id, path="workspace/out/report.md")
Path(sys.argv[1]).write_bytes(report)
print(report.decode())
client.environments.delete(id=done.environment_id)
