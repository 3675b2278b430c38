#!/usr/bin/env bash
# Builds the sandbox images that are missing or out of date, on the engine that answers.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
scripts/engine.sh ensure
scripts/disks.sh ensure
# Where our engine could not make a network of its own, builds use that of this machine.
if [[ -f .corral/dockerd.network ]]; then set -- --network "$(<.corral/dockerd.network)" "$@"; fi
exec .venv/bin/python sandbox-images/build.py "$@"
