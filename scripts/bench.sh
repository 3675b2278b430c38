#!/usr/bin/env bash
# Measures; every row stands beside its baseline of the same run.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/images.sh
exec .venv/bin/python -m benchmarks "$@"
