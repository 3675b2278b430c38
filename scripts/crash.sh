#!/usr/bin/env bash
# Kills servers with runs in all states, 500 times by default, and looks whether anything is lost, done twice or left
# over: crash.sh [--kills N] [--seed N] [--lanes N] [--driver docker|local] [--report]. The report is in crash-output/;
# exit code 1 if anything was violated.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
if [[ " $* " != *" local "* ]]; then scripts/images.sh; fi
exec .venv/bin/python -m tests.crash "$@"
