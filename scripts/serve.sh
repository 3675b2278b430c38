#!/usr/bin/env bash
# Serves for real use: engine and image first, then the server in the foreground. Arguments go to `corral serve`.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/images.sh
exec .venv/bin/corral serve "$@"
