#!/usr/bin/env bash
# One agent over REST, with curl alone: create, go on in the same sandbox as a stream, read back, delete.
# The server: CORRAL_URL, else http://127.0.0.1:8080 (make serve). Where it has keys: CORRAL_API_KEY.
set -euo pipefail
api=${CORRAL_URL:-http://127.0.0.1:8080}/v1beta

ask() { # METHOD PATH [CURL ARGUMENT...]
    local method=$1 path=$2
    shift 2
    curl --silent --show-error --fail-with-body --no-buffer --noproxy 127.0.0.1,localhost --request "$method" "$api$path" \
        --header "content-type: application/json" --header "x-goog-api-key: ${CORRAL_API_KEY:-none}" "$@"
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# A new sandbox with one file in it. The embedded scripted model runs the fenced blocks of the input.
created=$(ask POST /interactions --data @- <<'JSON'
{
  "agent": "antigravity-preview-09-2026",
  "input": "Add up the sales.\n\n```python\nimport pandas\nsales = pandas.read_csv('sales.csv')\nsales.groupby('item').amount.sum()\n```",
  "environment": {
    "type": "remote",
    "sources": [
      {"type": "inline", "target": "workspace/sales.csv", "content": "item,amount\ntea,3\ncoffee,5\ntea,4\n"}
    ]
  }
}
JSON
)
printf '%s\n\n' "$created"
interaction=$(field id <<<"$created")
environment=$(field environment_id <<<"$created")

# The next one goes on in the same sandbox: the file and the variable are still there. `stream` shows each step as it comes.
ask POST /interactions --data @- <<JSON
{
  "agent": "antigravity-preview-09-2026",
  "previous_interaction_id": "$interaction",
  "environment": "$environment",
  "input": "And in all?\n\n\`\`\`python\nint(sales.amount.sum())\n\`\`\`\n\n\`\`\`bash\nwc -l sales.csv\n\`\`\`",
  "stream": true
}
JSON

printf 'The first one as it is stored: %s\n' "$(ask GET "/interactions/$interaction" | field status)"
ask DELETE "/environments/$environment"
echo
