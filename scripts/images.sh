#!/usr/bin/env bash
# Builds the sandbox images that are missing or out of date, on the engine that answers.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
scripts/engine.sh ensure
exec sandbox-images/build.sh "$@"
