#!/usr/bin/env bash
# Engine, image, then the demo: an agent launched over REST, its steps as they come.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/images.sh
exec .venv/bin/python scripts/demo.py "$@"
