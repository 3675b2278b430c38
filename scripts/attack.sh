#!/usr/bin/env bash
# Attacks sandboxes with default settings, on each runtime that the engine has: attack.sh [RUNTIME]…; runc and runsc
# without arguments. Every attempt is in attack-output/report.md; exit code 1 if a case failed.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
scripts/images.sh

out=attack-output
bin=.venv/bin
rm -rf "$out"
mkdir -p "$out"
wanted=("${@:-runc}")
if (($# == 0)); then wanted+=(runsc); fi

has_runtime() {
    "$bin/python" - "$1" <<'PYTHON'
import sys
import docker
from orchestrator.config import Settings
sys.exit(sys.argv[1] not in docker.DockerClient(base_url=Settings.load().engine_url).info()["Runtimes"])
PYTHON
}

for runtime in "${wanted[@]}"; do
    if ! has_runtime "$runtime"; then
        printf '\n%s\n' "!! $runtime is NOT TRIED: the engine has no such runtime" >&2
        continue
    fi
    printf '\n== attacks on %s\n' "$runtime" >&2
    code=0
    CORRAL_TEST_RUNTIME=$runtime CORRAL_TEST_REPORT=$out "$bin/pytest" -q --tb=line tests/attack || code=$?
    # 1: a case failed, which the report says. Anything else: the suite itself did.
    if ((code > 1)); then exit "$code"; fi
done
exec "$bin/python" -m tests.attack.report "$out" "${wanted[@]}"
