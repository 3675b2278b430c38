#!/usr/bin/env bash
# The whole way: private data, a server, an agent's folder, its deployment, a call by Google's SDK, the report.
#
#     examples/branch-report/walk.sh [report.md]
#
# Ends and removes all that it made but the report. SDK_PYTHON: a Python with google-genai, else python3.
set -euo pipefail
report=$(realpath "${1:-report.md}")
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
export CORRAL_URL=http://127.0.0.1:${PORT:-8089}

# 1. Whose data it is: an SSH server with a repository and files, a key that opens it, and settings that name the key.
.venv/bin/python examples/branch-report/partner.py "$work/chain" &
until [ -f "$work/chain/corral.toml" ]; do
  kill -0 $! 2> /dev/null || exit 1
  sleep 0.1
done

# 2. A server with these settings.
CORRAL_CONFIG=$work/chain/corral.toml .venv/bin/corral serve --data-dir "$work/data" --port "${CORRAL_URL##*:}" 2> "$work/log" &
until curl -sf "$CORRAL_URL/readyz" > /dev/null; do
  kill -0 $! 2> /dev/null || { cat "$work/log"; exit 1; }
  sleep 0.2
done

# 3. The agent: its folder is checked, its example tried, then it is deployed.
.venv/bin/corral agents validate examples/branch-report/agent
.venv/bin/corral agents examples run examples/branch-report/agent
.venv/bin/corral agents deploy examples/branch-report/agent

# 4. Called by its name, with Google's SDK. The report lies here when it is done.
"${SDK_PYTHON:-python3}" examples/branch-report/report.py "$report"
