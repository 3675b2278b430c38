#!/usr/bin/env bash
# Stops the engine that we started and removes what we built in this folder. Data folders are left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/engine.sh stop
scripts/disks.sh release
rm -rf build dist ./*.egg-info .venv .venv-clients .venv-clients-2x tests/e2e/clients/js/node_modules .mypy_cache \
    .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-output bench-output attack-output crash-output .corral
find . -name __pycache__ -type d -prune -exec rm -rf {} +
