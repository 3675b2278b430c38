#!/usr/bin/env bash
# Everything that must hold before a change is done: test.sh [check|unit|integration|e2e|stress]…; without
# arguments all but stress, which wants the machine for itself.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=.venv/bin
title() { printf '\n== %s\n' "$*" >&2; }

check() {
    title "ruff"
    "$bin/ruff" check .
    "$bin/ruff" format --check --quiet .
    title "mypy"
    mapfile -t programs < <(git ls-files "scripts/*.py" "benchmarks/*.py")
    "$bin/mypy" orchestrator tests "${programs[@]}"
    title "import-linter"
    "$bin/lint-imports"
}

unit() {
    title "unit and conformance"
    "$bin/pytest" -q -n auto --dist loadfile -m "not e2e" tests/unit tests/conformance
}

integration() {
    title "integration"
    "$bin/pytest" -q tests/integration
}

e2e() {
    title "e2e, in real containers"
    if [[ ${CORRAL_TEST_NO_ENGINE:-} == 1 ]]; then
        printf '%s\n' "CORRAL_TEST_NO_ENGINE=1: tests that need a container engine are SKIPPED" >&2
    else
        scripts/engine.sh ensure
        scripts/images.sh
        scripts/clients.sh
        scripts/sshd.sh
    fi
    "$bin/pytest" -q -m e2e tests/e2e
    title "conformance, on every engine and runtime that is here"
    "$bin/pytest" -q -n 2 --dist loadscope -m e2e tests/conformance
}

stress() {
    title "stress: streams"
    "$bin/pytest" -q tests/stress
}

scripts/setup.sh
for part in "${@:-all}"; do
    case $part in
        all) check; unit; integration; e2e ;;
        check | unit | integration | e2e | stress) "$part" ;;
        *) printf '%s\n' "usage: test.sh [check|unit|integration|e2e|stress]…" >&2; exit 2 ;;
    esac
done
