#!/usr/bin/env bash
# Makes .venv-clients with the official SDK, a client under test: it needs other versions than the server does. Does
# nothing when that is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv-clients/clients-installed
if [[ $stamp -nt constraints-clients.txt ]]; then
    exit 0
fi

scripts/setup.sh
printf '%s\n' "clients: installing google-genai into .venv-clients" >&2
if [[ ! -x .venv-clients/bin/python ]]; then
    .venv/bin/python -m venv .venv-clients
fi
.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-clients.txt 'google-genai>=3,<4'
touch "$stamp"
